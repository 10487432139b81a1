"""What measurements are good for, and which of a log's a network is replayed from.

Bugs the author planted, and what caught each:
- what is timed with flushed caches is taken for the rest: `test_caches_in_another_state...`;
- of several states the first one in the file counts: `test_what_was_measured_last_counts`;
- the state with the most measurements counts: `test_what_covers_the_network_best_counts`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from equivalence import array, assert_same, model, node, run_reference

import alt
from alt.compiler import fused
from alt.headers import header_of, with_caches
from alt.processor import model_here
from alt.replay import network_of_log
from alt.target import resolve
from tuner.config import Config
from tuner.contents import Contents
from tuner.log import TuningLog
from tuner.options import Options
from tuner.task import Candidate, Measurement, Status

FLUSHED = alt.Timing(repeats=5, flush_bytes=1 << 20)
KEYS = {"a": 1, "b": 2}


def test_only_the_state_of_caches_makes_it_another_target():
    machine = resolve("llvm", 1)
    usual = header_of(machine, 1)
    assert {"flush_bytes", "cold_weights"}.isdisjoint(usual.target)
    assert header_of(machine, 1, timing=alt.Timing(repeats=9, min_seconds=1.0)) == usual
    others = [FLUSHED, alt.Timing(flush_bytes=1 << 25), alt.Timing(cold_weights=False)]
    ids = {header_of(machine, 1, timing=timing).target_id for timing in others}
    assert len(ids - {usual.target_id}) == 3


def log_of(*measured):
    """A log of (timing, task, day)."""
    log = TuningLog(Contents({}, (), ()))
    for timing, key, day in measured:
        header = header_of(resolve("llvm", 1), 1, timing=timing)
        log.headers[header.id] = header
        candidate = Candidate(Config({}), Config({"tile": day}))
        when = f"2026-01-{day:02}T00:00:00+00:00"
        log.append(header.record(key, candidate, Measurement(Status.ok, (1.0,)), when, key))
    return log


def chosen(log):
    return with_caches(header_of(resolve("llvm", 1), 1), log, KEYS, "network").target


def test_without_any_choice_caches_are_as_usual():
    usual = header_of(resolve("llvm", 1), 1).target
    assert chosen(log_of()) == usual
    assert chosen(log_of((None, "a", 1))) == usual
    assert chosen(log_of((FLUSHED, "another network's", 1))) == usual


def test_what_covers_the_network_best_counts():
    half = [(FLUSHED, "a", day) for day in range(3, 9)]
    both = [(None, "a", 1), (None, "b", 2)]
    assert "flush_bytes" not in chosen(log_of(*half, *both))
    assert chosen(log_of(*half))["flush_bytes"] == FLUSHED.flush_bytes


def test_what_was_measured_last_counts():
    usual = [(None, "a", 1), (None, "b", 3)]
    flushed = [(FLUSHED, "a", 2), (FLUSHED, "b", 2)]
    for log in (log_of(*usual, *flushed), log_of(*flushed, *usual)):
        assert "flush_bytes" not in chosen(log)
    again = log_of(*usual, *flushed, (FLUSHED, "network", 4))
    assert chosen(again)["flush_bytes"] == FLUSHED.flush_bytes


@pytest.mark.llvm
def test_caches_in_another_state_are_kept_apart_in_one_log_and_replayed(tmp_path):
    inputs = {"x": array(1, 32)}
    proto = model([node("MatMul", "x w", "y")], inputs, ["y"], {"w": array(32, 24)})
    path = tmp_path / "log.jsonl"
    options, targets = Options(batch=2), []
    for timing in (None, FLUSHED):
        tuned = alt.tune(
            proto, trials=2, threads=1, log=path, options=options, timing=timing, verify=False
        )
        (key,) = tuned.tasks
        last = TuningLog.read(path).of_task(key)[-1].target
        records = [r for r in TuningLog.read(path).of_task(key) if r.target == last]
        # The same two, as nothing was known of them in this state.
        assert {r.candidate for r in records} == {
            r.candidate for r in TuningLog.read(path).of_task(key)
        }
        samples = 3 if timing is None else FLUSHED.repeats
        assert all(len(r.measurement.seconds) in (1, samples) for r in records)
        targets.append(last)
        replayed = network_of_log(fused(proto, threads=1), path, 1)
        assert (replayed.applied, replayed.variant) == (1, tuned.variant)
    assert len(set(targets)) == 2
    versions = [h.versions for h in TuningLog.read(path).headers.values()]
    assert [v.get("cpu", "") for v in versions] == [model_here()] * 2
    module = alt.compile(proto, threads=1, log=path)
    assert_same(module(**inputs), run_reference(proto, inputs), length=32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"repeats": 0},
        {"min_seconds": -1.0},
        {"min_seconds": float("nan")},
        {"flush_bytes": -1},
        {"flush_bytes": 1 << 31},
        {"hopeless": 0.5},
    ],
)
def test_a_timing_that_makes_no_sense_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(alt.AltError, match=f"timing with {name}={value}: give"):
        alt.Timing(**wrong)


def test_the_model_of_the_processor_is_told_and_does_not_matter(tmp_path):
    """A log that another machine of its kind goes on with."""
    path, machine = tmp_path / "log.jsonl", resolve("llvm", 1)
    one, other, unknown = (header_of(machine, 1, name) for name in ("EPYC 1", "EPYC 2", ""))
    assert (one.versions["cpu"], other.versions["cpu"]) == ("EPYC 1", "EPYC 2")
    assert "cpu" not in unknown.versions
    assert one.target_id == other.target_id == unknown.target_id
    candidates = [Candidate(Config({}), Config({"tile": n})) for n in (0, 1)]
    for header, candidate in zip((one, other), candidates, strict=True):
        log = TuningLog.open(path, header)
        measured = Measurement(Status.ok, (1.0,))
        log.append(header.record("a", candidate, measured, "2026-01-01T00:00:00+00:00"))
    log = TuningLog.read(path)
    assert list(log.headers.values()) == [one, other]
    assert set(log.seen("a", unknown.target_id)) == set(candidates)
    assert with_caches(unknown, log, KEYS, "network") == unknown


def test_the_model_of_this_processor():
    model = model_here()
    assert model == model.strip() and "\n" not in model
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "model name" in cpuinfo.read_text():
        assert f": {model}\n" in cpuinfo.read_text()
