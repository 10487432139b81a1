"""From TensorIR functions to a host library and CUDA C.

`main` runs on the host and launches kernels by calling their functions: TVM turns a call from a
host function to one with a device target into a launch, so that a whole network runs without
Python in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import codegen_build, split_host_device_mods
from tvm.tirx.compilation_pipeline import finalize_host_passes

from alt.cuda.gpu import Gpu
from alt.cuda.legality import Shape, check_kernels
from tvm_patches.cuda_source import cuda_source

PREAMBLE = """\
#define ALT_DEVICE static __device__ __forceinline__
// As the CPU does it: where one of them is NaN, the result is the one on the right.
template <typename T> ALT_DEVICE T alt_max(T a, T b) { return a > b ? a : b; }
template <typename T> ALT_DEVICE T alt_min(T a, T b) { return a < b ? a : b; }
"""


@dataclass(frozen=True)
class Launch:
    """What the runtime has to know of a kernel.

    Attributes:
        arguments: dtypes; `handle` for pointers.
        tags: what else is passed at a launch: extents of the grid and of a block, and dynamic
            shared memory, by TVM's names, in order.
        shape: the extents themselves.
    """

    arguments: tuple[str, ...]
    tags: tuple[str, ...]
    shape: Shape

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, in TVM's words."""
        return {
            "name": "",
            "arg_types": list(self.arguments),
            "launch_param_tags": list(self.tags),
            "arg_extra_tags": [0] * len(self.arguments),
        }


@dataclass(frozen=True)
class Lowered:
    """A network in the two languages.

    Attributes:
        host: TVM's library with `main`, which launches kernels that it does not hold itself.
        source: CUDA C.
        launches: how each kernel in it is launched, by name.
    """

    host: Any
    source: str
    launches: dict[str, Launch]


def lower(module: Any, gpu: Gpu) -> Lowered:
    """Generate host code and CUDA C.

    Args:
        module: kernels with a device target, and entries, which call them.
        gpu: what the code is for.

    Raises:
        AltError: if a kernel could not be launched; a fault of the sketch that made it.
    """
    shapes = check_kernels(module, gpu)
    with tvm.transform.PassContext(disabled_pass=["tirx.StmtSimplify"]):
        lowered = _passes()(tirx.transform.BindTarget(gpu.target)(module))
        host, devices = split_host_device_mods(lowered)
        host = finalize_host_passes()(host)
        (device,) = devices.values()
        device = _device_passes()(device)
        library = codegen_build(host, gpu.target.host)
        source = cuda_source(device, gpu.kernel_target)
    launches = {
        name.name_hint: Launch(
            tuple("handle" for _ in function.params),
            tuple(str(t) for t in function.attrs["tirx.kernel_launch_params"]),
            shapes[name.name_hint],
        )
        for name, function in device.functions.items()
    }
    return Lowered(library, with_preamble(source), launches)


def with_preamble(source: str) -> str:
    """CUDA C with the functions that sketches call."""
    mark = 'extern "C" __global__'
    start = source.index(mark)
    return source[:start] + PREAMBLE + source[start:]


def _passes() -> Any:
    """TVM's pipeline `tirx` without what hides that vectors are aligned, or unrolls by itself.

    A name for an index hides by what it can be divided, and then four loads take the place of one;
    nvcc finds common subexpressions anyway. It unrolls loops, too, and better.
    """
    transform = tirx.transform
    return tvm.ir.transform.Sequential(
        [
            s_tir.transform.UnifyThreadBinding(),
            transform.LowerTIRxOpaque(),  # loops over threads become launches
            transform.FlattenBuffer(),
            transform.BF16ComputeLegalize(),
            transform.NarrowDataType(32),
            transform.VectorizeLoop(True),
            transform.VerifyMemory(),
            transform.AnnotateEntryFunc(),
            transform.SplitHostDevice(),
            transform.MakePackedAPI(),
            transform.BF16StorageLegalize(),
        ]
    )


def _device_passes() -> Any:
    return tvm.ir.transform.Sequential(
        [tirx.transform.LowerWarpMemory(), tirx.transform.LowerIntrin()]
    )
