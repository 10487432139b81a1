"""What logs teach a cost model about tasks that are not being searched.

The features of such a task cannot be computed again, its network is not there; so records carry
them. Those of another version of the features are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from tuner.cost_model import Group
from tuner.log import TuningLog
from tuner.records import Header, Record

FEATURES = "features"
"""The entry of a header's versions that says what the features of its records are."""

LEAST = 4
"""Of fewer candidates of a task there is little to learn."""

MOST = 2000
"""So many candidates are learnt from, the last measured: the model is fitted again and again."""

INSTANT = 1e-12
"""Seconds: a clock may say 0, but nothing takes that."""


def experience(
    logs: Iterable[TuningLog], header: Header, searched: Collection[str], width: int
) -> list[Group]:
    """The candidates of other tasks, and of these tasks on other targets, a group for each.

    Args:
        logs: to learn from; other targets teach, too, since only candidates of one group are
            compared.
        header: of the target and the version of the features that are learnt for.
        searched: keys of the tasks whose candidates are known better.
        width: how many features there are.
    """
    found: dict[tuple[str, str], dict[object, Record]] = {}
    version = header.versions.get(FEATURES)
    for log in logs:
        fitting = {h.id for h in log.headers.values() if h.versions.get(FEATURES) == version}
        for record in log.records:
            known = record.target == header.target_id and record.task in searched
            if len(record.features) == width and record.header in fitting and not known:
                group = found.setdefault((record.task, record.target), {})
                group.pop(record.candidate, None)
                group[record.candidate] = record
    groups = sorted(found.values(), key=lambda g: max(r.time for r in g.values()), reverse=True)
    chosen: list[Group] = []
    left = MOST
    for group in groups:
        records = list(group.values())[-left:]
        if len(records) >= LEAST and any(r.measurement.ok for r in records):
            seconds = [max(r.measurement.best, INSTANT) for r in records]
            chosen.append(Group(np.array([r.features for r in records]), np.array(seconds)))
            left -= len(records)
        if left < LEAST:
            break
    return chosen
