"""What lies around the elements of an output: borders of zeros, and room for whole vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import prod

from alt.elementary import Expr
from alt.operators import linear
from alt.sketches.scope import VECTORIZED, Scope, Stmt, i32, seq
from alt.storage import block_of, border_of
from primitives.tensorir import tirx


def check_room(scope: Scope) -> None:
    """Whole vectors of channels are about to be written: all of their cells have to be there."""
    layout, lanes = scope.output_layout, scope.machine.lanes()
    block = block_of(layout)
    assert block % lanes == 0 if block > 1 else layout.logical_shape[1] % lanes == 0, (
        f"vectors of {lanes} channels do not fit into {layout}"
    )


def vector_of_block(scope: Scope, block: int) -> int:
    """How many channels of a block are computed at once."""
    lanes = scope.machine.lanes()
    return lanes if block % lanes == 0 else block


def with_border(sketch: Callable[[Scope], Stmt]) -> Callable[[Scope], Stmt]:
    """A sketch that writes the elements of a row-major output, made to fill its border too."""

    @wraps(sketch)
    def whole(scope: Scope) -> Stmt:
        return seq(fill_rows_border(scope), sketch(scope))

    return whole


def fill_rows_border(scope: Scope) -> Stmt | None:
    """Write zeros around the spatial axes of a row-major output; None without a border."""
    if not scope.output_layout.has_padding:
        return None
    planes = scope.output_layout.shape[:2]
    return scope.parallel(planes, lambda n, c: seq(fill_border(scope, n, c, 1)))


def fill_border(scope: Scope, n: Expr, channel: Expr, lanes: int) -> Stmt | None:
    """Write zeros around the spatial axes of some channels; None without a border.

    Args:
        scope: the kernel.
        n: which image.
        channel: the first of the channels.
        lanes: how many channels; they lie in one block, if there are blocks.
    """
    layout = scope.output_layout
    border = border_of(layout)
    if not any(lo or hi for lo, hi in border):
        return None
    block = block_of(layout)
    if block == 1 and lanes > 1:  # each channel is a plane of its own
        return scope.loop(lanes, lambda k: seq(fill_border(scope, n, channel + k, 1)))
    stored = layout.shape
    extents = stored[2 : 2 + len(border)]
    zero = tirx.const(0, scope.kernel.output.dtype)
    outer, inner = (channel // block, channel % block) if block > 1 else (channel, i32(0))

    def cells(prefix: list[Expr], axis: int) -> Stmt:
        """Everything below a prefix."""
        rest = prod(extents[axis:])
        base = linear([n, outer, *prefix], stored[: 2 + axis]) * rest
        return scope.loop(
            rest,
            lambda cell: scope.loop(
                lanes,
                lambda k: tirx.BufferStore(
                    scope.output,
                    zero,
                    [scope.analyzer.simplify((base + cell) * block + inner + k)],
                ),
                VECTORIZED,
            ),
        )

    def fill(prefix: list[Expr], axis: int) -> Stmt | None:
        if axis == len(border):
            return None
        lo, hi = border[axis]
        inside = extents[axis] - lo - hi
        parts: list[Stmt] = []
        if lo:
            parts.append(scope.loop(lo, lambda i: cells([*prefix, i], axis + 1)))
        if hi:
            parts.append(scope.loop(hi, lambda i: cells([*prefix, i + (lo + inside)], axis + 1)))
        if any(a or z for a, z in border[axis + 1 :]):
            parts.append(scope.loop(inside, lambda i: seq(fill([*prefix, i + lo], axis + 1))))
        return seq(*parts)

    return fill([], 0)
