"""A worker that builds with nvcc and runs on a GPU.

What is compared is computed on the CPU. CUDA is first used when a candidate runs, after the worker
was forked: a process cannot use it if the one it was forked from did.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from alt.cuda.code import CudaCode
from alt.cuda.gpu import Gpu, device_of
from alt.cuda.lower import Lowered
from alt.cuda.nvcc import Images, compile_source
from alt.expected import Runnable, error_of
from alt.gpu_clock import Clock, calls_of
from alt.memory import aligned
from alt.messages import Job, Timing
from alt.target import Machine, resolve
from alt.timing import CACHES, network_bytes
from alt.worker import Held, Worker, one_line, wrong
from tuner.task import Measurement, Status

UNUSABLE = 70
"""The exit code of a worker whose GPU does nothing for it any more."""


@dataclass(frozen=True)
class GpuJob(Job):
    """A job whose candidates run on a GPU.

    Attributes:
        device: by number or name, as for `alt.compile`.
        images: a folder for what nvcc makes, and for its temporary files.
    """

    device: int | str | None
    images: str


@dataclass
class GpuWorker(Worker):
    """See `alt.worker.Worker`."""

    def _limit_memory(self) -> None:
        """Not at all: CUDA takes address space for the memory of all devices."""

    @property
    def here(self) -> Machine:
        """The CPU."""
        return self.cpu

    @cached_property
    def cpu(self) -> Machine:
        """The one of this machine."""
        return resolve("llvm")

    @property
    def gpu(self) -> Gpu:
        """What code is for."""
        assert isinstance(self.machine, Gpu)
        return self.machine

    @property
    def device(self) -> Any:
        """Where candidates run."""
        assert isinstance(self.job, GpuJob)
        return device_of(self.job.device)

    def _finish(self, held: Held) -> None:
        assert isinstance(self.job, GpuJob)
        lowered = held.program.library
        assert isinstance(lowered, Lowered)
        images = compile_source(lowered.source, self.gpu.arch, 1, Images(Path(self.job.images)))
        launches = [{n: lowered.launches[n].to_dict() for n in i.registers} for i in images]
        held.program.library = CudaCode(lowered.host, [i.code for i in images], launches)

    def _measured(
        self,
        held: Held,
        ready: Runnable,
        reference: np.ndarray | None,
        timing: Timing,
        best: float = inf,
    ) -> Measurement:
        """Run once, compare, time by the device's clock; without a reference only time.

        A kernel that faults takes everything with it that its process has on the device, and every
        later call fails: the next candidate needs another process.
        """
        try:
            return self._timed(held, ready, reference, timing, best)
        except Exception:
            # Here tensors are still alive: to free them would end the process without a word.
            try:
                self.device.sync()
            except Exception as problem:  # noqa: BLE001 - TVM raises several kinds
                print(f"the GPU is lost: {_said(problem)}", file=sys.stderr, flush=True)
                os._exit(UNUSABLE)
            raise

    def _timed(
        self,
        held: Held,
        ready: Runnable,
        reference: np.ndarray | None,
        timing: Timing,
        best: float,
    ) -> Measurement:
        code = held.program.library
        # Linking twice would load the code twice.
        library = held.linked = held.linked or code.linked()
        *filled, arena = ready.arrays
        tensors = [self._placed(array) for array in filled]
        tensors.append(self._room(arena.size, "uint8"))
        output = len(held.inputs)
        error = None
        if reference is not None:
            library["main"](*tensors)
            self.device.sync()
            stored = ready.arrays[output]
            stored[...] = tensors[output].numpy()
            error = error_of(ready, held.output, reference)
            if not error <= held.bound:
                return wrong(error, held.bound)
        clock = Clock(library, self.device, tensors, ready.program.weights.size)
        fastest = clock.calibrated(timing)
        if fastest > timing.hopeless * best:
            return Measurement(Status.ok, (fastest,), error)
        if timing.flush_bytes:
            return Measurement(Status.ok, clock.flushed(timing), error)
        calls = calls_of(timing, fastest)
        if timing.cold_weights:
            clock = self._with_cold_weights(clock, ready.program.weights, calls)
        return Measurement(Status.ok, clock.samples(calls, timing.repeats), error)

    def _with_cold_weights(self, clock: Clock, weights: np.ndarray, calls: int) -> Clock:
        """A clock whose calls use copies of the weights in turns; see `alt.timing.ColdWeights`."""
        stride = aligned(weights.size)
        constants = (a for task in self.tasks.values() for a in task.constants.values())
        most = min(network_bytes(constants), int(CACHES * self.gpu.l2_bytes))
        copies = min(most // stride, calls)
        if copies < 2:
            return clock
        block = np.zeros((copies, stride), np.uint8)
        block[:, : weights.size] = weights
        *before, _, arena = clock.tensors
        tensors = [*before, self._placed(block.reshape(-1)), arena]
        return Clock(clock.library, self.device, tensors, stride, copies)

    def _room(self, elements: int, dtype: str) -> Any:
        return tvm.runtime.empty((max(elements, 1),), dtype, self.device)

    def _placed(self, array: np.ndarray) -> Any:
        return self._room(array.size, str(array.dtype)).copyfrom(array.reshape(-1))


def _said(problem: Exception) -> str:
    return one_line(str(problem)) or type(problem).__name__
