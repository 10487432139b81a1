"""`alt.tune` from end to end on a small network, and replay of what it wrote."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from equivalence import array, assert_same, model, node, run_reference

import alt
from alt.build import build
from alt.compiler import fused
from alt.errors import AltError
from alt.policies import JOINT, policy_of
from alt.propagate import plan_layouts
from alt.replay import (
    fastest_variant,
    network_key,
    network_of_log,
    program_of,
)
from alt.select import VARIANTS
from tuner import journal
from tuner.config import Config
from tuner.contents import Contents
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.options import Options
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status
from tuner.tidy import prune

pytestmark = pytest.mark.llvm

TRIALS = 24

FRESH = """
import sys
sys.path.insert(0, sys.argv[1])
from test_tuning import replayed
print(replayed(sys.argv[2], sys.argv[3]))
"""


def network(channels=24):
    nodes = [
        node("Conv", "x w0", "a0", pads=[1, 1, 1, 1]),
        node("Relu", "a0", "a"),
        node("Conv", "a w1", "b", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "b", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d w2", "y"),
    ]
    weights = {
        "w0": array(channels, 16, 3, 3),
        "w1": array(32, channels, 3, 3, seed=1),
        "w2": array(32, 10, seed=2),
    }
    inputs = {"x": array(1, 16, 14, 14)}
    return model(nodes, inputs, ["y"], weights), inputs


def replayed(path, log):
    """A digest of the program that a model and a log give."""
    made = fused(onnx.load(path), threads=1)
    kernels = network_of_log(made, log, 1).kernels
    plan = plan_layouts(made.graph, kernels, made.machine)
    text = build(made.graph, plan, made.machine).module.script()
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The network after a short search: its folder, and what the search said."""
    folder = tmp_path_factory.mktemp("tuning")
    proto, _ = network()
    onnx.save(proto, folder / "model.onnx")
    rounds = []
    options = Options(batch=4, seed=3)
    tuned = alt.tune(
        folder / "model.onnx",
        trials=TRIALS,
        threads=1,
        log=folder / "log.jsonl",
        options=options,
        observe=rounds.append,
    )
    return folder, tuned, rounds


def test_what_was_found_is_right_and_no_slower_than_what_was_there(searched):
    folder, tuned, rounds = searched
    proto, inputs = network()
    assert tuned.outcome.trials == TRIALS == rounds[-1].trials
    assert set(tuned.seconds) == set(VARIANTS)
    assert tuned.seconds[tuned.variant] <= tuned.seconds["default"] and tuned.gain >= 1
    assert set(tuned.outcome.best) == set(tuned.tasks) and len(tuned.tasks) == 3
    for key, best in tuned.outcome.best.items():
        assert best.seconds <= tuned.outcome.default[key]
    assert_same(tuned.module(**inputs), run_reference(proto, inputs), length=5000)
    assert tuned.log == folder / "log.jsonl"


def test_the_log_knows_every_measurement(searched):
    folder, tuned, _ = searched
    log = TuningLog.read(folder / "log.jsonl")
    searched_for = [r for r in log.records if r.task in tuned.tasks]
    assert len({(r.task, r.candidate) for r in searched_for}) == TRIALS
    assert all(r.measurement.ok for r in searched_for)
    assert {r.task for r in searched_for} == set(tuned.tasks)


def test_the_fastest_few_were_timed_within_the_network(searched):
    folder, tuned, _ = searched
    log = TuningLog.read(folder / "log.jsonl")
    within = {key: [r for r in log.records if r.task.endswith(f" {key}")] for key in tuned.tasks}
    for key, records in within.items():
        assert records and all(r.task.startswith("within ") for r in records)
        alone = {r.candidate for r in log.of_task(key)}
        assert {r.candidate for r in records} <= alone
        default = tuned.tasks[key].layouts.default()
        loops = tuned.tasks[key].loops(default).default()
        assert Candidate(default, loops) in {r.candidate for r in records}


def test_a_full_disk_costs_the_log_and_not_the_network(tmp_path, monkeypatch):
    proto, inputs = network()
    whole = journal.append

    def full(path, lines, *rest):
        if path.exists() and path.stat().st_size > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, lines, *rest)

    monkeypatch.setattr(journal, "append", full)
    log = tmp_path / "log.jsonl"
    tuned = alt.tune(proto, trials=4, threads=1, log=log, options=Options(batch=4), verify=False)
    assert tuned.unsaved > 0
    assert_same(tuned.module(**inputs), run_reference(proto, inputs), length=5000)
    assert TuningLog.read(log).skipped == ()


