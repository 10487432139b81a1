"""Convolutions over row-major tensors, vectors along the last spatial axis.

For groups whose channels do not fill vectors, where blocks of channels would straddle groups, and
for weights that are only known at run time. A pointwise convolution sees its image as one long row.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from alt.elementary import Emitter, Expr
from alt.graph import Node
from alt.operators import delinear, linear
from alt.sketches.border import fill_rows_border
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from alt.sketches.windows import Phase, geometry, has_packed_weights, phases, taps_of_phase
from primitives import Layout
from primitives.tensorir import tirx


def direct_convolution(scope: Scope) -> Stmt:
    """Every output channel of a group over a run of positions, weights broadcast."""
    node = scope.kernel.anchor
    assert node is not None
    return seq(
        fill_rows_border(scope),
        *(_phase(scope, node, phase, k) for k, phase in enumerate(phases(node))),
    )


def _is_pointwise(scope: Scope, node: Node, phase: Phase) -> bool:
    plain = all(
        value == ones
        for value, ones in zip(
            (phase.taps, phase.stride, phase.step), ((1,) * len(phase.taps),) * 3, strict=True
        )
    )
    return (
        plain
        and not any(phase.offset)
        and not scope.layout(node.inputs[0]).has_padding
        and not scope.output_layout.has_padding
    )


def _phase(scope: Scope, node: Node, phase: Phase, number: int) -> Stmt:
    machine = scope.machine
    x, weight = node.inputs[:2]
    lanes = machine.lanes()
    groups, channels, outputs = geometry(node)
    taps = prod(phase.taps)
    flat = _is_pointwise(scope, node, phase)
    outer, width = ([], prod(phase.count)) if flat else (list(phase.count[:-1]), phase.count[-1])
    if not width or not prod(outer):
        return seq()
    lanes = min(lanes, width)
    runs = -(-width // lanes)
    default = choose_tile(
        1, outputs, runs, machine.registers, outputs * channels * taps * 4, machine.l1_bytes
    )
    prefix = f"phase{number}." if number else ""
    tile = decide_tile(scope.choose, 1, outputs, runs, machine.registers, default, prefix)
    many, vectors = tile.columns, tile.vectors
    scope.notes["tile"] = [1, many, vectors]
    packed = taps > 0 and has_packed_weights(node)
    if packed:
        layout = Layout.identity((groups, outputs, channels, taps)).pad(1, 0, -outputs % many)
        layout = layout.split(1, (-1, many)).reorder((0, 1, 3, 4, 2))

        def prepare(w: np.ndarray) -> np.ndarray:
            return taps_of_phase(node, phase, w)

        name = f"{node.op}{groups},{phase.kernel_first},{phase.kernel_step},{phase.taps}"
        weights = scope.buffer(weight, layout, (name, prepare))

    def weight_at(g: Expr, output: Expr, channel: Expr, t: tuple[Expr, ...]) -> Expr:
        if packed:
            tap = linear(t, phase.taps)
            where = scope.address(layout, [g, output, channel, tap])
            return tirx.BufferLoad(weights, [where])
        if outputs % many:
            output = tirx.min(output, i32(outputs - 1))
        taps_at = [
            f + one * s for f, one, s in zip(phase.kernel_first, t, phase.kernel_step, strict=True)
        ]
        if node.op == "conv_transpose":
            return scope.load(weight, [g * channels + channel, output, *taps_at])
        return scope.load(weight, [g * outputs + output, channel, *taps_at])

    acc = scope.local(many * vectors * lanes)

    def position(above: list[Expr], column: Expr) -> list[Expr]:
        return delinear(column, phase.count) if flat else [*above, column]

    def compute(n: Expr, g: Expr, o: Expr, above: list[Expr], starts: list[Expr]) -> Stmt:
        """One register tile: `many` channels by the vectors of columns that begin at `starts`."""

        def each(count: int, body: Callable[[Expr, int, Expr], Stmt]) -> Stmt:
            return scope.loop(
                count,
                lambda c: seq(
                    *(
                        scope.loop(lanes, lambda k, v=v: body(c, v, k), VECTORIZED)
                        for v in range(len(starts))
                    )
                ),
                UNROLLED,
            )

        def cell(c: Expr, v: int, k: Expr) -> Expr:
            return (c * vectors + v) * lanes + k

        def step(channel: Expr, *t: Expr) -> Stmt:
            def fma(c: Expr, v: int, k: Expr) -> Stmt:
                at = [
                    q * s + one * d + off
                    for q, s, one, d, off in zip(
                        position(above, starts[v] + k),
                        phase.stride,
                        t,
                        phase.dilation,
                        phase.offset,
                        strict=True,
                    )
                ]
                value = scope.load(x, [n, g * channels + channel, *at])
                here = [cell(c, v, k)]
                factor = weight_at(g, o * many + c, channel, t)
                total = tirx.BufferLoad(acc, here) + value * factor
                return tirx.BufferStore(acc, total, here)

            return each(many, fma)

        def finish(c: Expr, v: int, k: Expr) -> Stmt:
            emit = Emitter()
            spatial = [
                f + s * q
                for f, s, q in zip(
                    phase.first, phase.step, position(above, starts[v] + k), strict=True
                )
            ]
            indices = [n, g * outputs + o * many + c, *spatial]
            indices = [scope.analyzer.simplify(i) for i in indices]
            result = tirx.BufferLoad(acc, [cell(c, v, k)])
            value = scope.evaluate(scope.kernel.output, indices, emit, {node.output: result})
            return seq(*emit.statements, scope.store(indices, value))

        zero = each(many, lambda *p: tirx.BufferStore(acc, tirx.const(0.0, "float32"), [cell(*p)]))
        reduce = scope.nest([channels, *phase.taps], step) if taps else None
        whole, left = divmod(outputs, many)
        ending = each(many, finish)
        if left:
            ending = (
                tirx.IfThenElse(o < whole, ending, each(left, finish))
                if whole
                else each(left, finish)
            )
        return seq(zero, reduce, ending)

    def task(n: Expr, g: Expr, o: Expr, *above: Expr) -> Stmt:
        step = vectors * lanes
        whole = width // step
        parts: list[Stmt] = []
        if whole:
            parts.append(
                scope.loop(
                    whole,
                    lambda c: compute(
                        n, g, o, list(above), [c * step + v * lanes for v in range(vectors)]
                    ),
                )
            )
        # What is left ends flush with the row: it computes some columns twice rather than beyond.
        rest = [i32(min(start, width - lanes)) for start in range(whole * step, width, lanes)]
        if rest:
            parts.append(compute(n, g, o, list(above), rest))
        return allocate(acc, *parts)

    return scope.parallel([x.shape[0], groups, -(-outputs // many), *outer], task)
