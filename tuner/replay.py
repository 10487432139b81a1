"""What a log knows, put to use again: the best candidates of a network, or a measurer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner.errors import TuningError
from tuner.log import TuningLog, ranked, summarise
from tuner.records import Header, Record
from tuner.task import Candidate, Measurement, Status, Task

_LOGGER = logging.getLogger(__name__)

_NO_CHOICE = (
    "nothing that was measured is a choice here: it was tuned with other layouts, or by another"
    " version"
)


class Named(Protocol):
    """What replay needs of a task."""

    @property
    def key(self) -> str:
        """See `Task.key`."""
        ...

    @property
    def name(self) -> str:
        """See `Task.name`."""
        ...


def choose_best(
    log: TuningLog,
    tasks: Sequence[Named],
    here: Header,
    *,
    allow_partial: bool = False,
    same_versions: Sequence[str] = (),
    usable: Mapping[str, Collection[Candidate]] | None = None,
) -> dict[str, Candidate]:
    """The best candidate of every task of a network.

    Args:
        here: target and versions to choose for.
        allow_partial: leave tasks out for which there is none, and log which and why.
        same_versions: names in `here.versions` that must agree; others may differ, since decisions
            mean the same in every version that knows them.
        usable: of each task, by key, the candidates that are choices here; all, if None.

    Returns:
        Candidates by key, in the order of the tasks.

    Raises:
        TuningError: there are tasks without a candidate, and partial results are not allowed.

    Example:
        >>> from tuner.config import Config
        >>> from tuner.contents import Contents
        >>> here = Header({"mcpu": "znver4", "threads": 2}, {})
        >>> there = Header({"mcpu": "znver4", "threads": 8}, {})
        >>> candidate = Candidate(Config(), Config({"unroll": 4}))
        >>> measured = Measurement(Status.ok, (0.002,))
        >>> record = there.record("k", candidate, measured, "2025-01-31T12:00:00Z")
        >>> log = TuningLog(Contents({there.id: there}, (record,), ()))
        >>> @dataclass
        ... class Convolution:
        ...     key: str = "k"
        ...     name: str = "conv2d_3"
        >>> choose_best(log, [Convolution()], there)
        {'k': Candidate(layout=Config(), loops=Config(unroll=4))}
        >>> choose_best(log, [Convolution()], here)
        Traceback (most recent call last):
        tuner.errors.TuningError: replay of the log in memory: 0/1 tasks applied; missing: conv2d_3
        (measured for threads=8, here threads=2); tune them, or allow a partial replay
    """
    distinct = {task.key: task for task in tasks}
    chosen: dict[str, Candidate] = {}
    missing: dict[str, list[str]] = {}
    for key, task in distinct.items():
        records = [r for r in log.of_task(key) if r.target == here.target_id]
        fitting = [r for r in records if not _differences(log, r, here, same_versions)]
        good = [best.candidate for best in ranked(summarise(fitting))]
        fit = good if usable is None else [c for c in good if c in usable.get(key, ())]
        if fit:
            chosen[key] = fit[0]
        elif good:
            missing.setdefault(_NO_CHOICE, []).append(task.name)
        else:
            missing.setdefault(_reason(log, task, here, same_versions), []).append(task.name)
    report = (
        f"replay of the log {log.path or 'in memory'}: {len(chosen)}/{len(distinct)} tasks applied"
    )
    if not missing:
        _LOGGER.info("%s", report)
        return chosen
    listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in missing.items())
    report += f"; missing: {listed}"
    if not allow_partial:
        raise TuningError(f"{report}; tune them, or allow a partial replay")
    _LOGGER.warning("%s", report)
    return chosen


@dataclass(frozen=True)
class ReplayMeasurer:
    """A `Measurer` that answers from a log, to compare searches without measuring anything.

    A candidate that the log does not know is answered with a failure, so give it logs that cover
    the spaces searched.

    Attributes:
        target: `Header.target_id`.
    """

    log: TuningLog
    target: str

    def measure(self, task: Task, candidates: Sequence[Candidate]) -> list[Measurement]:
        """What is known of each candidate."""
        known = self.log.seen(task.key, self.target)
        unknown = Measurement(Status.build, message="not in the log")
        return [known.get(candidate, unknown) for candidate in candidates]


def _reason(log: TuningLog, task: Named, here: Header, same_versions: Sequence[str]) -> str:
    """Why there is no candidate of a task: of several reasons the nearest to having one."""
    records = log.of_task(task.key)
    on_target = [r for r in records if r.target == here.target_id]
    fitting = [r for r in on_target if not _differences(log, r, here, same_versions)]
    if fitting:
        counts = Counter(r.measurement.status.value for r in fitting if not r.measurement.ok)
        return "only failures: " + ", ".join(f"{n} {status}" for status, n in counts.items())
    if on_target:
        return (
            f"measured with {_join(_differences(log, r, here, same_versions) for r in on_target)}"
        )
    if records:
        return f"measured for {_join(_other_target(log, r, here) for r in records)}"
    if any(r.name == task.name for r in log.records if r.name):
        return "not in the log, which has another task of that name: has the model changed?"
    return "not in the log"


def _differences(log: TuningLog, record: Record, here: Header, names: Sequence[str]) -> str:
    """Versions that do not agree, in words; nothing if all do."""
    if not names:
        return ""
    header = log.headers.get(record.header)
    if header is None:
        return "unknown versions: its header is lost"
    return _unequal(header.versions, here.versions, names)


def _other_target(log: TuningLog, record: Record, here: Header) -> str:
    header = log.headers.get(record.header)
    if header is None:
        return "an unknown target: its header is lost"
    return _unequal(header.target, here.target, sorted({*header.target, *here.target}))


def _unequal(there: Mapping[str, Any], here: Mapping[str, Any], names: Sequence[str]) -> str:
    wrong = [name for name in names if there.get(name) != here.get(name)]

    def entries(of: Mapping[str, Any]) -> str:
        return " ".join(f"{name}={_short(of.get(name))}" for name in wrong)

    return f"{entries(there)}, here {entries(here)}" if wrong else ""


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(reasons: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(reasons))