@pytest.mark.parametrize(
    ("seconds", "variant"),
    [
        ({"joint": 1.0, "loops": 2.0, "default": 3.0}, "joint"),
        ({"joint": 1.0, "loops": 1.005, "default": 3.0}, "loops"),
        ({"joint": 1.0, "loops": 0.996, "default": 1.005}, "default"),
        ({"joint": 1.0, "default": 0.5}, "default"),
        ({}, "joint"),
    ],
)
def test_of_variants_about_as_fast_the_simplest_is_taken(searched, seconds, variant):
    _, tuned, _ = searched
    header = Header({"cpu": "any"}, {"alt": "0"})
    log = TuningLog(Contents({}, (), ()))
    for name, time in seconds.items():
        note_variant(log, tuned, header, name, name, time)
    assert fastest_variant(log, tuned.tasks, header, {v: v for v in VARIANTS}) == variant


def test_what_is_faster_in_some_rounds_only_is_not_taken(searched):
    _, tuned, _ = searched
    header = Header({"cpu": "any"}, {"alt": "0"})
    for won, variant in ((13, "default"), (18, "joint")):
        log = TuningLog(Contents({}, (), ()))
        note_variant(log, tuned, header, "default", "default", *[1.0] * 25)
        note_variant(log, tuned, header, "joint", "joint", *[0.5] * won, *[2.0] * (25 - won))
        assert fastest_variant(log, tuned.tasks, header, {v: v for v in VARIANTS}) == variant


def test_only_what_was_timed_as_it_is_now_and_only_the_last_time_counts(searched):
    _, tuned, _ = searched
    header = Header({"cpu": "any"}, {"alt": "0"})
    log = TuningLog(Contents({}, (), ()))
    programs = {"joint": "new", "loops": "same", "default": "default"}

    def fastest():
        return fastest_variant(log, tuned.tasks, header, programs)

    for name, program, time in (("joint", "old", 3.0), ("loops", "same", 3.0)):
        note_variant(log, tuned, header, name, program, time)
    note_variant(log, tuned, header, "default", "default", 2.0)
    assert fastest() == "default"
    note_variant(log, tuned, header, "loops", "same", 1.0)
    assert fastest() == "loops"
    note_variant(log, tuned, header, "joint", "new", 0.5)
    assert fastest() == "joint"
    programs["joint"] = programs["loops"] = "newer"
    assert fastest() == "joint"  # nothing was timed but the default


def note_variant(log, tuned, header, name, program, *seconds):
    candidate = Candidate(Config({"variant": name}), Config({"program": program}))
    measurement = Measurement(Status.ok, seconds)
    when = "2026-01-01T00:00:00+00:00"
    log.append(header.record(network_key(tuned.tasks), candidate, measurement, when, "it"))


def test_a_log_of_other_layouts_is_refused(searched, tmp_path, caplog):
    """Whatever is missing, and why, is one report."""
    folder, tuned, _ = searched
    path, log = folder / "model.onnx", folder / "log.jsonl"
    whole = r"1/3 tasks applied; missing: conv\S* .*, conv.* \(nothing .* other layouts, or by .*\)"
    with pytest.raises(TuningError, match=whole):
        alt.compile(path, threads=1, log=log, layouts="NCHW")
    made = fused(path, threads=1)
    found = network_of_log(made, log, 1, policy=policy_of("NCHW"), allow_partial=True)
    assert (found.applied, len(found.missing)) == (1, 2)
    assert sum("tasks applied" in each.message for each in caplog.records) == 1
    partly = alt.compile(path, threads=1, log=log, layouts="NCHW", allow_partial=True)
    proto, inputs = network()
    assert_same(partly(**inputs), run_reference(proto, inputs), length=5000)
    gone = next(key for key, task in tuned.tasks.items() if task.name in found.missing)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(x for x in log.read_text().splitlines(True) if gone not in x))
    with pytest.raises(TuningError, match=r"1/3 tasks .*\(not in the log\).*\(nothing .* layouts"):
        alt.compile(path, threads=1, log=part, layouts="NCHW")


