"""The search of one task, in two stages: layouts with their loops, then loops alone.

A proposed layout rebuilds the loop space. It gets the loops that were best in other layouts,
brought into the new space, and a few rounds of search; its best latency is what the proposer is
told. Then the best layout is kept and the rest of the budget goes to its loops, coordinate descent
last. If nothing moves there any more, the default's layout gets the same: neighbours in the network
may not want the best one, and then loops decide. Where there is only one layout, loops are all
there is from the beginning.

Source: ALT (EuroSys 2023, arXiv 2210.12415), joint stage and loop-only stage; that the parent
layout's tiles are brought into the rebuilt space is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from typing import TYPE_CHECKING, Literal

import numpy as np

from tuner.choices import Config
from tuner.cost_model import Floats
from tuner.descent import CoordinateDescent
from tuner.options import Options, searcher
from tuner.scores import Scores
from tuner.search import Rng, Score, Search
from tuner.task import Candidate, Measurement, Task

if TYPE_CHECKING:
    from tuner.agent import Agent

Stage = Literal["joint", "loops", "descent"]

IMPROVEMENT = 0.99
"""A round counts as progress if the best takes less than this part of what it took before."""

IDLE_LOOPS = 2
"""After so many rounds without progress coordinate descent takes over."""

_KEPT = 4096
"""So many layouts with loops of others are remembered; bringing them over takes time."""


@dataclass(frozen=True)
class Incumbent:
    """The best candidate of a task so far."""

    candidate: Candidate
    seconds: float


class TaskSearch:
    """Proposes candidates of one task; to be told what came out.

    Attributes:
        task: what is searched.
        measured: what is known of every candidate, resumed ones included.
        scores: rank what is proposed.
        spent: the part of the budget that is gone; whoever has the budget keeps it up to date.
        rounds: how many batches were told.
        idle: how many of them in a row brought nothing, in this stage.
        second: whether the loops of the default's layout are searched, after those of the best.
    """

    def __init__(
        self,
        task: Task,
        options: Options,
        rng: Rng,
        known: Mapping[Candidate, Measurement] | None = None,
        agent: Agent | None = None,
    ) -> None:
        """The search of a task.

        Args:
            task: what is searched.
            options: who proposes, and the shares of the stages.
            rng: makes all random decisions.
            known: measurements from a log; they are not asked for again. What is not among the
                candidates of this task, as it may be in old logs, is left out.
            agent: what its `ppo` searchers learn with; each begins from nothing by default.
        """
        self.task = task
        self.options = options
        self.rng = rng
        self.agent = agent
        self.measured: dict[Candidate, Measurement] = {}
        self.spent = 0.0
        self.rounds = 0
        self.idle = 0
        self.second = False
        layout = task.layouts.default()
        self._default = Candidate(layout, task.loops(layout).default())
        self.scores = Scores(task, self._default)
        self._layouts = searcher(options.layouts, task.layouts, rng, self._promise, agent)
        self._searches: dict[Config, Search] = {}
        self._brought = lru_cache(_KEPT)(self._bring)
        self._finishing: CoordinateDescent | None = None
        self._joint = options.joint_share > 0 and task.layouts.enumerate(1) is None
        self._layout: Config | None = None
        self._left = 0
        for candidate, measurement in (known or {}).items():
            if self.allows(candidate):
                self._remember(candidate, measurement)
        for layout in {c.layout: None for c in self.measured}:
            self._judge(layout)

    @property
    def default(self) -> Candidate:
        """What the compiler would do without tuning."""
        return self._default

    @property
    def best(self) -> Incumbent | None:
        """The fastest candidate that was measured; None while all have failed."""
        good = [(m.best, n, c) for n, (c, m) in enumerate(self.measured.items()) if m.ok]
        if not good:
            return None
        seconds, _, candidate = min(good)
        return Incumbent(candidate, seconds)

    @property
    def seconds(self) -> float:
        """Of the fastest candidate; infinite while all have failed."""
        return self.best.seconds if self.best is not None else inf

    @property
    def stage(self) -> Stage:
        """What the last round was for; before the first, what it will be for."""
        if self._finishing is not None:
            return "descent"
        return "joint" if self._joint else "loops"

    @property
    def done(self) -> bool:
        """Whether its rounds bring nothing any more."""
        return not self._joint and self.idle >= self.options.patience and self._is_last

    def allows(self, candidate: Candidate) -> bool:
        """Whether it may be asked for: without a joint stage layouts stay as they are."""
        if self.options.joint_share == 0 and candidate.layout != self._default.layout:
            return False
        return self.task.layouts.contains(candidate.layout) and self.task.loops(
            candidate.layout
        ).contains(candidate.loops)

    def ask(self, count: int) -> list[Candidate]:
        """Candidates to measure, at most this many; none if there is nothing left to try."""
        if self._default not in self.measured:
            rest = self._proposed(count - 1)
            return [self._default, *(c for c in rest if c != self._default)][: max(count, 0)]
        return self._proposed(count)

    def tell(self, results: Sequence[tuple[Candidate, Measurement]]) -> None:
        """What a round brought; an empty one counts, too."""
        layout = None if self._joint else self._chosen
        before = self._seconds_in(layout)
        for candidate, measurement in results:
            self._remember(candidate, measurement)
        self.rounds += 1
        self.idle = 0 if self._seconds_in(layout) < before * IMPROVEMENT else self.idle + 1
        if self._layout is not None:
            self._left -= 1
            if self._left <= 0:
                self._judge(self._layout)
        if self.idle >= self.options.patience:
            if self._joint and self._layout is None:
                self._end_joint_stage()
            elif not self._joint and not self._is_last:
                self._turn_to_default()

    def _remember(self, candidate: Candidate, measurement: Measurement) -> None:
        self.measured[candidate] = measurement
        seconds = measurement.best if measurement.ok else None
        self._search(candidate.layout).tell([(candidate.loops, seconds)])
        if self._finishing is not None and candidate.layout == self._chosen:
            self._finishing.tell([(candidate.loops, seconds)])

    def _proposed(self, count: int) -> list[Candidate]:
        found: list[Candidate] = []
        if count <= 0:
            return found
        if self._joint and self._layout is None and self.spent >= self.options.joint_share:
            self._end_joint_stage()
        if self._joint:
            found = self._of_joint_stage(count)
            if found:
                return found
        found = self._of_loops(count)
        if not found and not self._is_last:
            self._turn_to_default()
            found = self._of_loops(count)
        return found

    def _of_joint_stage(self, count: int) -> list[Candidate]:
        """A new layout starts with the loops that are best elsewhere, and with its defaults."""
        while True:
            if self._layout is None:
                proposed = self._layouts.ask(1)
                if not proposed:
                    self._end_joint_stage()
                    return []
                self._layout, self._left = proposed[0], self.options.layout_rounds
            found = self._begun(self._layout, count)
            if found:
                return found
            self._judge(self._layout)

    def _of_loops(self, count: int) -> list[Candidate]:
        layout, found = self._chosen, list[Candidate]()
        if self._finishing is None:
            found = self._begun(layout, count)
            if self.idle >= IDLE_LOOPS or not found:
                self._finishing = self._descent(layout)
        if self._finishing is not None and len(found) < count:
            more = [Candidate(layout, c) for c in self._finishing.ask(count - len(found))]
            found += [c for c in more if c not in self.measured and c not in found]
        return found

    def _begun(self, layout: Config, count: int) -> list[Candidate]:
        """Loops that are best elsewhere, and what this layout's own search asks for."""
        best, first = self.best, list[Candidate]()
        if best is not None and best.candidate.layout != layout:
            near = self._brought(layout, best.candidate.loops)
            if near not in self.measured and not self.scores.hopeless(near, self.options.hopeless):
                first.append(near)
        rest = self._worthwhile(layout, count - len(first))
        return [c for c in dict.fromkeys([*first, *rest]) if c not in self.measured]

    def _judge(self, layout: Config) -> None:
        """Tell the proposer how good a layout turned out to be."""
        seconds = self._seconds_in(layout)
        self._layouts.tell([(layout, seconds if isfinite(seconds) else None)])
        self._layout = None

    def _end_joint_stage(self) -> None:
        self._joint, self.idle = False, 0

    def _turn_to_default(self) -> None:
        self.second, self.idle, self._finishing = True, 0, None

    def _worthwhile(self, layout: Config, count: int) -> list[Candidate]:
        """Asks until there are enough candidates that the analytic estimate does not rule out."""
        found: list[Candidate] = []
        for _ in range(4):
            asked = self._search(layout).ask(count - len(found))
            if not asked:
                break
            for candidate in (Candidate(layout, loops) for loops in asked):
                hopeless = self.scores.hopeless(candidate, self.options.hopeless)
                if not hopeless or candidate == self._default:
                    found.append(candidate)
        return found

    def _search(self, layout: Config) -> Search:
        if layout not in self._searches:
            self._searches[layout] = searcher(
                self.options.loops,
                self.task.loops(layout),
                self.rng,
                self._score_in(layout),
                self.agent,
            )
        return self._searches[layout]

    def _descent(self, layout: Config) -> CoordinateDescent:
        best = self.best
        start = best.candidate.loops if best is not None else None
        descent = CoordinateDescent(self.task.loops(layout), start, self.rng)
        for candidate, measurement in self.measured.items():
            if candidate.layout == layout:
                seconds = measurement.best if measurement.ok else None
                descent.tell([(candidate.loops, seconds)])
        return descent

    @property
    def _chosen(self) -> Config:
        """The layout whose loops are searched after the joint stage."""
        best = self.best
        if best is None or self.second:
            return self._default.layout
        return best.candidate.layout

    @property
    def _is_last(self) -> bool:
        return self._chosen == self._default.layout

    def _seconds_in(self, layout: Config | None) -> float:
        """Of the fastest candidate in a layout, or in any; infinite while all have failed."""
        if layout is None:
            return self.seconds
        times = [m.best for c, m in self.measured.items() if c.layout == layout and m.ok]
        return min(times, default=inf)

    def _score_in(self, layout: Config) -> Score:
        return lambda configs: self.scores.of([Candidate(layout, loops) for loops in configs])

    def _promise(self, layouts: Sequence[Config]) -> Floats:
        """Layouts by their default loops and those that are best elsewhere."""
        scores = self.scores.of([self._brought(layout, None) for layout in layouts])
        best = self.best
        if best is None:
            return scores
        near = [self._brought(layout, best.candidate.loops) for layout in layouts]
        return np.maximum(scores, self.scores.of(near))

    def _bring(self, layout: Config, loops: Config | None) -> Candidate:
        """A layout with loops that come from another one; with its default loops for None."""
        space = self.task.loops(layout)
        return Candidate(layout, space.default() if loops is None else space.project(loops))
