"""Whether every kernel can be launched, before nvcc or a device complains, or does not.

A sketch that errs would otherwise show as "Did you forget to bind?", as a launch that fails, or as
numbers that are wrong now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import tvm_ffi as ffi
from tvm import ir, tirx

from alt.cuda.gpu import Gpu
from alt.errors import AltError

GRID, BLOCK = (tuple(f"{which}Idx.{axis}" for axis in "xyz") for which in ("block", "thread"))
MOST_BLOCKS = dict(zip(GRID, (2**31 - 1, 65535, 65535), strict=True))
MOST_THREADS = dict(zip(BLOCK, (1024, 1024, 64), strict=True))
MOST_PRIVATE_BYTES = 512 << 10
"""What one thread may keep for itself, by the CUDA C++ Programming Guide."""

_SYNC = ir.Op.get("tirx.tvm_storage_sync")
_SHARED, _DYNAMIC = "shared", "shared.dyn"


@dataclass(frozen=True)
class Shape:
    """How a kernel is launched.

    Attributes:
        grid: blocks along x, y and z.
        block: threads of a block, likewise.
        static_bytes: shared memory that the kernel declares.
        dynamic_bytes: shared memory that it gets at its launch.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    static_bytes: int
    dynamic_bytes: int


def check_kernels(module: Any, gpu: Gpu) -> dict[str, Shape]:
    """How every kernel of a module is launched, if that is possible.

    Args:
        module: the functions as sketches made them; those without a device target are left alone.
        gpu: what they are for.

    Raises:
        AltError: if a kernel writes outside its threads, asks for more threads or shared memory
            than there are, or lets threads go separate ways around a barrier.
    """
    found: dict[str, Shape] = {}
    for name, function in module.functions.items():
        target = function.attrs.get("target")
        if target is not None and str(target.kind.name) == "cuda":
            found[name.name_hint] = check_kernel(name.name_hint, function, gpu)
    return found


def check_kernel(name: str, function: Any, gpu: Gpu) -> Shape:
    """How one kernel is launched; see `check_kernels`."""
    check = _Check(name, function)
    check.statement(function.body, _Place())
    extents = check.extents
    if not extents:
        raise check.fault("it has no threads: none of its loops is bound to them")
    for tag, most in (MOST_BLOCKS | MOST_THREADS).items():
        if not 1 <= extents.get(tag, 1) <= most:
            raise check.fault(f"{tag} has {extents[tag]} values; 1 to {most} are possible")
    grid, block = ([extents.get(tag, 1) for tag in tags] for tags in (GRID, BLOCK))
    if prod(block) > gpu.block_threads:
        raise check.fault(f"a block has {prod(block)} threads, more than {gpu.block_threads}")
    static, dynamic = sum(check.bytes[_SHARED]), sum(check.bytes[_DYNAMIC])
    if static > gpu.shared_bytes:
        raise check.fault(
            f"a block declares {static} bytes of shared memory, more than {gpu.shared_bytes}; "
            f"more is possible in one array of scope {_DYNAMIC!r}"
        )
    if static + dynamic > gpu.most_shared_bytes:
        raise check.fault(
            f"a block takes {static + dynamic} bytes of shared memory, more than the "
            f"{gpu.most_shared_bytes} of {gpu.arch}"
        )
    if dynamic and dynamic < gpu.shared_bytes < static + dynamic:
        raise check.fault(
            f"of {static + dynamic} bytes of shared memory {dynamic} are dynamic: TVM asks the "
            f"driver for more than {gpu.shared_bytes} only where those alone are as many"
        )
    if len(check.bytes[_DYNAMIC]) > 1:
        raise check.fault(f"it has {len(check.bytes[_DYNAMIC])} arrays of scope {_DYNAMIC!r}; one")
    private = sum(check.bytes["local"])
    if private > MOST_PRIVATE_BYTES:
        raise check.fault(f"a thread keeps {private} bytes, more than {MOST_PRIVATE_BYTES}")
    return Shape(tuple(grid), tuple(block), static, dynamic)


@dataclass(frozen=True)
class _Place:
    """Where a statement stands.

    Attributes:
        tags: what the loops around it are bound to.
        alone: what makes only some threads of a block get there, in words; empty if all do.
    """

    tags: tuple[str, ...] = ()
    alone: str = ""


