"""Tuning a network: which task is next, what is measured, what is written down, when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from tuner.cost_model import CostModel, Group
from tuner.joint import Incumbent, Stage, TaskSearch
from tuner.log import TuningLog
from tuner.options import Options
from tuner.records import Header
from tuner.task import Candidate, Measurement, Measurer, Status, Task

REMEASURED = 3
"""How many of the fastest candidates of a task are measured again at the end, and the default."""

LEAST_ROUNDS = 2
"""Every task gets this many rounds before the most promising ones go on."""


@dataclass(frozen=True)
class Round:
    """What one batch brought, for whoever watches.

    Attributes:
        task: its name.
        stage: what the batch was for.
        trials: measurements so far, of all tasks.
        measured: how the batch ended, by status.
        best: of this task, in seconds; infinite while all have failed.
        default: what the compiler's own choice takes, in seconds.
        network: the sum over all tasks at their best, in seconds, each as often as it occurs.
        network_default: likewise with the compiler's own choices.
        elapsed: seconds since the start.
        tasks_done: tasks that will get no more rounds.
    """

    task: str
    stage: Stage
    trials: int
    measured: Mapping[Status, int]
    best: float
    default: float
    network: float
    network_default: float
    elapsed: float
    tasks_done: int


@dataclass
class Outcome:
    """What tuning found.

    Attributes:
        best: the fastest candidate of each task, by key; tasks of which all failed are left out.
        default: seconds of the compiler's own choice, by key.
        trials: how many measurements were made.
        interrupted: whether the user ended it.
        reason: why it ended.
        where: seconds spent: `measuring`, and `searching` for everything else.
    """

    best: dict[str, Incumbent] = field(default_factory=dict[str, Incumbent])
    default: dict[str, float] = field(default_factory=dict[str, float])
    trials: int = 0
    interrupted: bool = False
    reason: str = ""
    where: dict[str, float] = field(default_factory=dict[str, float])


def tune_tasks(
    tasks: Mapping[str, Task],
    measurer: Measurer,
    log: TuningLog,
    header: Header,
    options: Options,
    *,
    clock: Callable[[], float],
    stamp: Callable[[], str],
    observe: Callable[[Round], None] = lambda _: None,
    model: CostModel | None = None,
    others: Sequence[TuningLog] = (),
) -> Outcome:
    """Search every task until the budget ends or nothing moves.

    Args:
        tasks: by key.
        measurer: builds, checks and times candidates.
        log: every measurement is appended to it; what it holds already is not measured again.
        header: of this machine and program.
        options: budgets and methods.
        clock: a monotonic clock, in seconds.
        stamp: the time of day for records, in ISO 8601 with an offset.
        observe: called after every round.
        model: learns from the log and the measurements, and ranks what is built.
        others: logs that the model learns from, too.
    """
    return _Run(
        tasks, measurer, log, header, options, clock, stamp, observe, model, others
    ).finish()


class _Run:
    def __init__(
        self,
        tasks: Mapping[str, Task],
        measurer: Measurer,
        log: TuningLog,
        header: Header,
        options: Options,
        clock: Callable[[], float],
        stamp: Callable[[], str],
        observe: Callable[[Round], None],
        model: CostModel | None,
        others: Sequence[TuningLog],
    ) -> None:
        self.tasks, self.measurer, self.log, self.header = tasks, measurer, log, header
        self.options, self.clock, self.stamp, self.observe = options, clock, stamp, observe
        self.model = model
        self.started = clock()
        self.measuring = 0.0
        self.outcome = Outcome()
        self.learnt = 0
        rng = np.random.default_rng(options.seed)
        rounds = self._likely_rounds()
        self.searches = {
            key: TaskSearch(task, options, child, log.seen(key, header.target_id), rounds=rounds)
            for (key, task), child in zip(tasks.items(), rng.spawn(len(tasks)), strict=True)
        }
        self.others = {
            key: _merged([other.seen(key, header.target_id) for other in others]) for key in tasks
        }
        self.finished: set[str] = set()

    def _likely_rounds(self) -> int:
        """How many rounds a task will get, at ten candidates a second."""
        options = self.options
        trials = min(options.trials or inf, options.seconds * 10 if options.seconds else inf)
        if trials == inf:
            return 12
        return max(LEAST_ROUNDS, round(trials / options.batch / max(len(self.tasks), 1)))

    def finish(self) -> Outcome:
        outcome = self.outcome
        try:
            outcome.reason = self._search()
            self._measure_again()
        except KeyboardInterrupt:
            outcome.interrupted, outcome.reason = True, "interrupted"
        for key, search in self.searches.items():
            if search.best is not None:
                outcome.best[key] = search.best
            outcome.default[key] = self._default_seconds(search)
        elapsed = self.clock() - self.started
        outcome.where = {"measuring": self.measuring, "searching": elapsed - self.measuring}
        self.log.flush()
        return outcome

    def _search(self) -> str:
        while True:
            left = self._left()
            if left <= 0:
                return f"{self.outcome.trials} trials were made"
            if self.options.seconds and self.clock() - self.started >= self.options.seconds:
                return f"{self.options.seconds:g} seconds are over"
            key = self._next()
            if key is None:
                return "nothing moves any more"
            search = self.searches[key]
            self._learn()
            search.model = self.model if self.learnt else None
            stage = search.stage
            batch = search.ask(int(min(self.options.batch, left)))
            results = self._measured(key, batch)
            search.tell(results)
            if not batch or search.idle >= self.options.patience:
                self.finished.add(key)
            self.observe(self._round(key, stage, results))

    def _left(self) -> float:
        return inf if self.options.trials is None else self.options.trials - self.outcome.trials

    def _next(self) -> str | None:
        """The task with the greatest expected gain; each gets a few rounds first."""
        open_ones = [key for key in self.searches if key not in self.finished]
        if not open_ones:
            return None
        least = min(open_ones, key=lambda key: self.searches[key].rounds)
        if self.searches[least].rounds < LEAST_ROUNDS:
            return least
        fastest = max(
            (
                self.tasks[key].operations / search.best.seconds
                for key, search in self.searches.items()
                if search.best is not None
            ),
            default=inf,
        )

        def gain(key: str) -> float:
            search, task = self.searches[key], self.tasks[key]
            if search.best is None:
                return 0.0
            headroom = search.best.seconds - task.operations / fastest
            # A tenth of the time is always worth hoping for: the fastest may be slow, too.
            hope = max(headroom, 0.1 * search.best.seconds)
            return task.weight * hope * 0.5**search.idle / (1 + 0.1 * search.rounds)

        return max(open_ones, key=gain)

    def _measured(
        self, key: str, batch: Sequence[Candidate]
    ) -> list[tuple[Candidate, Measurement]]:
        if not batch:
            return []
        start = self.clock()
        measurements = self.measurer.measure(self.tasks[key], batch)
        self.measuring += self.clock() - start
        results = list(zip(batch, measurements, strict=True))
        for candidate, measurement in results:
            self.log.append(
                self.header.record(key, candidate, measurement, self.stamp(), self.tasks[key].name)
            )
        self.outcome.trials += len(results)
        return results

    def _learn(self) -> None:
        """Fit the model when there is a tenth more to learn from than last time."""
        if self.model is None:
            return
        known = {
            key: {**self.others[key], **search.measured} for key, search in self.searches.items()
        }
        size = sum(map(len, known.values()))
        if size < 1.1 * self.learnt + 8:
            return
        groups: list[Group] = []
        for key, candidates in known.items():
            if len(candidates) >= 4 and any(m.ok for m in candidates.values()):
                features = self.tasks[key].features(list(candidates))
                seconds = np.array([m.best if m.ok else inf for m in candidates.values()])
                groups.append(Group(features, seconds))
        if groups:
            self.model.fit(groups)
            self.learnt = size

    def _measure_again(self) -> None:
        """The few fastest of each task side by side, the default among them."""
        for key, search in self.searches.items():
            good = sorted((m.best, n) for n, m in enumerate(search.measured.values()) if m.ok)
            every = list(search.measured)
            few = [every[n] for _, n in good[:REMEASURED]]
            if search.default in search.measured and search.default not in few:
                few.append(search.default)
            if len(few) > 1:
                self._measured(key, few)
                again = self.log.seen(key, self.header.target_id)
                for candidate in few:
                    search.measured[candidate] = again[candidate]

    def _default_seconds(self, search: TaskSearch) -> float:
        measured = search.measured.get(search.default)
        return measured.best if measured is not None and measured.ok else inf

    def _round(
        self, key: str, stage: Stage, results: Sequence[tuple[Candidate, Measurement]]
    ) -> Round:
        counts: dict[Status, int] = {}
        for _, measurement in results:
            counts[measurement.status] = counts.get(measurement.status, 0) + 1
        search = self.searches[key]

        def network(of: Callable[[TaskSearch], float]) -> float:
            return sum(self.tasks[k].weight * of(s) for k, s in self.searches.items())

        def best(search: TaskSearch) -> float:
            return search.best.seconds if search.best is not None else inf

        return Round(
            self.tasks[key].name,
            stage,
            self.outcome.trials,
            counts,
            best(search),
            self._default_seconds(search),
            network(best),
            network(self._default_seconds),
            self.clock() - self.started,
            len(self.finished),
        )


def _merged(known: Sequence[Mapping[Candidate, Measurement]]) -> dict[Candidate, Measurement]:
    return {c: m for each in known for c, m in each.items()}
