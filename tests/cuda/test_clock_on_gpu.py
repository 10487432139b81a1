"""How candidates are timed on a GPU; `test_without_gpu.py` runs the same where none is."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import tvm
import tvm_ffi
from launches import EMULATED, counts, counts_since
from planted_on_gpu import Unrecordable
from small_tasks import candidate, network, tasks_here

import alt.gpu_clock
from alt.cuda.code import CudaCode
from alt.cuda.driver import Driver, DriverError, driver
from alt.cuda.graphs import Recorder
from alt.cuda.nvcc import compile_source
from alt.expected import error_of, expected, random_values, runnable
from alt.gpu_clock import LEAST_SECONDS, MOST_CALLS, Clock, calls_of
from alt.gpu_runner import GpuRunner
from alt.messages import Limits, Timing
from alt.target import resolve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.runtime.cuda(0).exist, reason="there is no GPU that TVM can use"),
]
emulated = pytest.mark.skipif(not EMULATED, reason="needs the driver that counts")
LAUNCHED, REPLAYED = 4e-6, 1e-6
"""Seconds of a kernel on the emulated device: as fast as the host launches them, or by a graph."""


@pytest.fixture(autouse=True)
def small_kernels(monkeypatch):
    monkeypatch.setenv("ALT_FAKE_LAUNCH_NS", str(round(LAUNCHED * 1e9)))
    monkeypatch.setenv("ALT_FAKE_REPLAY_NS", str(round(REPLAYED * 1e9)))


class Prepared:
    """A kernel on the device."""

    def __init__(self):
        task = tasks_here()[1]
        program = task.program(candidate(task))
        lowered = program.library
        (image,) = compile_source(lowered.source, resolve("cuda").arch)
        launches = [{name: lowered.launches[name].to_dict() for name in image.registers}]
        values = random_values(task.inputs, seed=1)
        self.task = task
        self.library = CudaCode(lowered.host, [image.code], launches).linked()
        self.reference = expected(task.kernel, values, task.constants, resolve("llvm"))
        self.ready = runnable(program, values, [task.kernel.output])
        *self.before, self.weights, self.arena = [a.reshape(-1) for a in self.ready.arrays]

    def clock(self, library=None, copies=3):
        """With fresh memory; of the copies of the weights only the last is right."""
        size, device = self.weights.size, tvm.runtime.cuda(0)
        stride = size + -size % 64
        block = np.zeros((copies, stride if copies > 1 else size), np.uint8)
        block[-1, :size] = self.weights
        arrays = [*self.before, block.reshape(-1), self.arena]
        tensors = [tvm.runtime.tensor(array, device) for array in arrays]
        return Clock(library or self.library, device, tensors, stride, copies)

    def is_right(self, clock):
        """Whether the last call of a clock computed what it should."""
        output = len(self.task.inputs)
        self.ready.arrays[output][...] = clock.tensors[output].numpy()
        return error_of(self.ready, self.task.kernel.output, self.reference) < 1e-4


@pytest.fixture(scope="module")
def prepared():
    return Prepared()


def no_longer_recorded():
    """Memory can be had, and another recording made: the last one has ended."""
    device = tvm.runtime.cuda(0)
    tvm.runtime.empty((8,), "uint8", device)
    recorder = Recorder(driver(), device)
    graph = recorder.record(lambda: None)
    driver().call("cuGraphExecDestroy", ctypes.c_void_p(graph))
    recorder.close()
    return True


def test_the_calls_of_a_sample_are_one_graph(prepared):
    clock = prepared.clock()
    assert clock.launched(1, 1)
    before = counts()
    found = clock.samples(7, repeats=3)
    assert len(found) == 3 and min(found) > 0
    if EMULATED:
        assert found == pytest.approx([REPLAYED] * 3)
        # One replay more than is timed.
        passed = {"direct": 0, "recorded": 7, "replayed": 4 * 7, "graphs": 0}
        assert counts_since(before) == passed
        assert clock.launched(7, repeats=3) == pytest.approx([LAUNCHED] * 3)


@pytest.mark.parametrize("sample", [Clock.samples, Clock.launched])
def test_calls_use_the_copies_of_the_weights_one_after_the_other(prepared, sample):
    """Three copies of which the last is right: what the last of so many calls leaves tells."""
    right = []
    for count in (2, 3, 4, 6):
        clock = prepared.clock()
        sample(clock, count, 2)
        right.append(prepared.is_right(clock))
    assert right == [False, True, False, True]


def test_how_many_calls_are_a_sample():
    timing = Timing(min_seconds=0.004)
    assert [calls_of(timing, s) for s in (1.0, 0.004, 0.0015, 1e-12)] == [1, 1, 3, MOST_CALLS]
    short = Timing(min_seconds=0.0)
    assert calls_of(short, 3e-6) == ceil(LEAST_SECONDS / 3e-6) == 34
    assert calls_of(short, 2 * LEAST_SECONDS) == 1


@emulated
def test_a_launch_tells_how_many_calls_are_recorded_first(prepared):
    for seconds, calls in ((2.01e-4, 51), (1e-9, 25)):
        before = counts()
        timing = Timing(min_seconds=seconds)
        assert prepared.clock().calibrated(timing) == pytest.approx(REPLAYED)
        assert counts_since(before)["recorded"] in (calls, calls + 1)


@emulated
def test_with_flushed_caches_calls_are_launched_one_by_one(prepared):
    timing, before = Timing(repeats=5, flush_bytes=1 << 16), counts()
    clock = prepared.clock(copies=1)
    assert clock.flushed(timing) == pytest.approx([LAUNCHED] * 5)
    assert counts_since(before) == {"direct": 6, "recorded": 0, "replayed": 0, "graphs": 0}


class Without:
    """A driver that lacks a function."""

    def __init__(self, missing):
        self.missing, self.library = missing, ctypes.CDLL("libcuda.so.1")

    def __getattr__(self, name):
        if name == self.missing:
            raise AttributeError(name)
        return getattr(self.library, name)


def test_a_driver_without_a_function_is_an_error_that_says_so():
    with pytest.raises(DriverError, match="cuGraphPaint: this driver is too old"):
        Driver(ctypes.CDLL("libcuda.so.1")).call("cuGraphPaint")


@pytest.mark.parametrize(
    "missing", ["", "cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags", "cuEventCreate"]
)
def test_without_graphs_the_calls_are_launched(prepared, missing, monkeypatch):
    cuda = Driver(Without(missing)) if missing else None
    monkeypatch.setattr(alt.gpu_clock, "driver", lambda: cuda)
    clock, before = prepared.clock(), counts()
    found = clock.samples(6, repeats=2)
    assert len(found) == 2 and min(found) > 0
    assert prepared.is_right(clock)
    if EMULATED:
        assert found == pytest.approx([LAUNCHED] * 2)
        assert (counts_since(before)["replayed"], counts_since(before)["graphs"]) == (0, 0)
    monkeypatch.undo()
    assert no_longer_recorded()


@emulated
def test_where_nothing_can_be_recorded_the_calls_are_launched(prepared, monkeypatch):
    monkeypatch.setenv("ALT_FAKE_CAPTURE", "0")
    clock, before = prepared.clock(), counts()
    assert clock.samples(6, repeats=2) == pytest.approx([LAUNCHED] * 2)
    assert counts_since(before) == {"direct": 18, "recorded": 0, "replayed": 0, "graphs": 0}


class Raising(Unrecordable):
    """Host code that raises while it is recorded, and does nothing that is not allowed."""

    def __getitem__(self, name):
        def run(*arguments):
            self.library[name](*arguments)
            raise self.problem

        return run


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (None, "cuStreamEndCapture: "),
        (RuntimeError("well\nno"), "no"),
        (RuntimeError(), "RuntimeError"),
    ],
    ids=["memory", "error", "nameless error"],
)
def test_what_fails_while_it_is_recorded_spoils_nothing(prepared, problem, said, caplog):
    caplog.set_level("INFO")
    library = Raising(prepared.library) if problem else Unrecordable(prepared.library)
    library.problem = problem
    clock, before = prepared.clock(library), counts()
    assert len(clock.samples(6, repeats=2)) == 2
    (record,) = caplog.records
    assert f"timed without a CUDA graph: {said}" in record.getMessage()
    assert prepared.is_right(clock)
    assert no_longer_recorded()
    gc.collect()
    assert counts_since(before)["graphs"] == 0
    after = prepared.clock().samples(6, repeats=2)
    if EMULATED:
        assert after == pytest.approx([REPLAYED] * 2)


def test_ctrl_c_ends_recording(prepared):
    library = Raising(prepared.library)
    library.problem = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        prepared.clock(library).samples(6, repeats=2)
    device = tvm_ffi.device("cuda", 0)
    assert tvm_ffi.get_raw_stream(device) == 0
    assert no_longer_recorded()


@emulated
def test_candidates_that_cannot_be_recorded_cost_only_themselves():
    """One worker times them all; what launches take makes no candidate hopeless."""
    task = tasks_here()[1]
    timing = Timing(repeats=3, min_seconds=1e-4, hopeless=1.5)
    with GpuRunner(
        network()[0],
        "cuda",
        workers=1,
        timing=timing,
        limits=Limits(build_seconds=900, run_seconds=900),
        setup="planted_on_gpu:install",
    ) as runner:
        batch = [candidate(task), candidate(task, "cannot be recorded"), candidate(task)]
        first, planted, last = runner.measure(task, batch)
        for cold in (False, True):
            runner.timing = replace(timing, cold_weights=cold)
            assert runner.check(task, candidate(task), seed=3).seconds == first.seconds
        runner.timing = replace(timing, flush_bytes=1 << 16)
        flushed = runner.check(task, candidate(task), seed=3)
    assert first.seconds == last.seconds == pytest.approx([REPLAYED] * 3)
    assert planted.seconds == pytest.approx([LAUNCHED]), "hopeless, so timed once"
    assert max(first.error, planted.error, last.error) < 1e-4
    assert flushed.seconds == pytest.approx([LAUNCHED] * 3)