@dataclass
class _Check:
    name: str
    function: Any
    extents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, list[int]] = field(
        default_factory=lambda: {_SHARED: [], _DYNAMIC: [], "local": []}
    )
    varying: set[Any] = field(default_factory=set)
    """Variables that differ between the threads of a block."""

    def fault(self, what: str) -> AltError:
        return AltError(
            f"internal error in kernel {self.name}: {what}; please report this model\n"
            f"{self.function.script()}"
        )

    def statement(self, node: Any, place: _Place) -> None:
        match node:
            case tirx.SeqStmt():
                for part in node.seq:
                    self.statement(part, place)
            case tirx.For():
                self.loop(node, place)
            case tirx.IfThenElse():
                inner = self.under(place, [node.condition], "a condition")
                self.statement(node.then_case, inner)
                if node.else_case is not None:
                    self.statement(node.else_case, inner)
            case tirx.While():
                self.statement(node.body, self.under(place, [node.condition], "a loop"))
            case tirx.AttrStmt():
                self.statement(node.body, place)
            case tirx.Bind():
                if self.differs([node.value]):
                    self.varying.add(node.var)
            case tirx.AllocBuffer():
                self.allocation(node.buffer)
            case tirx.BufferStore():
                self.store(node, place)
            case tirx.Evaluate():
                self.call(node.value, place)
            case tirx.DeclBuffer():
                pass
            case _:
                raise self.fault(f"statements of kind {type(node).__name__} are not known")

    def loop(self, node: Any, place: _Place) -> None:
        if node.kind != tirx.ForKind.THREAD_BINDING:
            if node.kind == tirx.ForKind.PARALLEL:
                raise self.fault(f"loop {node.loop_var.name} is parallel, but bound to no threads")
            if self.differs([node.min, node.extent]):
                self.varying.add(node.loop_var)
            self.statement(node.body, self.under(place, [node.min, node.extent], "a loop"))
            return
        tag = str(node.thread_binding.thread_tag)
        if tag not in MOST_BLOCKS | MOST_THREADS:
            raise self.fault(f"loop {node.loop_var.name} is bound to {tag!r}, which is no index")
        if not isinstance(node.extent, tirx.IntImm):
            raise self.fault(f"the extent of {tag}, {node.extent}, is not a number")
        if tag in place.tags:
            raise self.fault(f"{tag} is bound twice, one loop inside the other")
        extent = int(node.extent.value)
        if self.extents.setdefault(tag, extent) != extent:
            raise self.fault(f"{tag} has {self.extents[tag]} values here and {extent} there")
        if tag in BLOCK:
            self.varying.add(node.loop_var)
        self.statement(node.body, _Place((*place.tags, tag), place.alone))

    def under(self, place: _Place, decides: Sequence[Any], what: str) -> _Place:
        """A place that only those threads get to for which some expressions say so."""
        if place.alone or not self.differs(decides):
            return place
        return _Place(place.tags, f"{what} on {', '.join(map(str, decides))}")

    def differs(self, expressions: Sequence[Any]) -> bool:
        """Whether an expression may have another value in another thread of the block."""
        found: list[Any] = []

        def look(node: Any) -> None:
            if node in self.varying:
                found.append(node)

        for expression in expressions:
            # What is read from memory may be anything.
            ffi.structural_walk(expression, [(ir.TensorLoad, found.append), (tirx.Var, look)])
        return bool(found)

    def allocation(self, buffer: Any) -> None:
        scope = str(buffer.scope())
        extents = list(buffer.shape)
        if scope not in self.bytes:
            raise self.fault(
                f"array {buffer.name} has scope {scope!r}: no memory of a kernel's own"
            )
        if not all(isinstance(e, tirx.IntImm) for e in extents):
            raise self.fault(f"the extents of array {buffer.name}, {extents}, are not numbers")
        each = (ffi.dtype(str(buffer.dtype)).bits + 7) // 8
        self.bytes[scope].append(prod(int(e.value) for e in extents) * each)

    def store(self, node: Any, place: _Place) -> None:
        if str(node.buffer.scope()) != "global":
            return
        unbound = [tag for tag in self.extents if tag not in place.tags]
        if not place.tags or unbound:
            outside = ", ".join(unbound) or "any thread"
            raise self.fault(f"the output is written outside of {outside}: {node.script()}")

    def call(self, value: Any, place: _Place) -> None:
        if isinstance(value, ir.Call) and value.op.same_as(_SYNC) and place.alone:
            raise self.fault(f"not all threads reach a barrier: it stands under {place.alone}")
