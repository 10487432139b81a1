"""One thread per element: the schedule that fits everything, in the order of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from alt.elementary import Expr
from alt.operators import delinear
from alt.sketches.gpu.scope import GpuScope, threads_for
from alt.sketches.scope import Stmt, i32, seq
from alt.storage import block_of, channels_blocked
from primitives import Layout
from primitives.expressions import dtype_of
from primitives.tensorir import ir, tirx

MOST_POSITION = 2**31 - 1


def or_zero(scope: GpuScope, guard: Expr, value: Expr) -> Expr:
    """A value where a condition holds, 0 where it does not; it is evaluated only where it does."""
    guard, zero = scope.analyzer.simplify(guard), tirx.const(0, dtype_of(value))
    if isinstance(guard, tirx.IntImm):
        return value if int(guard.value) else zero
    return tirx.if_then_else(guard, value, zero)


def either(scope: GpuScope, guard: Expr, then: Stmt, otherwise: Stmt) -> Stmt:
    """One of two statements; which one may be known now."""
    guard = scope.analyzer.simplify(guard)
    if isinstance(guard, tirx.IntImm):
        return then if int(guard.value) else otherwise
    return tirx.IfThenElse(guard, then, otherwise)


@dataclass(frozen=True)
class Region:
    """A box of work.

    Attributes:
        extents: its size.
        body: what is done at a point of it; by one thread.
    """

    extents: tuple[int, ...]
    body: Callable[..., Stmt]

    @property
    def size(self) -> int:
        """Number of points."""
        return prod(self.extents)


def over_elements(scope: GpuScope, *regions: Region) -> Stmt:
    """One thread per point of every region, in one launch: each block works on one region.

    Neighbouring threads take neighbours along the last axis.
    """
    regions = tuple(r for r in regions if r.size)
    if not regions:
        return seq()
    threads = threads_for(sum(r.size for r in regions), scope.gpu)
    blocks = [-(-r.size // threads) for r in regions]

    def work(block: Expr, thread: Expr) -> Stmt:
        made = _points(scope, regions[-1], block - sum(blocks[:-1]), thread, threads)
        for k in reversed(range(len(regions) - 1)):
            first = _points(scope, regions[k], block - sum(blocks[:k]), thread, threads)
            made = tirx.IfThenElse(block < sum(blocks[: k + 1]), first, made)
        return made

    return scope.launch((sum(blocks),), (threads,), work)


def in_order(scope: GpuScope, layout: Layout, body: Callable[..., Stmt]) -> Region:
    """The elements of a tensor, in the order in which a layout without padding stores them.

    Args:
        scope: the kernel.
        layout: of the tensor.
        body: what is done with an element, called with its logical indices.
    """
    if layout.is_identity:
        return Region(layout.logical_shape, body)
    assert not layout.has_padding, layout

    def cell(*stored: Expr) -> Stmt:
        indices, _ = layout.inverse(stored)
        return body(*map(scope.analyzer.simplify, indices))

    return Region(layout.shape, cell)


def walk_of(scope: GpuScope, shape: tuple[int, ...]) -> Layout:
    """In which order to visit a tensor of the output's rank, so that writes are neighbours.

    A slice of the output along its channels goes in its blocks, too, if it consists of whole ones.
    """
    block = block_of(scope.output_layout)
    if block > 1 and shape[1] % block:
        block = shape[1]
    return channels_blocked(shape, block, ())


def _points(scope: GpuScope, region: Region, block: Expr, thread: Expr, threads: int) -> Stmt:
    """The point of one thread, if there is one left for it."""
    size = region.size

    def at(position: Expr) -> Stmt:
        return with_indices(scope, position, region.extents, region.body)

    body = scope.bound(size, block * threads + thread, "point", at)
    if size % threads == 0:
        return body
    if -(-size // threads) * threads <= MOST_POSITION:
        return tirx.IfThenElse(block * threads + thread < size, body, None)
    # The position of a thread behind the end would not fit into 32 bits.
    return tirx.IfThenElse(thread < size - block * threads, body, None)


def with_indices(
    scope: GpuScope, position: Expr, extents: Sequence[int], body: Callable[..., Stmt]
) -> Stmt:
    """A statement that knows the indices of the element at a row-major position."""
    indices: list[Expr] = []
    binds: list[Stmt] = []
    for index, extent in zip(delinear(position, extents), extents, strict=True):
        if extent == 1:
            indices.append(i32(0))
            continue
        variable = tirx.Var("i", "int32")
        scope.analyzer.bind(variable, ir.Range(0, extent))
        binds.append(tirx.Bind(variable, index))
        indices.append(variable)
    return seq(*binds, body(*indices))
