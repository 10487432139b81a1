"""Measuring: a candidate that misbehaves costs itself only, and what is timed was compared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from planted import NO_REFERENCE
from small_models import model_of, random

from alt.compiler import fused
from alt.errors import AltError
from alt.expected import DIRECT
from alt.messages import Limits, Timing
from alt.policies import JOINT
from alt.propagate import plan_layouts
from alt.runner import Runner
from alt.tasks import tasks_of
from primitives import LayoutError
from tuner.config import Config
from tuner.errors import Unmeasurable
from tuner.task import Candidate, Status

pytestmark = pytest.mark.llvm

WORKERS = 2
# No kernel is that hopeless by chance.
TIMING = Timing(repeats=2, min_seconds=0.0005, hopeless=1e6)


def network() -> onnx.ModelProto:
    """Three convolutions: the first is built soon, the last has no reference."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Conv", ["c", "w2"], ["y"], "third"),
    ]
    return model_of(
        nodes,
        {"x": (1, (1, 16, 9, 9))},
        {"y": (1, (1, NO_REFERENCE, 9, 9))},
        {
            "w0": random(32, 16, 1, 1),
            "w1": random(16, 32, 3, 3),
            "w2": random(NO_REFERENCE, 16, 1, 1),
        },
    )


def tasks_in(model: onnx.ModelProto):
    made = fused(model)
    plan = plan_layouts(made.graph, made.kernels, made.machine)
    return list(tasks_of(made.kernels, made.graph.constants, made.machine, plan, JOINT).values())


@pytest.fixture(scope="module")
def tasks():
    return tasks_in(network())


@pytest.fixture(scope="module")
def task(tasks):
    return tasks[0]


@pytest.fixture(scope="module")
def runner():
    limits = Limits(build_seconds=5, run_seconds=4, memory_bytes=2 << 30)
    with Runner(
        network(), workers=WORKERS, timing=TIMING, limits=limits, setup="planted:install"
    ) as made:
        yield made


def candidate(task, planted: str = "", algorithm: str = "blocks") -> Candidate:
    layout = next(c for c in samples(task) if c["algorithm"] == algorithm)
    loops = task.loops(layout).default()
    return Candidate(layout, Config({**loops, "planted": planted} if planted else loops))


def samples(task) -> list[Config]:
    rng = np.random.default_rng(0)
    return [task.layouts.default(), *(task.layouts.sample(rng) for _ in range(30))]


# Failures


FAILURES = {
    # planted: status, words of the message; those that end their process last, as what else that
    # one has built is built again
    "raises while building": (Status.build, "building it: ValueError: cannot be built"),
    "crashes while building": (Status.crash, "building it: killed by SIGSEGV"),
    "takes all memory while building": (Status.memory, "building it"),
    "raises": (Status.run, "running it: ValueError: has a bad day"),
    "takes all memory": (Status.memory, "running it"),
    "is wrong": (Status.wrong, "is allowed"),
    "does nothing": (Status.wrong, "is allowed"),
    "crashes": (Status.crash, "running it: killed by SIGSEGV"),
    "aborts": (Status.crash, "killed by SIGABRT: internal error 42"),
    "aborts out of memory": (Status.memory, "killed by SIGABRT: terminate called: std::bad_alloc"),
    "is killed": (Status.memory, "most likely memory ran out"),
    "hangs": (Status.timeout, "running it took more than 4 s"),
}


def test_each_failure_costs_only_itself(runner, task):
    good = candidate(task)
    first, *failures, last = runner.measure(
        task, [good, *(candidate(task, planted) for planted in FAILURES), good]
    )
    for result in (first, last):
        assert result.ok, result
        assert result.error is not None and result.error < DIRECT
    found = dict(zip(FAILURES, failures, strict=True))
    assert {planted: result.status for planted, result in found.items()} == {
        planted: status for planted, (status, _) in FAILURES.items()
    }
    for planted, (_, words) in FAILURES.items():
        assert words in found[planted].message
        assert "\n" not in found[planted].message
    assert found["is wrong"].error > DIRECT
    assert found["does nothing"].error == float("inf")


def test_a_build_that_hangs_is_ended(runner, task):
    batch = [candidate(task, "hangs while building"), candidate(task)]
    hung, good = runner.measure(task, batch)
    assert (hung.status, good.status) == (Status.timeout, Status.ok)
    assert hung.message == "building it took more than 5 s"


def test_without_a_reference_nothing_is_believed(runner, tasks):
    why = "there is no reference to compare candidates with: ValueError: no way to compute it"
    with pytest.raises(Unmeasurable, match=why):
        runner.measure(tasks[2], [candidate(tasks[2])] * 3)
    with pytest.raises(Unmeasurable, match=why):
        runner.check(tasks[2], candidate(tasks[2]), seed=7)
    assert runner.measure(tasks[0], [candidate(tasks[0])])[0].ok


# What is measured


def test_results_are_in_the_order_of_the_candidates(runner, task):
    batch = [candidate(task, what) for what in ("", "is wrong", "", "raises", "", "")]
    assert [r.status.value for r in runner.measure(task, batch)] == [
        "ok", "wrong", "ok", "run", "ok", "ok",
    ]  # fmt: skip
    assert runner.measure(task, []) == []


@pytest.mark.parametrize("algorithm", ["blocks", "rows", "winograd2", "winograd4"])
def test_a_measurement_has_samples_an_error_and_what_building_took(runner, tasks, algorithm):
    (found,) = runner.measure(tasks[1], [candidate(tasks[1], "", algorithm)])
    assert found.ok, found
    assert len(found.seconds) == TIMING.repeats
    assert 0 <= found.error < 1e-3
    assert min(found.seconds) > 0 and found.build_seconds > 0


