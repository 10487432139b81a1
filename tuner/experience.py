"""What logs teach a cost model about tasks that are not being searched.

The features of such a task cannot be computed again, its network is not there; so records carry
them, which saves time for other tasks, too. Those of another version of the features are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from tuner.cost_model import Floats, Group
from tuner.log import TuningLog, summarise
from tuner.records import Header, Record
from tuner.task import Candidate, Measurement

FEATURES = "features"
"""The entry of a header's versions that says what the features of its records are."""

_LEAST = 4
"""Of fewer candidates of a task there is little to learn."""

MOST = 1000
"""So many candidates are learnt from, the last measured: the model is fitted again and again."""

INSTANT = 1e-12
"""Seconds: a clock may say 0, but nothing takes that."""


def teaches(measured: Collection[Measurement]) -> bool:
    """Whether a cost model learns anything from these candidates of one task."""
    return len(measured) >= _LEAST and any(m.ok for m in measured)


def group_of(features: Floats, measured: Iterable[Measurement]) -> Group:
    """Candidates of one task for a cost model to learn from, a row of features each."""
    return Group(features, np.array([max(m.best, INSTANT) for m in measured]))


def experience(
    logs: Iterable[TuningLog], header: Header, searched: Collection[str], width: int
) -> list[Group]:
    """The candidates of other tasks, and of these tasks on other targets, a group for each.

    Args:
        logs: to learn from; other targets teach, too, since only what was measured on one is
            compared with each other.
        header: of the target and the version of the features that are learnt for.
        searched: keys of the tasks whose candidates are known better.
        width: how many features there are.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for log in logs:
        fitting = _fitting(log, header)
        for record in log.records:
            own = record.target == header.target_id and record.task in searched
            if len(record.features) == width and record.header in fitting and not own:
                found.setdefault((record.task, record.header), []).append(record)
    chosen: list[Group] = []
    left = MOST
    for records in sorted(found.values(), key=lambda group: max(r.time for r in group))[::-1]:
        records.sort(key=lambda r: r.time)
        features = {r.candidate: r.features for r in records[::-1]}
        known = summarise(records)
        latest = list(features)[:left]
        measured = [known[candidate] for candidate in latest]
        if teaches(measured):
            chosen.append(group_of(np.array([features[c] for c in latest]), measured))
            left -= len(latest)
        if left < _LEAST:
            break
    return chosen


def described(
    logs: Iterable[TuningLog], header: Header, task: str, width: int
) -> dict[Candidate, tuple[float, ...]]:
    """The features of candidates of a task, where records of this version have them.

    Args:
        logs: to look them up in.
        header: of the version and the target, whose cores and caches some depend on.
        task: its key.
        width: how many features there are.
    """
    return {
        record.candidate: record.features
        for log in logs
        if (fitting := _fitting(log, header))
        for record in log.of_task(task)
        if len(record.features) == width
        and record.header in fitting
        and record.target == header.target_id
    }


def _fitting(log: TuningLog, header: Header) -> set[str]:
    """Headers under which features were what they are now."""
    version = header.versions.get(FEATURES)
    return {h.id for h in log.headers.values() if h.versions.get(FEATURES) == version}
