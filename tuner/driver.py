"""Tuning a network: which task is next, what is measured, what is written down, when it ends."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from tuner.budget import Budget
from tuner.cost_model import CostModel, Group
from tuner.errors import Unmeasurable
from tuner.experience import INSTANT, described, experience, group_of, teaches
from tuner.joint import Incumbent, Stage, TaskSearch
from tuner.log import TuningLog
from tuner.options import Options
from tuner.pretraining import agent_of, keep
from tuner.records import Header
from tuner.task import Candidate, Measurement, Measurer, Status, Task

_LOGGER = logging.getLogger(__name__)

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
        trials: how many candidates were measured. That the fastest are measured again in the end
            is not counted.
        interrupted: whether the user ended it.
        reason: why it ended.
        where: seconds spent: `measuring`, and `searching` for everything else.
        given_up: tasks by key that could not be measured any more, and why.
    """

    best: dict[str, Incumbent] = field(default_factory=dict[str, Incumbent])
    default: dict[str, float] = field(default_factory=dict[str, float])
    trials: int = 0
    interrupted: bool = False
    reason: str = ""
    where: dict[str, float] = field(default_factory=dict[str, float])
    given_up: dict[str, str] = field(default_factory=dict[str, str])


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
        others: logs that the model learns from, too, whatever tasks they are of.
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
        self.budget = Budget(options.trials, options.seconds, options.batch)
        self.started, self.measuring = clock(), 0.0
        self.outcome, self.learnt, self.taught = Outcome(), 0, False
        *children, own = np.random.default_rng(options.seed).spawn(len(tasks) + 1)
        self.agent, self.stopped = None, False
        try:
            self.agent = agent_of(options, list(tasks.values()), own)
        except KeyboardInterrupt:
            self.stopped = True  # what the log knows can still be used
        self.searches = {
            key: TaskSearch(task, options, child, log.seen(key, header.target_id), self.agent)
            for (key, task), child in zip(tasks.items(), children, strict=True)
        }
        if self.agent is not None:
            self.agent.asleep = False
        self.others = {
            key: {
                candidate: measurement
                for other in others
                for candidate, measurement in other.seen(key, header.target_id).items()
                if search.allows(candidate)
            }
            for key, search in self.searches.items()
        }
        self.elsewhere: list[Group] = []
        if model is not None and tasks:
            any_search = next(iter(self.searches.values()))
            width = any_search.scores.features([any_search.default]).shape[1]
            logs = [log, *others]
            self.elsewhere = experience(logs, header, tasks, width)
            for key, search in self.searches.items():
                search.scores.known = described(logs, header, key, width)
        self.finished: set[str] = set()

    def finish(self) -> Outcome:
        outcome = self.outcome
        try:
            outcome.reason = self._search()
            self._measure_again()
        except KeyboardInterrupt:
            outcome.interrupted, outcome.reason = True, "interrupted"
        finally:
            keep(self.agent, self.options.agent)
        for key, search in self.searches.items():
            if best := search.best:
                outcome.best[key] = best
            outcome.default[key] = self._default_seconds(search)
        outcome.where = {
            "measuring": self.measuring, "searching": self._elapsed - self.measuring,
        }  # fmt: skip
        self.log.try_flush()
        return outcome

    def _search(self) -> str:
        if self.stopped:
            raise KeyboardInterrupt
        while True:
            trials, elapsed = self.outcome.trials, self._elapsed
            over = self.budget.over(trials, elapsed)
            if over:
                return over
            key = self._next()
            if key is None:
                none = self.outcome.given_up.keys() >= self.searches.keys() and self.searches
                return "no task can be measured" if none else "nothing moves any more"
            search = self.searches[key]
            self._learn()
            search.scores.model = self.model if self.taught else None
            search.spent = self.budget.spent(trials, elapsed, search.rounds)
            batch = search.ask(self.budget.affordable(trials, elapsed, self._owed))
            stage = search.stage
            results = self._measured(key, batch)
            if key in self.outcome.given_up:
                self.finished.add(key)
                continue
            self.outcome.trials += len(results)
            search.tell(results)
            if not batch or search.done:
                self.finished.add(key)
            self.observe(self._round(key, stage, results))

    @property
    def _elapsed(self) -> float:
        return self.clock() - self.started

    @property
    def _owed(self) -> int:
        """Rounds that tasks have not had yet of those that each is to get."""
        left = (s.rounds for key, s in self.searches.items() if key not in self.finished)
        return sum(max(0, LEAST_ROUNDS - rounds) for rounds in left)

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
                self.tasks[key].operations / max(search.best.seconds, INSTANT)
                for key, search in self.searches.items()
                if search.best is not None
            ),
            default=inf,
        )

        def gain(key: str) -> float:
            search, task = self.searches[key], self.tasks[key]
            if search.best is None:
                return 0.0
            # If no task counts operations, nothing is known of the limit.
            least = task.operations / fastest if task.operations else 0.0
            headroom = search.best.seconds - least
            # A tenth of the time is always worth hoping for: the fastest may be slow, too.
            hope = max(headroom, 0.1 * search.best.seconds)
            doubt = 2.0 ** (search.idle + search.second) * (1 + 0.1 * search.rounds)
            return task.weight * hope / doubt

        return max(open_ones, key=gain)

    def _measured(
        self, key: str, batch: Sequence[Candidate]
    ) -> list[tuple[Candidate, Measurement]]:
        """What a batch brought, which is in the log; nothing if the task has to be given up."""
        if not batch:
            return []
        task, search = self.tasks[key], self.searches[key]
        features = search.scores.features(batch) if self.model is not None else [()] * len(batch)
        start = self.clock()
        try:
            measurements = self.measurer.measure(task, batch)
        except Unmeasurable as problem:
            self.outcome.given_up[key] = str(problem)
            _LOGGER.warning(
                "%s is given up, the search goes on with the others: %s", task.name, problem
            )
            return []
        finally:
            self.measuring += self.clock() - start
        results = list(zip(batch, measurements, strict=True))
        for (candidate, measurement), seen in zip(results, features, strict=True):
            self.log.append(
                self.header.record(key, candidate, measurement, self.stamp(), task.name, seen)
            )
        return results

    def _learn(self) -> None:
        """Fit the model when there is a tenth more to learn from than last time."""
        if self.model is None:
            return
        known = {
            key: {**self.others[key], **search.measured} for key, search in self.searches.items()
        }
        size = sum(map(len, known.values()))
        if size < 1.1 * self.learnt + 8 and (self.taught or not self.elsewhere):
            return
        groups = list(self.elsewhere)
        for key, candidates in known.items():
            if teaches(candidates.values()):
                features = self.searches[key].scores.features(list(candidates))
                groups.append(group_of(features, candidates.values()))
        if groups:
            self.model.fit(groups)
            self.learnt, self.taught = size, True

    def _measure_again(self) -> None:
        """The few fastest of each task side by side, and in the default's layout, and that."""
        for key, search in self.searches.items():
            if key in self.outcome.given_up:
                continue
            ranked = sorted((m.best, n) for n, m in enumerate(search.measured.values()) if m.ok)
            every = list(search.measured)
            good = [every[n] for _, n in ranked]
            own = [candidate for candidate in good if candidate.layout == search.default.layout]
            few = dict.fromkeys([*good[:REMEASURED], *own[:REMEASURED]])
            if search.default in search.measured:
                few[search.default] = None
            if len(few) > 1:
                self._measured(key, list(few))
                again = self.log.seen(key, self.header.target_id)
                for candidate in few:
                    search.measured[candidate] = again[candidate]

    def _default_seconds(self, search: TaskSearch) -> float:
        measured = search.measured.get(search.default)
        return measured.best if measured is not None and measured.ok else inf

    def _round(
        self, key: str, stage: Stage, results: Sequence[tuple[Candidate, Measurement]]
    ) -> Round:
        counts = Counter(measurement.status for _, measurement in results)
        search = self.searches[key]
        every = [
            (self.tasks[k].weight, s)
            for k, s in self.searches.items()
            if k not in self.outcome.given_up
        ]

        return Round(
            self.tasks[key].name,
            stage,
            self.outcome.trials,
            counts,
            search.seconds,
            self._default_seconds(search),
            sum(weight * s.seconds for weight, s in every),
            sum(weight * self._default_seconds(s) for weight, s in every),
            self._elapsed,
            len(self.finished),
        )
