"""Pooling windows: maximum and average, any rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

from alt.elementary import Emitter, Expr, lowest
from alt.graph import Node
from alt.sketches.border import fill_border, vector_of_block
from alt.sketches.generic import write_region
from alt.sketches.scope import VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.storage import Border, block_of
from primitives.tensorir import tirx

Buffer = Any

UNROLLED_TAPS = 64
"""Longer windows are loops."""


def pool_border(node: Node, blocked: bool) -> Border:
    """The border of zeros an average wants around its input; a maximum checks its bounds."""
    spatial = len(node.output.shape) - 2
    if node.attrs["kind"] != "avg" or not blocked:
        return ((0, 0),) * spatial
    return tuple(node.attrs["pads"])


def pooling(scope: Scope) -> Stmt:
    """Every output reduces its window in registers; bounds are checked only where a window can
    leave the data.
    """
    node = scope.kernel.anchor
    assert node is not None
    a = node.attrs
    x = node.inputs[0]
    shape = x.shape[2:]
    kernel, strides, dilation, pads = a["kernel"], a["strides"], a["dilation"], a["pads"]
    maximum = a["kind"] == "max"
    spatial = len(shape)
    bordered = not maximum and bool(scope.layout(x).has_padding)
    nothing = lowest(x.dtype) if maximum else tirx.const(0, x.dtype)

    def tapped(at: list[Expr], indices: list[Expr]) -> Expr:
        """The input element at a position, which may lie outside the data."""
        if bordered:
            return scope.load(x, [*indices[:2], *at])
        inside = [
            scope.analyzer.simplify(tirx.all(p >= 0, p < extent))
            for p, extent in zip(at, shape, strict=True)
        ]
        guard = scope.analyzer.simplify(tirx.all(*inside)) if inside else tirx.const(True)
        if isinstance(guard, tirx.IntImm) and int(guard.value):
            return scope.load(x, [*indices[:2], *at])
        clamped = [
            scope.analyzer.simplify(tirx.max(tirx.min(p, i32(extent - 1)), i32(0)))
            for p, extent in zip(at, shape, strict=True)
        ]
        return tirx.Select(guard, scope.load(x, [*indices[:2], *clamped]), nothing)

    def position(indices: list[Expr], axis: int, tap: Expr) -> Expr:
        first = indices[2 + axis] * strides[axis] - pads[axis][0]
        return scope.analyzer.simplify(first + tap * dilation[axis])

    def combine(total: Expr, value: Expr) -> Expr:
        return tirx.max(total, value) if maximum else total + value

    def unrolled(indices: list[Expr], emit: Emitter) -> Expr:
        total: Expr | None = None
        for taps in product(*map(range, kernel)):
            at = [position(indices, axis, tap) for axis, tap in enumerate(taps)]
            value = tapped(at, indices)
            total = value if total is None else emit.bind(combine(total, value))
        return total

    def divisor(indices: list[Expr]) -> Expr:
        """How many elements an average counts; padding beyond the declared one never counts."""
        total: Expr | None = None
        for d in range(spatial):
            lo, hi = a["declared"][d] if a["count_include_pad"] else (0, 0)
            start = indices[2 + d] * strides[d] - pads[d][0]
            low, high = -lo, shape[d] + hi
            if dilation[d] == 1:
                first = tirx.max(start, i32(low))
                last = tirx.min(start + kernel[d], i32(high))
                count = last - first
            else:
                terms = [
                    tirx.Select(
                        tirx.all(start + t * dilation[d] >= low, start + t * dilation[d] < high),
                        i32(1),
                        i32(0),
                    )
                    for t in range(kernel[d])
                ]
                count = terms[0]
                for term in terms[1:]:
                    count = count + term
            count = scope.analyzer.simplify(count)
            total = count if total is None else total * count
        assert total is not None
        return scope.analyzer.simplify(total)

    def finish(indices: list[Expr], total: Expr, emit: Emitter) -> Expr:
        """The kernel's value where the window comes to `total`."""
        if not maximum:
            count = divisor(indices)
            if isinstance(count, tirx.IntImm):
                total = total * tirx.const(1.0 / int(count.value), x.dtype)
            else:
                total = total / tirx.Cast(x.dtype, tirx.max(count, i32(1)))
        return scope.evaluate(scope.kernel.output, indices, emit, {node.output: total})

    def element(indices: Sequence[Expr], emit: Emitter) -> Expr:
        where = list(indices)
        return finish(where, unrolled(where, emit), emit)

    def looped(acc: Buffer, at: Callable[[Expr], list[Expr]]) -> Stmt:
        """A vector of outputs whose taps are loops."""
        lanes = int(acc.shape[0])

        def each(body: Callable[[Expr], Stmt]) -> Stmt:
            return scope.loop(lanes, body, VECTORIZED)

        def tap(*taps: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                indices = at(k)
                where = [position(indices, axis, tap) for axis, tap in enumerate(taps)]
                total = combine(tirx.BufferLoad(acc, [k]), tapped(where, indices))
                return tirx.BufferStore(acc, total, [k])

            return each(lane)

        def write(k: Expr) -> Stmt:
            emit, indices = Emitter(), at(k)
            value = finish(indices, tirx.BufferLoad(acc, [k]), emit)
            return seq(*emit.statements, scope.store(indices, value))

        start = each(lambda k: tirx.BufferStore(acc, nothing, [k]))
        return allocate(acc, start, scope.nest(kernel, tap), each(write))

    if prod(kernel) > UNROLLED_TAPS:
        return _vector_by_vector(scope, x.dtype, looped)
    output = scope.kernel.output
    return write_region(scope, (0,) * len(output.shape), output.shape, element)


def _vector_by_vector(
    scope: Scope, dtype: str, compute: Callable[[Buffer, Callable[[Expr], list[Expr]]], Stmt]
) -> Stmt:
    """Every vector of outputs by itself: `compute` gets room for one, and where its lanes lie."""
    batch, channels, *spatial = scope.kernel.output.shape
    block = block_of(scope.output_layout)
    width = spatial[-1]
    blocked = block > 1
    lanes = vector_of_block(scope, block) if blocked else min(width, scope.machine.lanes(dtype))
    acc = scope.local(lanes, dtype, "window")

    def row(n: Expr, b: Expr, *above: Expr) -> Stmt:
        if blocked:
            return scope.loop(
                width, lambda w: compute(acc, lambda k: [n, b * lanes + k, *above, w])
            )

        def piece(p: Expr) -> Stmt:
            # The last one ends flush with the row: it computes some outputs twice.
            first = scope.analyzer.simplify(tirx.min(p * lanes, i32(width - lanes)))
            return compute(acc, lambda k: [n, b, *above, first + k])

        return scope.loop(-(-width // lanes), piece)

    step = lanes if blocked else 1
    planes = [batch, -(-channels // step)]
    rows = scope.parallel([*planes, *spatial[:-1]], row)
    if fill_border(scope, i32(0), i32(0), step) is None:
        return rows
    return seq(
        scope.parallel(planes, lambda n, b: seq(fill_border(scope, n, b * step, step))), rows
    )
