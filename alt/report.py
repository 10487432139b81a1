"""What a log says about how tuning went, as values; `alt.report_page` draws them.

A log knows neither the network nor the compiler's own choices: a task's default is the candidate
that was measured first, since every search starts with it, and sums over tasks count each once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from tuner.config import Config
from tuner.log import Best, TuningLog, summarise
from tuner.records import Header, Record
from tuner.task import Candidate, Measurement, Status

PAUSE_SECONDS = 120.0
"""Between two measurements of a run there is at most so much; a longer gap is a pause."""

_NETWORK, _CONVERSION, _WITHIN = "network ", "conversion ", "within "
"""What the keys begin with of records that are no task's, see `alt.replay` and `alt.select`."""


@dataclass(frozen=True)
class Point:
    """The best time known after a measurement.

    Attributes:
        trial: number of the measurement, from 1, counted over all tasks.
        elapsed: seconds since the first measurement, without pauses.
        seconds: the best time then.
    """

    trial: int
    elapsed: float
    seconds: float


@dataclass(frozen=True)
class LayoutTried:
    """A layout of a task.

    Attributes:
        trials: how many candidates had it, each as often as it was measured.
        best: in seconds; infinite if all of them failed.
    """

    layout: Config
    trials: int
    best: float


@dataclass(frozen=True)
class TaskReport:
    """How a task was tuned.

    Attributes:
        default: seconds of the first candidate; infinite if it failed.
        best: the fastest candidate; None if all have failed.
        statuses: how many measurements ended how.
        build_seconds: spent on building candidates, added up over workers.
        elapsed: seconds between measurements that went to this task.
        curve: one point for each change.
        layouts: the fastest first.
    """

    key: str
    name: str
    default: float
    best: Best | None
    statuses: Counter[Status]
    build_seconds: float
    elapsed: float
    curve: tuple[Point, ...]
    layouts: tuple[LayoutTried, ...]

    @property
    def seconds(self) -> float:
        """The best time; infinite if all candidates have failed."""
        return self.best.measurement.best if self.best is not None else inf

    @property
    def gain(self) -> float | None:
        """The default's time over the best; None if one of them is not known."""
        known = isfinite(self.default) and isfinite(self.seconds) and self.seconds > 0
        return self.default / self.seconds if known else None


@dataclass(frozen=True)
class Report:
    """What was measured on one target.

    Attributes:
        header: of the last measurement; None if the log has lost it.
        tasks: in the order in which they were first measured.
        whole: the sum of the best times of all tasks, each task once; one point a change.
        networks: seconds of the variants of every network that was timed as a whole.
        conversions: seconds of changes of layout, by what is converted and how.
        statuses: of all measurements of tasks.
        elapsed: seconds of the whole, without pauses.
        pauses: how often tuning was taken up again.
        build_seconds: added up over workers, by how the measurement ended.
        other_elapsed: seconds that went to conversions and to the network as a whole.
        first: time of the first measurement, as it was recorded.
        last: of the last one.
    """

    target: str
    header: Header | None
    tasks: tuple[TaskReport, ...]
    whole: tuple[Point, ...]
    networks: tuple[Mapping[str, float], ...]
    conversions: tuple[tuple[str, str, float], ...]
    statuses: Counter[Status]
    elapsed: float
    pauses: int
    build_seconds: Mapping[Status, float]
    other_elapsed: float
    first: str
    last: str

    @property
    def trials(self) -> int:
        """Measurements of tasks."""
        return self.statuses.total()


def reports_of(log: TuningLog) -> list[Report]:
    """A report for each target in a log, the last one measured first."""
    by_target: dict[str, list[Record]] = {}
    for record in sorted(log.records, key=lambda r: r.time):
        by_target.setdefault(record.target, []).append(record)
    reports = [_report(log, target, records) for target, records in by_target.items()]
    return sorted(reports, key=lambda r: r.last, reverse=True)