@pytest.mark.parametrize("keep", [1, 5])
def test_a_pruned_log_still_covers_the_network(searched, tmp_path, keep):
    folder, tuned, _ = searched
    thin = tmp_path / "thin.jsonl"
    shutil.copy(folder / "log.jsonl", thin)
    before = network_of_log(fused(folder / "model.onnx", threads=1), thin, 1)
    tidied = prune(thin, keep)
    after = network_of_log(fused(folder / "model.onnx", threads=1), thin, 1)
    assert tidied.dropped > 0 or keep > 1
    assert after.applied == before.applied == len(tuned.tasks) and not after.missing
    if keep == 5:
        assert program_of(after.kernels, JOINT, True) == program_of(before.kernels, JOINT, True)


def test_the_same_log_gives_the_same_program(searched):
    folder, _, _ = searched
    paths = str(folder / "model.onnx"), str(folder / "log.jsonl")
    assert replayed(*paths) == replayed(*paths)


@pytest.mark.slow
def test_the_same_log_gives_the_same_program_in_a_fresh_process(searched):
    folder, _, _ = searched
    paths = str(folder / "model.onnx"), str(folder / "log.jsonl")
    command = [sys.executable, "-c", FRESH, str(Path(__file__).parent), *paths]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert fresh.stdout.strip() == replayed(*paths)


def test_a_compiled_replay_computes_the_right_numbers(searched):
    folder, _, _ = searched
    proto, inputs = network()
    module = alt.compile(folder / "model.onnx", threads=1, log=folder / "log.jsonl", verify=True)
    assert_same(module(**inputs), run_reference(proto, inputs), length=5000)


def test_a_log_for_other_threads_is_refused_with_the_reason(searched):
    folder, _, _ = searched
    with pytest.raises(TuningError, match=r"0/3 tasks applied.*threads=1.*threads=2"):
        alt.compile(folder / "model.onnx", threads=2, log=folder / "log.jsonl")


def test_a_log_for_another_processor_is_refused_with_the_reason(searched):
    folder, _, _ = searched
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}
    with pytest.raises(TuningError, match=r"measured for .*here.*x86-64-v2"):
        alt.compile(folder / "model.onnx", target, threads=1, log=folder / "log.jsonl")


def test_a_log_of_a_part_is_refused_unless_that_is_enough(searched, tmp_path):
    folder, tuned, _ = searched
    key, task = next(iter(tuned.tasks.items()))
    lines = (folder / "log.jsonl").read_text().splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(line for line in lines if key not in line) + "\n")
    with pytest.raises(TuningError, match="2/3 tasks applied") as refusal:
        alt.compile(folder / "model.onnx", threads=1, log=part)
    assert task.name in str(refusal.value)
    proto, inputs = network()
    module = alt.compile(folder / "model.onnx", threads=1, log=part, allow_partial=True)
    assert_same(module(**inputs), run_reference(proto, inputs), length=5000)


def test_a_log_of_another_model_is_refused(searched):
    folder, _, _ = searched
    with pytest.raises(TuningError, match="tasks applied"):
        alt.compile(network(channels=40)[0], threads=1, log=folder / "log.jsonl")


def test_a_search_goes_on_where_it_ended_and_may_be_interrupted(searched, tmp_path):
    folder, tuned, _ = searched
    log = tmp_path / "log.jsonl"
    log.write_bytes((folder / "log.jsonl").read_bytes())

    def interrupt(_):
        raise KeyboardInterrupt

    # Without a joint stage and with no candidate ruled out the batch is a full one.
    options = Options(batch=4, seed=4, joint_share=0, hopeless=1e9)
    before = TuningLog.read(log)
    again = alt.tune(
        folder / "model.onnx", trials=100, threads=1, log=log, options=options, observe=interrupt
    )
    assert again.outcome.interrupted and again.outcome.trials == 4
    records = [r for r in TuningLog.read(log).records if r.task in tuned.tasks]
    assert len({(r.task, r.candidate) for r in records}) == TRIALS + 4
    assert again.module is not None
    for key, task in tuned.tasks.items():
        layout = task.layouts.default()
        default = Candidate(layout, task.loops(layout).default())
        known = before.seen(key, before.of_task(key)[0].target)
        assert again.outcome.default[key] == known[default].best


def test_a_log_that_is_none_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "log.jsonl").write_text("something else\n")
    with pytest.raises(TuningError, match="log"):
        alt.tune(network()[0], trials=4, threads=1, log=tmp_path / "log.jsonl")


def test_what_cannot_be_measured_here_is_refused():
    target = {"kind": "cuda", "arch": "sm_90"}
    with pytest.raises(AltError):
        alt.tune(network()[0], target, trials=4)
