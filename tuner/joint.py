"""The search of one task, in two stages: layouts with their loops, then loops alone.

A proposed layout rebuilds the loop space. It gets the loops that were best in other layouts,
brought into the new space, and a few rounds of search; its best latency is what the proposer is
told. Then the best layout is kept and the rest of the budget goes to its loops, coordinate descent
last.

Source: ALT (EuroSys 2023, arXiv 2210.12415), joint stage and loop-only stage; that the parent
layout's tiles are brought into the rebuilt space is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from tuner.choices import Config
from tuner.cost_model import CostModel, Floats
from tuner.descent import CoordinateDescent
from tuner.options import Options, searcher
from tuner.search import Rng, Score, Search
from tuner.task import Candidate, Measurement, Task

Stage = Literal["joint", "loops", "descent", "done"]

IMPROVEMENT = 0.99
"""A round counts as progress if the best takes less than this part of what it took before."""


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
        rounds: how many batches were told.
        idle: how many of them in a row brought nothing.
        model: ranks what is proposed; without one the analytic estimate does.
    """

    def __init__(
        self,
        task: Task,
        options: Options,
        rng: Rng,
        known: Mapping[Candidate, Measurement] | None = None,
        rounds: int = 8,
    ) -> None:
        """The search of a task.

        Args:
            task: what is searched.
            options: who proposes, and the shares of the stages.
            rng: makes all random decisions.
            known: measurements from a log; they are not asked for again.
            rounds: how many rounds the budget is likely to give to this task.
        """
        self.task = task
        self.options = options
        self.rng = rng
        self.measured: dict[Candidate, Measurement] = {}
        self.rounds = 0
        self.idle = 0
        self.expected_rounds = rounds
        self._default = Candidate(task.layouts.default(), Config({}))
        self._default = Candidate(self._default.layout, task.loops(self._default.layout).default())
        self._layouts = searcher(options.layouts, task.layouts, rng, self._promise)
        self._searches: dict[Config, Search] = {}
        self._finishing: CoordinateDescent | None = None
        self._layout: Config | None = None
        self._left = 0
        self.model: CostModel | None = None
        self._estimates: dict[Candidate, float] = {}
        for candidate, measurement in (known or {}).items():
            if task.layouts.contains(candidate.layout):
                self._remember(candidate, measurement)

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
    def stage(self) -> Stage:
        """What the next round is for."""
        if self._finishing is not None:
            return "descent"
        joint = self.options.joint_share * self.expected_rounds
        return "joint" if self._layout is not None or self.rounds < joint else "loops"

    def ask(self, count: int) -> list[Candidate]:
        """Candidates to measure, at most this many; none if there is nothing left to try."""
        if self._default not in self.measured:
            rest = self._proposed(count - 1)
            return [self._default, *(c for c in rest if c != self._default)]
        return self._proposed(count)

    def tell(self, results: Sequence[tuple[Candidate, Measurement]]) -> None:
        """What a round brought; an empty one counts, too."""
        before = self.best.seconds if self.best is not None else inf
        for candidate, measurement in results:
            self._remember(candidate, measurement)
        self.rounds += 1
        after = self.best.seconds if self.best is not None else inf
        self.idle = 0 if after < before * IMPROVEMENT else self.idle + 1
        if self._layout is not None:
            self._left -= 1
            if self._left <= 0:
                self._judge(self._layout)

    def _remember(self, candidate: Candidate, measurement: Measurement) -> None:
        self.measured[candidate] = measurement
        seconds = measurement.best if measurement.ok else None
        self._search(candidate.layout).tell([(candidate.loops, seconds)])
        if self._finishing is not None and candidate.layout == self._chosen():
            self._finishing.tell([(candidate.loops, seconds)])

    def _proposed(self, count: int) -> list[Candidate]:
        found: list[Candidate] = []
        if self.stage == "joint":
            found = self._of_joint_stage(count)
        if not found and self.stage != "descent":
            layout = self._chosen()
            found = self._filtered(layout, self._search(layout), count)
            if self.idle >= 2 or not found:
                self._finishing = self._descent(layout)
        if self._finishing is not None and len(found) < count:
            layout = self._chosen()
            more = [Candidate(layout, c) for c in self._finishing.ask(count - len(found))]
            found += [c for c in more if c not in self.measured and c not in found]
        return found

    def _of_joint_stage(self, count: int) -> list[Candidate]:
        """A new layout starts with its default loops and those that are best elsewhere."""
        found: list[Candidate] = []
        if self._layout is None:
            proposed = self._layouts.ask(1)
            if not proposed:
                return found
            self._layout = proposed[0]
            self._left = self.options.layout_rounds
        search = self._search(self._layout)
        best = self.best
        if best is not None and best.candidate.layout != self._layout:
            near = self.task.loops(self._layout).project(best.candidate.loops)
            found.append(Candidate(self._layout, near))
        found += self._filtered(self._layout, search, count - len(found))
        found = [c for c in dict.fromkeys(found) if c not in self.measured]
        if not found:
            self._judge(self._layout)
            return self._of_joint_stage(count)
        return found

    def _judge(self, layout: Config) -> None:
        """Tell the proposer how good a layout turned out to be."""
        times = [m.best for c, m in self.measured.items() if c.layout == layout and m.ok]
        self._layouts.tell([(layout, min(times, default=None))])
        self._layout = None

    def _filtered(self, layout: Config, search: Search, count: int) -> list[Candidate]:
        """Asks until enough candidates are left that the analytic model does not rule out."""
        found: list[Candidate] = []
        for _ in range(4):
            if len(found) >= count:
                break
            asked = search.ask(count - len(found))
            if not asked:
                break
            candidates = [Candidate(layout, loops) for loops in asked]
            least = min(self._estimates.values(), default=inf)
            for candidate in candidates:
                estimate = self._estimates[candidate] = self.task.estimate(candidate)
                least = min(least, estimate)
                if estimate <= self.options.hopeless * least or candidate == self._default:
                    found.append(candidate)
        return found

    def _search(self, layout: Config) -> Search:
        if layout not in self._searches:
            self._searches[layout] = searcher(
                self.options.loops, self.task.loops(layout), self.rng, self._score_in(layout)
            )
        return self._searches[layout]

    def _descent(self, layout: Config) -> CoordinateDescent:
        best = self.best
        start = best.candidate.loops if best is not None else None
        descent = CoordinateDescent(self.task.loops(layout), start, self.rng)
        descent.tell(
            [
                (c.loops, m.best if m.ok else None)
                for c, m in self.measured.items()
                if c.layout == layout
            ]
        )
        return descent

    def _chosen(self) -> Config:
        best = self.best
        return best.candidate.layout if best is not None else self._default.layout

    # --- the cost model -------------------------------------------------------------------------

    def _score_in(self, layout: Config) -> Score:
        def score(configs: Sequence[Config]) -> Floats:
            return self._score([Candidate(layout, loops) for loops in configs])

        return score

    def _score(self, candidates: Sequence[Candidate]) -> Floats:
        if self.model is None:
            return np.array([-self.task.estimate(c) for c in candidates])
        return self.model.predict(self.task.features(candidates))

    def _promise(self, layouts: Sequence[Config]) -> Floats:
        """Layouts by their default loops and those that are best elsewhere."""
        best = self.best
        scores: list[float] = []
        for layout in layouts:
            space = self.task.loops(layout)
            tries = [space.default()]
            if best is not None:
                tries.append(space.project(best.candidate.loops))
            scores.append(float(np.max(self._score([Candidate(layout, t) for t in tries]))))
        return np.array(scores)
