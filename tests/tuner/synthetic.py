"""Tasks whose times follow a formula, and what measures them: no compiler, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np

from tuner.choices import Choose
from tuner.contents import Contents
from tuner.driver import tune_tasks
from tuner.log import TuningLog
from tuner.options import Options
from tuner.records import Header
from tuner.space import Space
from tuner.task import Candidate, Measurement, Status

HEADER = Header({"mcpu": "znver4", "threads": 2}, {"alt": "0.1.0"})

LOOPS_ONLY = 3e-3
"""The optimum of `Synthetic` in its default layout."""

OPTIMUM = 1e-3


@dataclass(frozen=True)
class Synthetic:
    """Layouts and loops depend on each other: each layout has a best tile of its own.

    By rows the default is 4 ms and tiles of 4 give 3 ms. In blocks the default tiles are slower
    than that; in blocks of 8 with tiles of 32 it takes 1 ms.
    """

    key: str = "conv"
    scale: float = 1.0
    weight: int = 1
    operations: float = 1e6

    @property
    def name(self) -> str:
        return f"the {self.key}"

    @property
    def layouts(self) -> Space:
        def program(choose: Choose) -> None:
            if choose.one_of("order", ("rows", "blocks"), "rows") == "blocks":
                choose.tile("block", 16, 16)

        return Space(program)

    def loops(self, layout) -> Space:
        def program(choose: Choose) -> None:
            tile = choose.tile("tile", 64, 8)
            if layout["order"] == "blocks":
                choose.tile("inner", tile, min(2, tile))
            choose.one_of("unroll", (0, 4, 16), 0)

        return Space(program)

    def seconds(self, candidate: Candidate) -> float:
        return 1e-3 * self.scale * self._milliseconds(candidate)

    def _milliseconds(self, candidate: Candidate) -> float:
        layout, loops = candidate.layout, candidate.loops
        unrolled = 0.1 * (loops["unroll"] != 16)
        if layout["order"] == "rows":
            return 3 + abs(log2(loops["tile"] / 4)) + unrolled
        away = abs(log2(loops["tile"] / 32)) + abs(log2(loops["inner"] / 4))
        return 1 + abs(log2(layout["block"] / 8)) + away + unrolled

    def features(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array(
            [
                [c.layout["order"] == "rows", c.loops["tile"], c.layout.get("block", 0)]
                for c in candidates
            ],
            float,
        )

    def estimate(self, candidate: Candidate) -> float:
        """Right about what is far off, and no help with the rest."""
        return 1e-3 * max(1.0, round(self._milliseconds(candidate) / 4))


class Clock:
    """A clock that only moves when something is measured."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Measured:
    """Measures by formula, and keeps what it was asked.

    Attributes:
        cost: seconds a candidate takes to measure.
        fails: which candidates fail.
        noise: the samples of the n-th measurement are so many times what the formula says.
        interrupt: after so many candidates the user presses Ctrl-C.
    """

    clock: Clock = field(default_factory=Clock)
    cost: float = 0.1
    fails: Callable[[Candidate], bool] = lambda _: False
    noise: Callable[[int], float] = lambda _: 1.0
    interrupt: int | None = None
    batches: list[tuple[str, list[Candidate]]] = field(default_factory=list)

    @property
    def asked(self) -> list[tuple[str, Candidate]]:
        return [(key, candidate) for key, batch in self.batches for candidate in batch]

    def measure(self, task, candidates: Sequence[Candidate]) -> list[Measurement]:
        before = len(self.asked)
        if self.interrupt is not None and before + len(candidates) > self.interrupt:
            raise KeyboardInterrupt
        self.batches.append((task.key, list(candidates)))
        self.clock.seconds += self.cost * len(candidates)
        found = []
        for number, candidate in enumerate(candidates, before):
            if self.fails(candidate):
                found.append(Measurement(Status.build, message="it is like that"))
            else:
                seconds = task.seconds(candidate) * self.noise(number)
                found.append(Measurement(Status.ok, (seconds,) * 3))
        return found


def memory(*logs):
    """A log in memory that begins with the records of others."""
    records = tuple(record for log in logs for record in log.records)
    return TuningLog(Contents({HEADER.id: HEADER}, records, ()))


def searched(outcome, measurer: Measured):
    """What was asked before the fastest were measured again."""
    return measurer.asked[: outcome.trials]


def tuned(tasks, log, measurer: Measured | None = None, header=HEADER, **options):
    """The outcome, and all rounds."""
    measurer = measurer or Measured()
    rounds = []
    keep = {k: options.pop(k) for k in ("model", "others") if k in options}
    outcome = tune_tasks(
        {task.key: task for task in tasks},
        measurer,
        log,
        header,
        Options(**{"joint_share": 0.5} | options),  # these small spaces are soon searched
        clock=measurer.clock,
        stamp=lambda: "2025-01-31T12:00:00Z",
        observe=rounds.append,
        **keep,
    )
    return outcome, rounds
