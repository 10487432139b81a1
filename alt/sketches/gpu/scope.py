"""What a GPU sketch builds a kernel from: a launch, shared memory, what threads tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alt.cuda.gpu import Gpu
from alt.elementary import Expr
from alt.graph import Value
from alt.kernels import Kernel
from alt.sketches.scope import Scope, Stmt, i32, seq
from primitives import Layout
from primitives.expressions import dtype_of
from primitives.tensorir import ffi, ir, tirx
from tuner.choices import Choose

AXES = ("x", "y", "z")

FULL_WARP = 0xFFFFFFFF
"""The mask of all threads of a warp."""


class GpuScope(Scope):
    """The kernel under construction, for a GPU: one launch, whose threads share the work.

    All of a sketch's statements stand inside `launch`; `grid.over_elements` does that for work that
    is the same for every element.

    Attributes:
        gpu: what the code is for.
        cycles: what the busiest multiprocessor takes, as far as the sketch can tell.
    """

    def __init__(
        self,
        kernel: Kernel,
        layouts: Mapping[Value, Layout],
        constants: Mapping[Value, np.ndarray],
        gpu: Gpu,
        choose: Choose | None = None,
        asking: bool = False,
    ) -> None:
        super().__init__(kernel, layouts, constants, gpu, choose, asking)
        self.gpu = gpu
        self.cycles: float | None = None

    def launch(self, grid: Sequence[int], block: Sequence[int], body: Callable[..., Stmt]) -> Stmt:
        """The loops over blocks and over the threads of each.

        Args:
            grid: how many blocks, along x, y and z; the first may be up to 2**31 - 1, others 65535.
            block: how many threads each has, likewise.
            body: what a thread does, called with its block's indices, then its own, as many as
                `grid` and `block` have. A thread that has nothing to do must not skip a `sync`.
        """
        self.notes["grid"], self.notes["threads"] = list(grid), list(block)
        if self.asking:
            return seq()
        names = [f"blockIdx.{a}" for a in AXES[: len(grid)]]
        names += [f"threadIdx.{a}" for a in AXES[: len(block)]]
        extents = (*grid, *block)
        variables = [tirx.Var(name.replace(".", "_"), "int32") for name in names]
        for variable, extent in zip(variables, extents, strict=True):
            self.analyzer.bind(variable, ir.Range(0, extent))
        inner = body(*variables)
        for name, variable, extent in reversed(list(zip(names, variables, extents, strict=True))):
            axis = tirx.IterVar(None, tirx.Var(name, "int32"), tirx.IterVar.ThreadIndex, name)
            inner = tirx.For(
                variable,
                i32(0),
                i32(extent),
                tirx.ForKind.THREAD_BINDING,
                inner,
                thread_binding=axis,
            )
        return inner

    def shared(
        self, elements: int, dtype: str = "float32", name: str = "shared", dynamic: bool = False
    ) -> Any:
        """An array that the threads of a block have in common, allocated where `allocate` says.

        Args:
            elements: how many.
            dtype: of each.
            name: of the array.
            dynamic: ask for it at the launch, where there may be `gpu.most_shared_bytes` and not
                just `gpu.shared_bytes`; one array of a kernel can be.
        """
        scope = "shared.dyn" if dynamic else "shared"
        return tirx.decl_buffer((elements,), dtype, name, scope=scope)

    def sync(self) -> Stmt:
        """Wait for all threads of the block; what they wrote to shared memory is there then."""
        return tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))

    def sync_warp(self) -> Stmt:
        """As `sync`, for the threads of a warp."""
        return tirx.Evaluate(tirx.call_extern("void", "__syncwarp"))

    def other_lane(self, value: Expr, distance: int, width: int) -> Expr:
        """The value of the thread whose lane differs in the bit `distance`, in groups of `width`.

        All threads of the warp have to get here. To be stored at once: an expression may be put
        wherever its value is used, also behind a condition.
        """
        dtype = dtype_of(value)
        narrow = dtype in ("bool", "int8", "uint8", "int16", "uint16")
        sent = tirx.Cast("int32", value) if narrow else value
        mask = tirx.IntImm("uint32", FULL_WARP)
        found = tirx.call_extern(
            dtype_of(sent), "__shfl_xor_sync", mask, sent, i32(distance), i32(width)
        )
        return tirx.Cast(dtype, found) if narrow else found

    def bound(self, extent: int, value: Expr, name: str, body: Callable[[Expr], Stmt]) -> Stmt:
        """A statement with a name for an index in [0, extent)."""
        variable = tirx.Var(name, "int32")
        self.analyzer.bind(variable, ir.Range(0, extent))
        return seq(tirx.Bind(variable, value), body(variable))

    def finish(self, body: Stmt) -> Any:
        """The kernel as a function on the device, which `main` launches by calling it."""
        if _is_empty(body):  # nothing to compute is still a kernel, for the sake of its callers
            body = self.launch((1,), (self.gpu.warp,), lambda *_: seq())
        pointers, declared = self._pointers()
        function = tirx.PrimFunc(pointers, seq(*declared, _with_nan(body)))
        function = function.with_attr("tirx.noalias", True)
        return function.with_attr("target", self.gpu.kernel_target)


def _is_empty(body: Stmt) -> bool:
    return isinstance(body, tirx.Evaluate)


def _with_nan(body: Stmt) -> Stmt:
    """Maxima and minima as C's ternary operator: CUDA's own lose a NaN, ALT's keep the right one.

    Functions of that name are in the preamble of the source; see `alt.cuda.lower`.
    """

    def replace(node: Any) -> Any:
        dtype = dtype_of(node)
        if "float" not in dtype:
            return node
        name = "alt_max" if isinstance(node, tirx.Max) else "alt_min"
        return tirx.call_extern(dtype, name, node.a, node.b)

    return ffi.structural_map(body, [(tirx.Max, replace), (tirx.Min, replace)])


def threads_for(work: int, gpu: Gpu, most: int = 256) -> int:
    """How many threads a block has, so that little work still reaches every multiprocessor."""
    threads = most
    while threads > 2 * gpu.warp and -(-work // threads) < 2 * gpu.cores:
        threads //= 2
    return threads
