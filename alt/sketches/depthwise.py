"""Depthwise convolution: a vector of channels at each position, taps unrolled."""

from __future__ import annotations

from math import prod
from typing import Any

from alt.elementary import Emitter, Expr
from alt.sketches.border import check_room, fill_border
from alt.sketches.scope import SERIAL, UNROLLED, VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.sketches.tiles import widths_of
from alt.sketches.windows import (
    phases,
)
from primitives import Layout
from primitives.tensorir import tirx

_TAPS = ("unrolled", "loops")


def depthwise(scope: Scope) -> Stmt:
    """A depthwise convolution: a vector of channels at each position, taps unrolled."""
    node = scope.kernel.anchor
    assert node is not None
    check_room(scope)
    (phase,) = phases(node)
    machine = scope.machine
    lanes = machine.lanes()
    x, weight = node.inputs[:2]
    batch, channels = node.output.shape[:2]
    blocks = -(-channels // lanes)
    *outer, width = phase.count
    height = outer.pop() if outer else 1
    spatial = len(phase.count)
    taps = prod(phase.taps)
    layout = (
        Layout.identity((channels, taps))
        .pad(0, 0, -channels % lanes)
        .split(0, (-1, lanes))
        .reorder((0, 2, 1))
    )
    weights = scope.buffer(weight, layout, ("depthwise", lambda w: w.reshape(channels, taps)))
    small = taps <= 9
    # Room for one row of weights and inputs beside the accumulators.
    budget = max(1, (machine.registers - (taps if small else 4) - 3))
    columns = max((c for c in widths_of(width, budget) if c <= 14), default=1)
    columns = scope.choose.tile("columns", width, columns, at_most=machine.registers)
    unrolled = scope.choose.one_of("taps", _TAPS, _TAPS[taps > 25]) == "unrolled"
    rows = 1
    acc = scope.local(rows * columns * lanes)
    scope.notes["tile"] = [rows, columns, 1]

    def compute(n: Expr, b: Expr, above: list[Expr], row: Expr, column: Expr, cols: int) -> Stmt:
        def each(body: Any) -> Stmt:
            return scope.loop(
                cols, lambda c: scope.loop(lanes, lambda k: body(c, k), VECTORIZED), UNROLLED
            )

        def position(c: Expr) -> list[Expr]:
            return [*above, *([row] if spatial > 1 else []), column + c]

        def tap(*t: Expr) -> Stmt:
            flat: Expr = i32(0)
            for one, count in zip(t, phase.taps, strict=True):
                flat = flat * count + one

            def fma(c: Expr, k: Expr) -> Stmt:
                at = [
                    q * s + one * d + o
                    for q, s, one, d, o in zip(
                        position(c), phase.stride, t, phase.dilation, phase.offset, strict=True
                    )
                ]
                where = scope.address(layout, [b * lanes + k, flat])
                value = scope.load(x, [n, b * lanes + k, *at])
                here = [c * lanes + k]
                total = tirx.BufferLoad(acc, here) + value * tirx.BufferLoad(weights, [where])
                return tirx.BufferStore(acc, total, here)

            return each(fma)

        def finish(c: Expr, k: Expr) -> Stmt:
            emit = Emitter()
            indices = [scope.analyzer.simplify(i) for i in (n, b * lanes + k, *position(c))]
            result = tirx.BufferLoad(acc, [c * lanes + k])
            value = scope.evaluate(scope.kernel.output, indices, emit, {node.output: result})
            return seq(*emit.statements, scope.store(indices, value))

        zero = each(lambda c, k: tirx.BufferStore(acc, tirx.const(0.0, "float32"), [c * lanes + k]))
        reduce = scope.nest(phase.taps, tap, UNROLLED if unrolled else SERIAL)
        return seq(zero, reduce, each(finish))

    def task(n: Expr, b: Expr, *rest: Expr) -> Stmt:
        *above, row = rest
        whole, left = divmod(width, columns)
        parts: list[Stmt | None] = []
        fill = fill_border(scope, n, b * lanes, lanes)
        if fill is not None:
            parts.append(scope.when(tirx.all(*(p.equal(i32(0)) for p in rest)), fill))
        if whole:
            parts.append(
                scope.loop(whole, lambda c: compute(n, b, list(above), row, c * columns, columns))
            )
        if left:
            parts.append(compute(n, b, list(above), row, i32(whole * columns), left))
        return allocate(acc, *parts)

    return scope.parallel([batch, blocks, *outer, height], task)
