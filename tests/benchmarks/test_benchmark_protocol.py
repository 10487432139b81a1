"""Timing arithmetic on scripted samples, and workers on contenders that misbehave."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from numpy.typing import NDArray

from benchmarks.baselines import Arrays, OnnxRuntime, OpenVINO
from benchmarks.networks import bert_tiny, inputs_for
from benchmarks.protocol import (
    Comparison,
    Plan,
    Result,
    Timing,
    compare,
    interleave,
    median_ratio,
    relative_error,
)
from benchmarks.worker import Worker, WorkerError


@dataclass
class Scripted:
    """Answers with given samples, warm-up first; None is a failure."""

    name: str
    script: list[float | None]
    diary: list[tuple[str, float]] = field(default_factory=list)

    def sample(self, seconds: float) -> float:
        self.diary.append((self.name, seconds))
        answer = self.script.pop(0)
        if answer is None:
            raise WorkerError(f"{self.name}: broke")
        return answer


@dataclass
class Fake:
    """A contender that doubles its input and can be told to misbehave."""

    name: str = "fake"
    behaviour: str = ""
    factor: float = 2.0

    def load(self) -> None:
        if self.behaviour == "spin":
            threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        while True:
            pass

    def prepare(self, model: Path, threads: int) -> None:
        match self.behaviour:
            case "raise":
                raise ValueError("cannot compile\nand a long story")
            case "die":
                os._exit(3)
            case "hang":
                time.sleep(60)
            case "allocate":
                np.ones(50_000_000).sum()

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        if self.behaviour == "die while running":
            os._exit(4)
        return [values * self.factor for values in inputs.values()]


INPUTS: Arrays = {"x": np.arange(4, dtype=np.float32)}
NO_MODEL = Path("unused.onnx")


def test_ratio_is_blind_to_drift_that_the_medians_are_not() -> None:
    drift = [1.0, 2.0, 16.0, 4.0, 8.0]
    slow = [2.0 * speed for speed in drift]
    assert median_ratio(slow, drift) == 2.0
    with pytest.raises(ValueError):
        median_ratio(slow, drift[:-1])


def test_timing_percentiles() -> None:
    timing = Timing(tuple(float(t) for t in range(11)))
    assert (timing.p10, timing.median, timing.p90) == (1.0, 5.0, 9.0)


def test_every_round_samples_everyone_once_and_the_warm_up_is_forgotten() -> None:
    diary: list[tuple[str, float]] = []
    samplers = [Scripted(name, [99.0, *[1.0] * 8], diary) for name in "abc"]
    plan = Plan(rounds=8, sample_seconds=0.1, warm_up_seconds=7.0)
    timings, problems = interleave(samplers, plan, np.random.default_rng(0))
    assert problems == {}
    assert {name: timing.samples for name, timing in timings.items()} == dict.fromkeys(
        "abc", (1.0,) * 8
    )
    rounds = [diary[i : i + 3] for i in range(0, len(diary), 3)]
    assert all({name for name, _ in round_} == set("abc") for round_ in rounds)
    assert [{seconds for _, seconds in round_} for round_ in rounds] == [{7.0}, *[{0.1}] * 8]
    assert len({tuple(name for name, _ in round_) for round_ in rounds}) > 2


def test_order_follows_the_seed() -> None:
    def order(seed: int) -> list[tuple[str, float]]:
        diary: list[tuple[str, float]] = []
        samplers = [Scripted(name, [1.0] * 7, diary) for name in "abc"]
        interleave(samplers, Plan(rounds=6), np.random.default_rng(seed))
        return diary

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_who_fails_in_a_round_leaves_the_others_running() -> None:
    samplers = [Scripted("good", [1.0] * 6), Scripted("bad", [1.0, 1.0, 1.0, None])]
    timings, problems = interleave(samplers, Plan(rounds=5), np.random.default_rng(0))
    assert list(timings) == ["good"] and len(timings["good"].samples) == 5
    assert problems == {"bad": "bad: broke"}


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([[1.0, -2.0]], [[1.0, -2.0]], 0.0),
        ([[1.0, -2.5]], [[1.0, -2.0]], 0.25),
        ([[100.0], [0.5]], [[100.0], [1.0]], 0.5),  # a small output is not hidden by a large one
        ([[0.0]], [[0.0]], 0.0),
        ([[1e-9]], [[0.0]], math.inf),
        ([[math.nan]], [[1.0]], math.inf),
        ([[1.0]], [[math.inf]], math.inf),
        ([[1.0]], [[1.0, 1.0]], math.inf),
        ([[1.0]], [[1.0], [1.0]], math.inf),
    ],
)
def test_relative_error(
    actual: list[list[float]], expected: list[list[float]], error: float
) -> None:
    assert relative_error([np.array(a) for a in actual], [np.array(b) for b in expected]) == error


def result(name: str, seconds: Sequence[float], error: float = 0.0) -> Result:
    return Result(name, timing=Timing(tuple(seconds)), error=error)


def test_speedup_is_over_the_best_of_those_that_are_right() -> None:
    ours, slow, fast = result("ours", [1.0]), result("slow", [3.0]), result("fast", [0.5])
    wrong = result("wrong", [0.1], error=0.01)
    comparison = Comparison("net", "slow", {r.contender: r for r in (ours, slow, fast, wrong)})
    assert comparison.speedup("slow") == 3.0
    assert comparison.speedup("wrong") is None
    assert comparison.speedup("absent") is None
    assert comparison.speedup_over_best() == 0.5


def test_a_wrong_or_failed_contender_has_no_speedup() -> None:
    reference = result("reference", [1.0])
    for ours in (result("ours", [0.1], error=math.inf), Result("ours", problem="ours: broke")):
        comparison = Comparison("net", "reference", {"ours": ours, "reference": reference})
        assert not ours.correct
        assert comparison.speedup_over_best() is None


def test_worker_runs_a_contender_in_another_process() -> None:
    with closing(Worker(Fake())) as worker:
        assert worker.pid != os.getpid()
        assert worker.prepare(NO_MODEL, 1, INPUTS) >= 0
        np.testing.assert_array_equal(worker.outputs(), [[0.0, 2.0, 4.0, 6.0]])
        assert worker.sample(0.001) > 0


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("raise", r"^fake: prepare: ValueError: cannot compile$"),
        ("die", r"^fake: process ended during prepare, exit code 3$"),
        ("hang", r"^fake: prepare took longer than 5 s$"),
    ],
)
def test_worker_reports_what_went_wrong_in_one_line(behaviour: str, message: str) -> None:
    with (
        closing(Worker(Fake(behaviour=behaviour), timeout_seconds=5)) as worker,
        pytest.raises(WorkerError, match=message),
    ):
        worker.prepare(NO_MODEL, 1, INPUTS)


def test_worker_goes_on_after_a_failed_request() -> None:
    with closing(Worker(Fake(behaviour="raise"))) as worker:
        with pytest.raises(WorkerError):
            worker.prepare(NO_MODEL, 1, INPUTS)
        assert len(worker.outputs()) == 1


def test_idle_worker_cannot_spin() -> None:
    def cpu_seconds() -> float:
        times = process.cpu_times()
        return times.user + times.system

    with closing(Worker(Fake(behaviour="spin"))) as worker:
        worker.prepare(NO_MODEL, 1, INPUTS)
        process = psutil.Process(worker.pid)
        time.sleep(0.1)  # the signal arrives
        assert process.status() == psutil.STATUS_STOPPED
        before = cpu_seconds()
        time.sleep(0.3)
        assert cpu_seconds() == before
        worker.sample(0.3)
        assert cpu_seconds() > before


def test_close_ends_a_stopped_process() -> None:
    worker = Worker(Fake())
    worker.prepare(NO_MODEL, 1, INPUTS)
    worker.close()
    assert not psutil.pid_exists(worker.pid)


def test_peak_memory_is_the_workers_own() -> None:
    ballast = np.ones(60_000_000)  # 480 MB in this process
    with closing(Worker(Fake())) as small, closing(Worker(Fake(behaviour="allocate"))) as large:
        for worker in (small, large):
            worker.prepare(NO_MODEL, 1, INPUTS)
        assert small.peak_bytes() < ballast.nbytes
        assert large.peak_bytes() > small.peak_bytes() + 300e6


def test_compare_judges_each_contender_by_the_reference() -> None:
    contenders = [
        Fake("reference"),
        Fake("wrong", factor=2.1),
        Fake("broken", "raise"),
        Fake("mortal", "die while running"),
    ]
    plan = Plan(rounds=3, sample_seconds=0.001, warm_up_seconds=0.001)
    comparison = compare(
        "net", NO_MODEL, INPUTS, contenders, threads=1, plan=plan, seed=0, reference="reference"
    )
    results = comparison.results
    assert list(results) == ["reference", "wrong", "broken", "mortal"]
    timing = results["reference"].timing
    assert results["reference"].correct and timing is not None and len(timing.samples) == 3
    assert results["wrong"].error == pytest.approx(0.05) and not results["wrong"].correct
    assert results["broken"].problem == "broken: prepare: ValueError: cannot compile"
    assert "process ended during outputs" in (results["mortal"].problem or "")


def test_runtimes_agree_on_a_network(tmp_path: Path) -> None:
    model = bert_tiny(tokens=16)
    onnx.save(model, tmp_path / "model.onnx")
    comparison = compare(
        "bert_tiny",
        tmp_path / "model.onnx",
        inputs_for(model),
        [OnnxRuntime(), OpenVINO()],
        threads=1,
        plan=Plan(rounds=2, sample_seconds=0.001, warm_up_seconds=0.001),
        seed=0,
    )
    assert comparison.reference == "onnxruntime"
    for name, found in comparison.results.items():
        assert found.problem is None and found.correct, name
        assert found.compile_seconds and found.compile_peak_bytes and found.peak_bytes
    assert comparison.results["openvino"].error != 0  # two runtimes, not one twice
