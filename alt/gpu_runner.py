"""Measures candidates on a GPU of this machine: nvcc runs in all workers, kernels one at a time.

Every worker that ran something holds a context on the GPU, which takes some hundred megabytes of
its memory; give `workers` where there is little. A GPU in exclusive mode admits a single one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alt.compiler import Model
from alt.cuda.code import device_refusal
from alt.cuda.gpu import Gpu, device_of
from alt.cuda.nvcc import require_nvcc
from alt.errors import AltError
from alt.gpu_worker import GpuJob
from alt.messages import Job, Limits, Timing
from alt.policies import JOINT, LayoutPolicy
from alt.pool import Pool
from alt.runner import Runner
from alt.target import resolve

LIMITS = Limits(build_seconds=60.0, run_seconds=30.0)
"""nvcc takes seconds, and so does the first use of a GPU."""


class GpuRunner(Runner):
    """Builds candidates on all cores, runs them on one GPU; see `alt.runner.Runner`.

    Args:
        model: as for `alt.compile`, like the options up to `layouts`.
        target: the GPU; `"cuda"` for the first one here.
        device: the GPU to run on, by number or name; the first one by default.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        threads: refused; a GPU is used whole.
        winograd: whether Winograd's algorithm may be used.
        layouts: which layouts there are.
        workers: processes that build at the same time; one a physical core by default.
        timing: how long and how often candidates run.
        limits: what they may take; host memory is not limited.
        seed: makes the inputs that results are compared on.
        setup: as for `alt.runner.Runner`.
        precision: what the GPU may multiply, as for `alt.compile`.

    Raises:
        AltError: if the model cannot be compiled, there is no nvcc or no GPU that its code runs on,
            or a small kernel does not work there.
    """

    together = 1  # nvcc does not compile two kernels faster than each alone

    def __init__(
        self,
        model: Model,
        target: Any = "cuda",
        *,
        device: int | str | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
        winograd: bool = True,
        layouts: str | LayoutPolicy = JOINT,
        workers: int | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        seed: int = 0,
        setup: str = "",
        precision: str = "fp32",
    ) -> None:
        gpu = resolve(target, threads, precision, device)
        require_here(gpu, device)
        require_nvcc()
        self._device = device
        self._images: tempfile.TemporaryDirectory[str] | None = tempfile.TemporaryDirectory(
            prefix="alt-images-"
        )
        try:
            super().__init__(
                model,
                # Workers may not ask the device what it is: see `alt.gpu_worker`.
                gpu,
                shapes=shapes,
                constants=constants,
                winograd=winograd,
                layouts=layouts,
                workers=workers,
                timing=timing,
                limits=limits or LIMITS.allowing(timing or Timing()),
                seed=seed,
                setup=setup,
                precision=precision,
            )
            self._require_working()
        except BaseException:
            self.close()
            raise

    def _start(self, job: Job, size: int) -> Pool:
        assert self._images is not None
        return Pool(GpuJob(**vars(job), device=self._device, images=self._images.name), size)

    def close(self) -> None:
        """See `alt.runner.Runner.close`."""
        super().close()
        if self._images is not None:
            self._images.cleanup()
            self._images = None


def require_here(machine: object, device: int | str | None) -> str:
    """The name of the GPU that code is going to run on.

    Args:
        machine: what the code is for.
        device: the GPU, by number or name; the first one by default.

    Raises:
        AltError: if there is none, the code does not run there, or it is for a CPU.
    """
    if not isinstance(machine, Gpu):
        raise AltError("this measures on GPUs, and the target is a CPU: use alt.runner.Runner")
    found = device_of(device)
    reason = device_refusal(machine.arch, found)
    if reason is not None:
        raise AltError(
            f"kernels for {machine.arch} cannot be measured here: {reason}; tune where they can "
            "run, and compile anywhere with the log"
        )
    return str(found.device_name)
