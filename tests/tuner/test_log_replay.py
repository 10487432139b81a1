"""Replay from a log: every task gets its best candidate, or it is said which does not and why."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from measurements import HEADER, OTHER, candidate, record

from tuner.contents import Contents
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.records import Header
from tuner.replay import ReplayMeasurer, choose_best
from tuner.task import Status


def log_of(*records, headers=(HEADER, OTHER)):
    return TuningLog(Contents({h.id: h for h in headers}, records, ()))


def tasks(*keys) -> list[Any]:
    return [SimpleNamespace(key=key, name=f"name of {key}") for key in keys]


def test_every_task_gets_its_best_candidate(caplog):
    log = log_of(
        record(1, 2.0, task="conv"),
        record(2, 1.0, task="conv"),
        record(3, 0.5, task="conv", header=OTHER),
        record(4, Status.wrong, task="conv"),
        record(5, 9.0, task="matmul"),
    )
    with caplog.at_level(logging.INFO):
        chosen = choose_best(log, tasks("matmul", "conv", "matmul"), HEADER)
    assert chosen == {"matmul": candidate(5), "conv": candidate(2)}
    assert "2/2 tasks applied" in caplog.text


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (log_of(), "not in the log"),
        (log_of(record(1, task="pool")), "not in the log"),
        (log_of(record(1, header=OTHER)), "measured for threads=8, here threads=2"),
        (log_of(record(1, header=OTHER), headers=()), "measured for an unknown target: its header"),
        (
            log_of(record(1, Status.wrong), record(2, Status.wrong), record(3, Status.build)),
            "only failures: 2 wrong, 1 build",
        ),
        (log_of(record(1), record(1, Status.wrong, at=1)), "only failures: 1 wrong"),
        (
            log_of(HEADER.record("old", candidate(1), record(1).measurement, record(1).when, "name of conv")),
            "not in the log, which has another task of that name",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_listed_with_its_reason(log, why, caplog):
    with pytest.raises(TuningError) as error:
        choose_best(log, tasks("conv"), HEADER)
    assert "0/1 tasks applied" in str(error.value)
    assert f"name of conv ({why}" in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert choose_best(log, tasks("conv"), HEADER, allow_partial=True) == {}
    assert why in caplog.text


def test_tasks_that_miss_for_one_reason_are_listed_together():
    log = log_of(record(1, task="a"), record(1, task="d", header=OTHER))
    with pytest.raises(TuningError) as error:
        choose_best(log, tasks("a", "b", "c", "d"), HEADER)
    assert "1/4 tasks applied" in str(error.value)
    assert "name of b, name of c (not in the log); name of d (measured for" in str(error.value)
    assert "\n" not in str(error.value)
    chosen = choose_best(log, tasks("a", "b", "c", "d"), HEADER, allow_partial=True)
    assert chosen == {"a": candidate(1)}


def test_only_what_is_usable_here_counts(caplog):
    """The best that is a choice, not the best; and a task that has none is missing, like others."""
    log = log_of(
        record(1, 1.0, task="conv"),
        record(2, 2.0, task="conv"),
        record(1, 1.0, task="pool"),
        record(1, Status.wrong, task="wrong"),
    )
    usable = {"conv": [candidate(2), candidate(3)], "pool": [candidate(4)]}
    with pytest.raises(TuningError) as error:
        choose_best(log, tasks("conv", "pool", "new", "wrong", "gone"), HEADER, usable=usable)
    for part in (
        "1/5 tasks applied",
        "name of pool (nothing that was measured is a choice here: it was tuned with other layouts",
        "name of new, name of gone (not in the log)",
        "name of wrong (only failures: 1 wrong)",
        "tune them, or allow a partial replay",
    ):
        assert part in str(error.value)
    keys = tasks("conv", "pool")
    chosen = choose_best(log, keys, HEADER, allow_partial=True, usable=usable)
    assert chosen == {"conv": candidate(2)}
    assert "1/2 tasks applied; missing: name of pool (nothing" in caplog.text


def test_versions_must_agree_only_where_asked():
    newer = Header(HEADER.target, {"alt": "0.2.0", "tvm": "0.27"})
    log = log_of(record(1))
    assert choose_best(log, tasks("conv"), newer) == {"conv": candidate(1)}
    with pytest.raises(TuningError, match=r"measured with alt=0\.1\.0, here alt=0\.2\.0"):
        choose_best(log, tasks("conv"), newer, same_versions=["alt"])
    with pytest.raises(TuningError, match="unknown versions"):
        choose_best(log_of(record(1), headers=()), tasks("conv"), newer, same_versions=["alt"])
    both = log_of(record(1), record(2, 5.0, header=newer), headers=(HEADER, newer))
    assert choose_best(both, tasks("conv"), newer, same_versions=["alt"]) == {"conv": candidate(2)}


def test_a_measurer_that_answers_from_a_log():
    log = log_of(record(1, 2.0), record(1, 4.0, at=1), record(2, Status.crash))
    measurer = ReplayMeasurer(log, HEADER.target_id)
    (task,) = tasks("conv")
    crashed, unknown, good = measurer.measure(task, [candidate(2), candidate(3), candidate(1)])
    assert good.seconds == (0.002, 0.004)
    assert crashed.status is Status.crash
    assert unknown.status is Status.build
    assert unknown.message == "not in the log"
