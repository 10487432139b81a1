"""Progress, for people: the stages of compiling and the rounds of tuning.

A bar on a terminal; elsewhere a line for each stage and each round, which a log file keeps well.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TextIO

from tqdm import tqdm

from tuner.driver import Round
from tuner.task import Status


@dataclass(frozen=True)
class Budget:
    """When tuning will end.

    Attributes:
        trials: after so many measurements; None for no bound.
        seconds: after so long; None for no bound.
    """

    trials: int | None = None
    seconds: float | None = None

    def spent(self, trials: int, elapsed: float) -> float:
        """The part of the budget that is gone, from 0 to 1; of two bounds, the nearer one.

        Example:
            >>> Budget(trials=100, seconds=60).spent(10, 30.0)
            0.5
        """
        parts = [0.0]
        parts += [trials / self.trials] if self.trials else []
        parts += [elapsed / self.seconds] if self.seconds else []
        return min(1.0, max(parts))

    def left(self, trials: int, elapsed: float) -> float | None:
        """Seconds until the end, as far as can be foreseen; None without a budget."""
        spent = self.spent(trials, elapsed)
        return elapsed * (1 - spent) / spent if spent else self.seconds


@dataclass
class _Seen:
    """What the rounds of one task brought so far."""

    measured: Counter[Status] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)


class Progress:
    """Says on a stream how far something is.

    Called as (stage, done, total) while something is compiled; `round` follows tuning.
    """

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        """Nothing is printed yet.

        Args:
            stream: a bar is drawn if it is a terminal.
            quiet: whether to say nothing at all.
        """
        self._stream = stream
        self._quiet = quiet
        self._stage = ""
        self._start = time.monotonic()
        self._bars: list[tqdm] = []
        self._budget = Budget()
        self._seen: dict[str, _Seen] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage has begun."""
        if self._quiet:
            return
        if self._stream.isatty():
            if len(self._bars) > 1:
                self.close()
            (bar,) = self._drawn("{desc:<10} |{bar:30}| {elapsed}")
            bar.total, bar.n = total, done
            bar.set_description_str(stage)
        elif stage != self._stage:
            self._print_timed(stage)
        self._stage = stage

    def tuning(self, budget: Budget) -> None:
        """Tuning has begun; rounds follow."""
        self._budget = budget

    def round(self, each: Round) -> None:
        """A round of tuning is over."""
        seen = self._seen.setdefault(each.task, _Seen())
        seen.measured.update(each.measured)
        seen.rounds[each.stage] += 1
        if self._quiet:
            return
        stage = f"{each.stage} {seen.rounds[each.stage]}"
        trials = f"trials {each.trials}"
        trials += f"/{self._budget.trials}" if self._budget.trials else ""
        found = f"{counted(seen.measured)}  best {_was(each.best, each.default)}"
        network = ""
        if math.isfinite(each.network):  # not until every task has a time
            network = f"  network {_was(each.network, each.network_default)}"
        if self._stream.isatty():
            # The name last: it may be long, and what does not fit is cut off.
            self._draw(each, f"{trials}{network}", f"{stage}  {found}  {each.task}")
        else:
            self._print_timed(f"{each.task}  {stage}  {trials}  {found}{network}")
        if self._budget.spent(each.trials, each.elapsed) == 1.0:
            self("measure the best again", 0, 1)

    def note(self, message: str) -> None:
        """Say something without disturbing the bar; a signal handler may call it, too."""
        try:
            if self._bars:
                tqdm.write(message, file=self._stream)
            else:
                self._print(message)
        except RuntimeError:  # the signal came while a line was being written
            os.write(self._stream.fileno(), f"\n{message}\n".encode())

    def close(self) -> None:
        """Take the bars away."""
        while self._bars:
            self._bars.pop().close()

    def _print_timed(self, text: str) -> None:
        self._print(f"[{time.monotonic() - self._start:4.0f}s] {text}")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _draw(self, each: Round, summary: str, task: str) -> None:
        if len(self._bars) == 1:
            self.close()
        bar, line = self._drawn("tuning |{bar:20}| {desc}", "{desc}")
        left = self._budget.left(each.trials, each.elapsed)
        clock = tqdm.format_interval(each.elapsed)
        clock += f", {tqdm.format_interval(left)} left" if left is not None else ""
        bar.total, bar.n = 1.0, self._budget.spent(each.trials, each.elapsed)
        bar.set_description_str(f"{clock}  {summary}")
        line.set_description_str(task)

    def _drawn(self, *formats: str) -> list[tqdm]:
        """The bars on the screen, one under the other."""
        for row in range(len(self._bars), len(formats)):
            self._bars.append(
                tqdm(
                    file=self._stream,
                    leave=False,
                    position=row,
                    bar_format=formats[row],
                    dynamic_ncols=True,
                )
            )
        return self._bars


def counted(measured: Counter[Status]) -> str:
    """Measurements by how they ended.

    Example:
        >>> counted(Counter({Status.ok: 61, Status.timeout: 1, Status.build: 2}))
        'ok 61 wrong 0 failed 3'
    """
    ok, wrong = measured[Status.ok], measured[Status.wrong]
    return f"ok {ok} wrong {wrong} failed {measured.total() - ok - wrong}"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, with three digits that say something.

    Example:
        >>> [milliseconds(seconds) for seconds in (4.123e-6, 0.00131, 0.0131, 1.25, math.inf)]
        ['0.00412', '1.310', '13.1', '1250', '-']
    """
    if not math.isfinite(seconds):
        return "-"
    value = 1e3 * seconds
    if value < 1:
        return f"{value:.3g}"
    return f"{value:.{3 if value < 10 else 1 if value < 100 else 0}f}"


def _was(now: float, before: float) -> str:
    if not math.isfinite(now):
        return "-"
    if not math.isfinite(before):
        return f"{milliseconds(now)} ms"
    gain = f", {before / now:.2f}x" if now else ""
    return f"{milliseconds(now)} ms (was {milliseconds(before)}{gain})"
