"""Tuning and replay on a GPU; `test_without_gpu.py` runs the same where none is."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import onnx
import pytest
import tvm
from equivalence import assert_same, run_reference
from launches import EMULATED, counts, counts_since
from small_tasks import candidate, network, tasks_here

import alt
from alt.build import build
from alt.compiler import fused
from alt.cuda.module import CudaModule
from alt.finals import ROUNDS, Finals
from alt.gpu_runner import GpuRunner, require_here
from alt.headers import header_of
from alt.messages import Limits, Timing
from alt.policies import JOINT
from alt.propagate import plan_layouts
from alt.replay import network_of_log
from alt.target import resolve
from alt.tasks import tasks_of
from tuner.config import Config
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.options import Options
from tuner.task import Candidate, Status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.runtime.cuda(0).exist, reason="there is no GPU that TVM can use"),
]
TRIALS = 4
TIMING = Timing(repeats=2, min_seconds=0.0005, hopeless=1e6)
OPTIONS = Options(batch=2, seed=3, hopeless=1e9)


def name_here() -> str:
    return require_here(resolve("cuda"), None)


def replayed(path, log):
    """A digest of the CUDA C that a model and a log give."""
    made = fused(onnx.load(path), "cuda")
    plan = plan_layouts(made.graph, network_of_log(made, log, 1).kernels, made.machine)
    source = build(made.graph, plan, made.machine).library.source
    return hashlib.sha256(source.encode()).hexdigest()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The network after a short search: its folder, and what the search said."""
    folder = tmp_path_factory.mktemp("tuning")
    onnx.save(network()[0], folder / "model.onnx")
    log = folder / "log.jsonl"
    return folder, alt.tune(folder / "model.onnx", "cuda", trials=TRIALS, log=log, options=OPTIONS)


def test_what_was_found_is_right_and_was_measured(searched):
    folder, tuned = searched
    assert tuned.outcome.trials == TRIALS
    assert len(tuned.tasks) == 2
    assert set(tuned.outcome.best) == set(tuned.tasks)
    proto, inputs = network()
    assert_same(tuned.module(**inputs), run_reference(proto, inputs), length=200)
    log = TuningLog.read(folder / "log.jsonl")
    (header,) = log.headers.values()
    assert header.target["arch"].startswith("sm_")
    assert header.target["device"] == name_here()
    for key, task in tuned.tasks.items():
        records = log.of_task(key)
        assert all(r.measurement.ok for r in records), [r.measurement for r in records]
        assert all(r.measurement.error < 1e-4 for r in records if r.measurement.error is not None)
        # The compiler's own choice comes first.
        assert records[0].candidate == candidate(task)


def test_the_same_log_gives_the_same_code(searched):
    folder, tuned = searched
    paths = folder / "model.onnx", folder / "log.jsonl"
    assert replayed(*paths) == replayed(*paths)
    module = alt.compile(paths[0], "cuda", log=paths[1])
    assert [k["schedule"] for k in module.header["kernels"]] == [
        k["schedule"] for k in tuned.module.header["kernels"]
    ]


def test_whole_networks_are_timed_as_they_will_run_in_turns(tmp_path, monkeypatch):
    """From the second call on as a graph; the host waits for each, as whoever uses it does."""
    made = fused(network()[0], "cuda")
    plan = plan_layouts(made.graph, made.kernels, made.machine)
    tasks = tasks_of(made.kernels, made.graph.constants, made.machine, plan)
    header = header_of(made.machine, 1, name_here(), None)
    log = TuningLog.open(tmp_path / "log.jsonl", header)
    finals = Finals(made, tasks, log, header, None, JOINT, True, None)
    decided = finals.variants()
    # Together, equal ones would be one.
    modules = {v: finals.assembled({v: decided[v]})[v] for v in ("joint", "default")}
    timed = []
    benchmark = CudaModule.benchmark

    def noted(module, *args, **options):
        timed.append(module)
        return benchmark(module, *args, **options)

    monkeypatch.setattr(CudaModule, "benchmark", noted)
    before = counts()
    seconds = finals.time_in_turns(modules, decided)
    assert seconds.keys() == modules.keys() and min(seconds.values()) > 0
    pair = list(modules.values())
    assert timed == [m for k in range(ROUNDS) for m in (pair if k % 2 == 0 else pair[::-1])]
    assert [len(r.measurement.seconds) for r in log.records] == [ROUNDS] * 2
    if EMULATED:
        kernels = len(pair[0].header["kernels"])
        passed = counts_since(before)
        assert kernels > 1
        assert (passed["direct"], passed["recorded"]) == (2 * kernels, 2 * kernels)
        assert passed["replayed"] >= 2 * kernels * ROUNDS * 3


