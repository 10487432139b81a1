"""One problem in one precision: every contender checked, then timed in interleaved rounds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Arrays
from benchmarks.gpu.rivals import PRECISIONS, OnDevice, Reference
from benchmarks.protocol import Plan, Timing, interleave, median_ratio, relative_error
from benchmarks.worker import Service, Worker, WorkerError

OURS = "ours"


class DeviceService(Service):
    """Inputs stay on the device, and its clock measures."""

    _placed: Any = None
    _once = 0.0

    def sample(self, seconds: float) -> float:
        """Seconds per inference, over as many in a row as fill the time given."""
        contender: Any = self._contender
        if self._placed is None:
            self._placed = contender.place(self._inputs)
            contender.seconds(self._placed, 3)
            self._once = contender.seconds(self._placed, 3)
        runs = min(max(1, ceil(seconds / max(self._once, 1e-6))), 100_000)
        contender.seconds(self._placed, ceil(runs / 10))
        self._once = contender.seconds(self._placed, runs)
        return self._once


@dataclass(frozen=True)
class Measured:
    """What one contender did.

    Attributes:
        samples: seconds of an inference, one for each round.
        error: of its outputs, relative to the largest of what is right.
        compile_seconds: from the file to something that runs.
        problem: what went wrong.
    """

    samples: tuple[float, ...] = ()
    error: float | None = None
    compile_seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Record:
    """Contenders that were measured in the same rounds.

    Attributes:
        problem: its title.
        precision: of products.
        device: `cuda` or `cpu`.
        results: by contender.
        gpu: what `nvidia-smi` says of it: name, driver, clocks and power limit.
        versions: of the packages that took part.
    """

    problem: str
    precision: str
    device: str
    results: dict[str, Measured] = field(default_factory=dict)
    gpu: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def speedup(self, over: str, of: str = OURS) -> float | None:
        """Median over rounds of one's time by ours; None where one of them is wrong or failed."""
        ours, theirs = self.results.get(of), self.results.get(over)
        if not (self.right(of) and self.right(over)):
            return None
        assert ours is not None
        assert theirs is not None
        return median_ratio(theirs.samples, ours.samples)

    def right(self, name: str) -> bool:
        """Whether a contender ran, and gave what it should."""
        found = self.results.get(name)
        if found is None or found.problem is not None or found.error is None or not found.samples:
            return False
        return found.error <= PRECISIONS[self.precision]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        data = asdict(self)
        for found in data["results"].values():
            if found["error"] is not None and not isfinite(found["error"]):
                found["error"] = 1e300  # JSON has no infinity
        return data

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Record:
        """What `to_dict` gave."""
        results = {
            name: Measured(**{**found, "samples": tuple(found["samples"])})
            for name, found in data["results"].items()
        }
        return cls(**{**data, "results": results})


def right_outputs(model: Path, inputs: Arrays, device: str, timeout: float) -> list[NDArray[Any]]:
    """What PyTorch computes in float64.

    Raises:
        WorkerError: if it fails.
    """
    with closing(Worker(Reference(device=device), timeout, DeviceService)) as worker:
        worker.prepare(model, 1, inputs)
        return worker.outputs()


def measure(
    model: Path,
    inputs: Arrays,
    contenders: Sequence[OnDevice],
    expected: Sequence[NDArray[Any]],
    plan: Plan,
    timeout: Callable[[], float],
    tell: Callable[[str], None],
    seed: int = 0,
) -> tuple[dict[str, Measured], str]:
    """Compile, check and time a model with every contender, each in its own process.

    One whose outputs are wrong is not timed.

    Args:
        model: the ONNX file.
        inputs: by name, in order.
        contenders: all of one precision and device.
        expected: what is right.
        plan: how much to measure.
        timeout: seconds that a contender may take to compile, asked before each.
        tell: is told what happens.
        seed: of the order within a round.

    Returns:
        What each did, and the state of the GPU right after the last round.
    """
    results: dict[str, Measured] = {}
    with ExitStack() as stack:
        running: list[Worker] = []
        for contender in contenders:
            tell(f"{contender.name} compiles")
            worker = stack.enter_context(closing(Worker(contender, timeout(), DeviceService)))
            try:
                seconds = worker.prepare(model, 1, inputs)
                error = relative_error(worker.outputs(), expected)
            except WorkerError as problem:
                results[contender.name] = Measured(problem=str(problem))
                worker.close()
                continue
            results[contender.name] = Measured(error=error, compile_seconds=seconds)
            if error > PRECISIONS[contender.precision]:
                worker.close()
            else:
                running.append(worker)
        tell(f"{plan.rounds} rounds of {', '.join(w.name for w in running)}")
        timings, problems = interleave(running, plan, np.random.default_rng(seed))
        state = gpu_state()
    for name, found in results.items():
        timing = timings.get(name, Timing(()))
        results[name] = Measured(
            timing.samples, found.error, found.compile_seconds, problems.get(name, found.problem)
        )
    return results, state


def gpu_state() -> str:
    """Name, driver, clocks and power limit of the GPU; empty where nobody can say."""
    if shutil.which("nvidia-smi") is None:
        return ""
    asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""
