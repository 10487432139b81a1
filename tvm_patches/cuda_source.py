"""CUDA C from TVM, without TVM's own way of compiling it.

Problem: `target.build.cuda` of TVM 0.27 compiles at once where its CUDA runtime is loaded, which
is wherever there is a GPU: by NVRTC for the device at hand (needing the package `cuda-bindings`),
or by nvcc with `--use_fast_math`. Then division, square roots and exponentials are no longer those
of IEEE 754, and subnormal numbers are zeros.

Evidence: `tvm/support/nvcc.py`: `tvm_callback_cuda_compile`, the options in `_compile_cuda_nvcc`.

Way out: while source is generated, the callback returns nothing that could be loaded; the module is
asked for its source and dropped.

Delete when: TVM gives source without compiling it.
"""

from __future__ import annotations

import threading
from typing import Any

import tvm
import tvm_ffi
from tvm_ffi import registry

_NAME = "tvm_callback_cuda_compile"
_LOCK = threading.Lock()


def cuda_source(module: Any, target: Any) -> str:
    """The CUDA C of lowered device functions.

    Args:
        module: the functions.
        target: a CUDA target without a host.
    """
    build = tvm.get_global_func("target.build.cuda")
    with _LOCK:
        before = tvm.get_global_func(_NAME, allow_missing=True)
        tvm_ffi.register_global_func(_NAME, lambda _: bytearray(b"not compiled"), override=True)
        try:
            return str(build(module, target).inspect_source("cuda"))
        finally:
            if before is None:
                registry.remove_global_func(_NAME)
            else:
                tvm_ffi.register_global_func(_NAME, before, override=True)