def test_a_search_goes_on_where_it_ended(searched, tmp_path):
    folder, tuned = searched
    log = tmp_path / "log.jsonl"
    log.write_bytes((folder / "log.jsonl").read_bytes())
    again = alt.tune(folder / "model.onnx", "cuda", trials=2, log=log, options=OPTIONS)
    assert again.outcome.trials == 2
    records = [r for r in TuningLog.read(log).records if r.task in tuned.tasks]
    assert len({(r.task, r.candidate) for r in records}) == TRIALS + 2


@pytest.fixture(scope="module")
def runner():
    with GpuRunner(
        network()[0],
        "cuda",
        workers=2,
        timing=TIMING,
        limits=Limits(build_seconds=900, run_seconds=900),
        setup="planted_on_gpu:install",
    ) as made:
        yield made


FAILURES = {
    # planted: status, words of the message
    "cannot be launched": (Status.build, "bytes of shared memory, more than the 100 of"),
    "does not compile": (Status.build, "building it: AltError: nvcc cannot compile"),
    "is wrong": (Status.wrong, "is allowed"),
    "faults": (Status.crash, "the GPU is lost"),
}


def test_each_failure_costs_only_itself(runner):
    task = tasks_here()[0]
    good = candidate(task)
    batch = [good, *(candidate(task, planted) for planted in FAILURES), good, good]
    first, *failures, before_last, last = runner.measure(task, batch)
    for result in (first, before_last, last):
        assert result.ok, result
        assert result.error < 1e-4
        assert len(result.seconds) == TIMING.repeats
        assert min(result.seconds) > 0
    found = dict(zip(FAILURES, failures, strict=True))
    for planted, (status, words) in FAILURES.items():
        assert found[planted].status is status, found[planted]
        assert words in found[planted].message


def test_a_convolution_by_winograds_algorithm_is_measured(runner):
    task = tasks_here()[0]
    layout = Config({**task.layouts.default(), "winograd": 4})
    (result,) = runner.measure(task, [Candidate(layout, task.loops(layout).default())])
    assert result.ok, result
    assert 0 < result.error < 1e-4


@pytest.mark.slow
def test_a_kernel_that_hangs_is_ended():
    task = tasks_here()[0]
    limits = Limits(build_seconds=900, run_seconds=20)
    with GpuRunner(
        network()[0],
        "cuda",
        workers=1,
        timing=TIMING,
        limits=limits,
        setup="planted_on_gpu:install",
    ) as runner:
        hung, good = runner.measure(task, [candidate(task, "hangs"), candidate(task)])
    assert hung.status is Status.timeout
    assert "more than 20 s" in hung.message
    assert good.ok


def test_candidates_are_checked_anew_and_timed_cold(runner):
    task = tasks_here()[1]
    checked = runner.check(task, candidate(task), seed=7)
    assert checked.ok and checked.build_seconds > 0
    assert runner.check(task, candidate(task, "is wrong"), seed=7).status is Status.wrong
    before = runner.timing
    try:
        for timing in (
            replace(TIMING, repeats=3, flush_bytes=1 << 20),
            replace(TIMING, repeats=3, cold_weights=False),
        ):
            runner.timing = timing
            (found,) = runner.measure(task, [candidate(task)])
            assert found.ok and len(found.seconds) == 3, found
    finally:
        runner.timing = before


@pytest.mark.skipif(not EMULATED, reason="takes a GPU that has no memory")
def test_a_gpu_on_which_nothing_runs_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("ALT_FAKE_BYTES", "10")
    with pytest.raises(alt.AltError, match=r"copy of 8 numbers.*out of memory"):
        GpuRunner(network()[0], "cuda", workers=1, timing=TIMING)


def test_logs_of_other_gpus_are_refused(searched, tmp_path):
    folder, _ = searched
    text = (folder / "log.jsonl").read_text()
    assert f'"device": "{name_here()}"' in text
    log = TuningLog.read(folder / "log.jsonl")
    (header,) = log.headers.values()
    other = type(header)({**header.target, "device": "NVIDIA Other"}, header.versions)
    moved = TuningLog.open(tmp_path / "other.jsonl", other)
    for r in log.records:
        assert moved.append(other.record(r.task, r.candidate, r.measurement, r.when, r.name))
    with pytest.raises(TuningError, match=r"0/2 tasks applied.*NVIDIA Other"):
        alt.compile(folder / "model.onnx", "cuda", log=tmp_path / "other.jsonl")