class _Following:
    """The best of a task, measurement after measurement."""

    def __init__(self) -> None:
        self.records: dict[Candidate, list[Record]] = {}
        self.known: dict[Candidate, Measurement] = {}
        self.points: list[Point] = []
        self.elapsed = 0.0

    def add(self, record: Record, trial: int, elapsed: float) -> None:
        of_candidate = self.records.setdefault(record.candidate, [])
        of_candidate.append(record)
        self.known.update(summarise(of_candidate))
        best = min(m.best for m in self.known.values())
        if isfinite(best) and (not self.points or best != self.points[-1].seconds):
            self.points.append(Point(trial, elapsed, best))

    def layouts(self) -> tuple[LayoutTried, ...]:
        found: dict[Config, LayoutTried] = {}
        for candidate, measurement in self.known.items():
            before = found.get(candidate.layout, LayoutTried(candidate.layout, 0, inf))
            trials = before.trials + len(self.records[candidate])
            best = min(before.best, measurement.best)
            found[candidate.layout] = LayoutTried(candidate.layout, trials, best)
        return tuple(sorted(found.values(), key=lambda each: each.best))

    def report(self, log: TuningLog, key: str, target: str) -> TaskReport:
        every = [r for records in self.records.values() for r in records]
        default = self.known[next(iter(self.known))]
        return TaskReport(
            key,
            every[-1].name or key,
            default.best,
            log.best(key, target),
            Counter(r.measurement.status for r in every),
            sum(r.measurement.build_seconds for r in every),
            self.elapsed,
            tuple(self.points),
            self.layouts(),
        )


def _report(log: TuningLog, target: str, records: Sequence[Record]) -> Report:
    tasks: dict[str, _Following] = {}
    building: dict[Status, float] = {}
    elapsed, other, trial, pauses = 0.0, 0.0, 0, 0
    before = records[0].time
    for record in records:
        gap = (record.time - before).total_seconds()
        before = record.time
        if gap > PAUSE_SECONDS:
            pauses += 1
            gap = 0.0
        elapsed += gap
        if record.task.startswith((_NETWORK, _CONVERSION, _WITHIN)):
            other += gap
            continue
        trial += 1
        measured = record.measurement
        building[measured.status] = building.get(measured.status, 0.0) + measured.build_seconds
        following = tasks.setdefault(record.task, _Following())
        following.elapsed += gap
        following.add(record, trial, elapsed)
    found = tuple(each.report(log, key, target) for key, each in tasks.items())
    return Report(
        target,
        log.headers.get(records[-1].header),
        found,
        tuple(_sum(found)),
        tuple(_networks(log, records, target)),
        tuple(_conversions(log, records, target)),
        sum((task.statuses for task in found), Counter()),
        elapsed,
        pauses,
        building,
        other,
        records[0].when,
        records[-1].when,
    )


def _sum(tasks: Iterable[TaskReport]) -> Iterable[Point]:
    """The sum of the tasks' curves; a task that was not measured yet counts with its first time."""
    now = {task.key: task.curve[0].seconds for task in tasks if task.curve}
    changes = sorted(
        ((p, task.key) for task in tasks for p in task.curve), key=lambda c: c[0].trial
    )
    for point, key in changes:
        now[key] = point.seconds
        yield Point(point.trial, point.elapsed, sum(now.values()))


def _networks(
    log: TuningLog, records: Iterable[Record], target: str
) -> Iterable[Mapping[str, float]]:
    for key in dict.fromkeys(r.task for r in records if r.task.startswith(_NETWORK)):
        known = log.seen(key, target)
        yield {str(_answer(c.layout, "variant")): m.best for c, m in known.items() if m.ok}


def _conversions(
    log: TuningLog, records: Iterable[Record], target: str
) -> Iterable[tuple[str, str, float]]:
    for key in dict.fromkeys(r.task for r in records if r.task.startswith(_CONVERSION)):
        for candidate, measurement in log.seen(key, target).items():
            change = f"{_answer(candidate.layout, 'from')} to {_answer(candidate.layout, 'to')}"
            yield key.removeprefix(_CONVERSION), change, measurement.best


def _answer(config: Config, name: str) -> Any:
    return config.get(name, "?")