def test_rounds_are_joined(runner, task):
    found = runner.measure(task, [candidate(task), candidate(task, "crashes")] * 2, rounds=3)
    assert [r.ok for r in found] == [True, False] * 2
    assert [len(r.seconds) for r in found] == [3 * TIMING.repeats, 0] * 2


def test_the_hopeless_are_timed_once(runner, task):
    fast, hopeless = (
        runner.measure(task, [candidate(task)], best=best)[0] for best in (1.0, 1e-15)
    )
    assert (len(fast.seconds), len(hopeless.seconds)) == (TIMING.repeats, 1)
    assert hopeless.ok


def test_overlapping_gives_the_same_verdicts(runner, task):
    runner.overlap = True
    batch = [candidate(task, what) for what in ("", "crashes", "", "is wrong", "")]
    try:
        found = [r.status.value for r in runner.measure(task, batch)]
    finally:
        runner.overlap = False
    assert found == ["ok", "crash", "ok", "wrong", "ok"]


def test_a_check_uses_other_inputs(runner, task):
    cheat = candidate(task, "knows the inputs")
    assert runner.measure(task, [cheat])[0].ok
    assert runner.check(task, cheat, seed=7).status is Status.wrong
    good = runner.check(task, candidate(task), seed=7)
    assert good.ok and good.error < DIRECT and good.build_seconds > 0


def test_conversions_are_timed(runner):
    shape = (1, 32, 9, 9)
    by_number = runner.time_conversion(shape, "float32", 1, 16)
    text = "1x32x9x9 split(1,2,16) reorder(0,1,3,4,2)"
    by_text = runner.time_conversion(shape, "float32", text, "1x32x9x9")
    assert by_number.ok and by_text.ok
    assert by_number.error == by_text.error == 0
    assert len(by_text.seconds) == TIMING.repeats and min(by_text.seconds) > 0


# Refusals


def test_what_cannot_be_measured_is_refused(runner, task):
    with pytest.raises(AltError, match="of shape"):
        runner.time_conversion((1, 2), "float32", "1x32", 1)
    with pytest.raises(LayoutError):
        runner.time_conversion((1, 32), "float32", "1x32 split(1,5)", 1)
    foreign = tasks_in(
        model_of(
            [helper.make_node("Conv", ["x", "w"], ["y"], "other")],
            {"x": (1, (1, 4, 5, 5))},
            {"y": (1, (1, 8, 5, 5))},
            {"w": random(8, 4, 1, 1)},
        )
    )[0]
    with pytest.raises(AltError, match="not one of this network's 3 tasks"):
        runner.measure(foreign, [])
    with pytest.raises(AltError, match="at least 1"):
        Runner(network(), workers=0)


# Processes


def alive(process: int) -> bool:
    """Whether a process exists and has not ended, with all its threads; Linux tells.

    Files are closed when the last thread ends, which may be after the first one.
    """
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(list(Path(f"/proc/{process}/task").iterdir())) > 1
    except OSError:
        return False


def all_end(processes: list[int], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_workers_are_kept_and_replaced_one_by_one(runner, task):
    runner.measure(task, [candidate(task)])
    zygote, *workers = runner.processes
    assert len(workers) == WORKERS and all(map(alive, runner.processes))
    assert all(r.ok for r in runner.measure(task, [candidate(task)] * 2))
    assert runner.processes == [zygote, *workers]
    os.kill(workers[0], signal.SIGKILL)
    assert all_end(workers[:1])
    assert all(r.ok for r in runner.measure(task, [candidate(task)] * 2))
    assert len(runner.processes) == 1 + WORKERS and workers[1] in runner.processes


def test_an_interrupt_ends_the_batch_and_not_the_runner(runner, task):
    runner.measure(task, [candidate(task)])
    before = runner.processes
    for process in before:
        os.kill(process, signal.SIGINT)
    assert runner.measure(task, [candidate(task)])[0].ok
    assert runner.processes == before
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        runner.measure(task, [candidate(task, "hangs while building")] * 2)
    timer.join()
    assert all_end(before[1:])
    assert runner.measure(task, [candidate(task)])[0].ok
    assert len(runner.processes) == 1 + WORKERS


PARENT = """
import sys
import test_runner as t
from alt.messages import Limits
from alt.runner import Runner

task = t.tasks_in(t.network())[0]
runner = Runner(t.network(), workers=2, limits=Limits(10_000, 10_000), setup="planted:install")
assert runner.measure(task, [t.candidate(task)])[0].ok
print(*runner.processes, flush=True)
if sys.argv[1] == "leave":
    sys.exit()
runner.measure(task, [t.candidate(task, "hangs while building")] * 2)
"""


@pytest.mark.parametrize("end", ["killed", pytest.param("leave", marks=pytest.mark.slow)])
def test_nothing_outlives_its_parent(end):
    folder = Path(__file__).parent
    path = os.pathsep.join(map(str, (folder, folder.parent.parent)))
    command = [sys.executable, "-c", PARENT, end]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        processes = [int(word) for word in parent.stdout.readline().split()]
        assert len(processes) == 3
        if end == "killed":
            parent.kill()
        parent.wait(30)
    assert all_end(processes)


def test_closing_ends_the_processes(runner, task):
    runner.measure(task, [candidate(task)])
    processes = runner.processes
    runner.close()
    assert all_end(processes)
    with pytest.raises(AltError, match="closed"):
        runner.measure(task, [candidate(task)])
    assert runner.processes == []
    runner.close()
