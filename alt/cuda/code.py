"""A network compiled for a GPU: host code that launches kernels, and the kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from alt.cuda.gpu import capability_of, device_of
from alt.errors import AltError


@dataclass(frozen=True)
class CudaCode:
    """What a module for a GPU is made of.

    Attributes:
        host: TVM's library with `main`.
        images: machine code of the kernels, for the CUDA driver: bytes or arrays of them.
        launches: what the runtime has to know of the kernels in each image, as plain data.
    """

    host: Any
    images: Sequence[Any]
    launches: Sequence[Mapping[str, Any]]

    def linked(self) -> Any:
        """The host's library, which finds its kernels from now on.

        Raises:
            AltError: if the installed TVM has no CUDA runtime that loads here.
        """
        create = tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True)
        if create is None:
            raise AltError(NO_RUNTIME)
        read = tvm.get_global_func("runtime.LoadMetaDataFromJSON")
        self.host.clear_imports()
        for image, launches in zip(self.images, self.launches, strict=True):
            told = json.dumps({"tvm_version": tvm.__version__, "func_info": launches})
            self.host.import_module(create(bytes(image), "cubin", read(told), {}))
        return self.host


NO_RUNTIME = (
    "there is no GPU here that TVM can use: its CUDA runtime does not load; see that the driver "
    "and libcudart are installed"
)


def device_refusal(arch: str, device: Any) -> str | None:
    """Why code for an architecture cannot run on a device, in words; None if it can."""
    if not device.exist:
        there = next(k for k in range(device.index + 1) if not device_of(k).exist)
        many = "none" if there == 0 else "only number 0" if there == 1 else f"only 0 to {there - 1}"
        return f"there is no GPU number {device.index} here that TVM can use, {many}"
    here = int(str(device.compute_version).replace(".", ""))
    return arch_refusal(arch, here)


def arch_refusal(arch: str, here: int) -> str | None:
    """Why machine code for an architecture cannot run on a GPU of some compute capability.

    Machine code runs on GPUs of its generation that are as new or newer; that with `a` at the end
    only on the very same, with `f` likewise but for minor versions.

    >>> arch_refusal("sm_80", 86), arch_refusal("sm_90a", 90)
    (None, None)
    >>> arch_refusal("sm_90", 80)
    'it was compiled for sm_90, and this GPU is sm_80'
    """
    made = capability_of(arch)
    same = made // 10 == here // 10
    fits = made == here if arch.endswith("a") else same and made <= here
    return None if fits else f"it was compiled for {arch}, and this GPU is sm_{here}"
