"""Convolutions: 1-D to 3-D, strided, dilated, grouped, transposed.

One recipe serves all. Activations are stored in blocks of one vector of channels, weights as
[O tile][I block][taps...][channel in block][O in tile]; a tile of outputs (rows x columns x vectors
of output channels) stays in registers through the whole reduction and leaves once, through the
fused epilogue, into a buffer that already has the border the next convolution wants.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from alt.elementary import Emitter, Expr
from alt.graph import Node
from alt.sketches.border import check_room, fill_border
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from alt.sketches.windows import (
    Phase,
    geometry,
    phases,
    taps_of_phase,
)
from alt.storage import block_of
from primitives import Layout
from primitives.tensorir import tirx


def convolution(scope: Scope) -> Stmt:
    """A convolution whose output channels are stored in blocks of vectors."""
    node = scope.kernel.anchor
    assert node is not None
    check_room(scope)
    statements: list[Stmt] = []
    for number, phase in enumerate(phases(node)):
        statements.append(_phase(scope, node, phase, number))
    return seq(*statements)


def _packed_weights(
    scope: Scope, node: Node, phase: Phase, lanes: int, vectors: int, block: int
) -> Any:
    """Weights of one phase as [G][O tile][I block][taps][I in block][O in tile]."""
    groups, channels, outputs = geometry(node)
    tile = lanes * vectors
    taps = prod(phase.taps)
    layout = Layout.identity((groups, outputs, channels, taps))
    layout = layout.pad(1, 0, -outputs % tile).pad(2, 0, -channels % block)
    layout = layout.split(1, (-1, tile)).split(3, (-1, block)).reorder((0, 1, 3, 5, 4, 2))
    name = f"{node.op}{groups},{phase.kernel_first},{phase.kernel_step},{phase.taps}"
    prepare = (name, lambda w: taps_of_phase(node, phase, w))
    return scope.buffer(node.inputs[1], layout, prepare), layout


def _phase(scope: Scope, node: Node, phase: Phase, number: int) -> Stmt:
    machine = scope.machine
    lanes = machine.lanes()
    x = node.inputs[0]
    batch = x.shape[0]
    groups, channels, outputs = geometry(node)
    block = block_of(scope.layout(x))
    *outer, width = phase.count
    height = outer.pop() if outer else 1
    blocks = -(-outputs // lanes)
    reduction = channels * prod(phase.taps)
    first = number == 0
    prefix = "" if first else f"phase{number}."
    default = choose_tile(
        height, width, blocks, machine.registers, reduction * lanes * 4, machine.l1_bytes
    )
    tile = decide_tile(scope.choose, height, width, blocks, machine.registers, default, prefix)
    vectors = tile.vectors
    unroll = scope.choose.one_of(f"{prefix}unroll", (1, 2, 4), 1)
    outermost = scope.choose.one_of(f"{prefix}reduce", ("channels", "taps"), "channels")
    scope.notes["tile"] = [tile.rows, tile.columns, vectors]
    wide = lanes * vectors
    some = prod(phase.taps) > 0  # a transposed convolution may have outputs that nothing reaches
    if some:
        weights, weight_layout = _packed_weights(scope, node, phase, lanes, vectors, block)
    spatial = len(phase.count)
    row_tiles = -(-height // tile.rows)
    acc = scope.local(tile.rows * tile.columns * wide)
    # 24 channels are a whole vector and half a one, and half a vector is cheaper on many CPUs.
    used = outputs - (blocks - 1) * lanes
    halved = blocks == vectors and used <= lanes // 2
    widths = [lanes] * (vectors - 1) + [lanes // 2 if halved else lanes]

    def compute(
        n: Expr, g: Expr, o: Expr, above: list[Expr], row: Expr, column: Expr, rows: int, cols: int
    ) -> Stmt:
        """One register tile: reduce, then the epilogue."""

        def each(body: Any) -> Stmt:
            return scope.loop(
                rows,
                lambda r: scope.loop(
                    cols,
                    lambda c: seq(
                        *(
                            scope.loop(size, lambda k, v=v: body(r, c, i32(v), k), VECTORIZED)
                            for v, size in enumerate(widths)
                        )
                    ),
                    UNROLLED,
                ),
                UNROLLED,
            )

        def cell(r: Expr, c: Expr, v: Expr, k: Expr) -> Expr:
            return ((r * cols + c) * vectors + v) * lanes + k

        def position(r: Expr, c: Expr) -> list[Expr]:
            """Which output of the phase, along each spatial axis."""
            return [*above, *([row + r] if spatial > 1 else []), column + c]

        def step(i_block: Expr, taps: list[Expr], i: Expr) -> Stmt:
            channel = i_block * block + i

            def fma(r: Expr, c: Expr, v: Expr, k: Expr) -> Stmt:
                at = [
                    q * s + t * d + o
                    for q, s, t, d, o in zip(
                        position(r, c),
                        phase.stride,
                        taps,
                        phase.dilation,
                        phase.offset,
                        strict=True,
                    )
                ]
                value = scope.load(x, [n, g * channels + channel, *at])
                tap: Expr = i32(0)
                for t, count in zip(taps, phase.taps, strict=True):
                    tap = tap * count + t
                where = scope.address(
                    weight_layout, [g, (o * vectors + v) * lanes + k, channel, tap]
                )
                here = [cell(r, c, v, k)]
                total = tirx.BufferLoad(acc, here) + value * tirx.BufferLoad(weights, [where])
                return tirx.BufferStore(acc, total, here)

            return each(fma)

        full, rest = divmod(channels, block)

        def channels_then(i_block: Expr, count: int, taps: list[Expr]) -> Stmt:
            return scope.steps(count, unroll, lambda i: step(i_block, taps, i), "ic")

        def every_tap(body: Callable[[list[Expr]], Stmt]) -> Stmt:
            return scope.nest(phase.taps, lambda *taps: body(list(taps)), name="tap")

        def reduce() -> list[Stmt]:
            whole = i32(full)
            if outermost == "taps":
                return [
                    every_tap(
                        lambda taps: seq(
                            scope.loop(full, lambda b: channels_then(b, block, taps), name="ib")
                            if full
                            else None,
                            channels_then(whole, rest, taps) if rest else None,
                        )
                    )
                ]
            parts: list[Stmt] = []
            if full:
                parts.append(
                    scope.loop(
                        full,
                        lambda b: every_tap(lambda taps: channels_then(b, block, taps)),
                        name="ib",
                    )
                )
            if rest:
                parts.append(every_tap(lambda taps: channels_then(whole, rest, taps)))
            return parts

        zero = each(lambda *p: tirx.BufferStore(acc, tirx.const(0.0, "float32"), [cell(*p)]))
        parts = [zero, *(reduce() if some else [])]

        def finish(r: Expr, c: Expr, v: Expr, k: Expr) -> Stmt:
            emit = Emitter()
            indices = [n, g * outputs + (o * vectors + v) * lanes + k] + [
                f + s * q for f, s, q in zip(phase.first, phase.step, position(r, c), strict=True)
            ]
            indices = [scope.analyzer.simplify(i) for i in indices]
            result = tirx.BufferLoad(acc, [cell(r, c, v, k)])
            value = scope.evaluate(scope.kernel.output, indices, emit, {node.output: result})
            return seq(*emit.statements, scope.store(indices, value))

        return seq(*parts, each(finish))

    def columns_of(n: Expr, g: Expr, o: Expr, above: list[Expr], row: Expr, rows: int) -> Stmt:
        whole, rest = divmod(width, tile.columns)
        parts: list[Stmt] = []
        if whole:
            parts.append(
                scope.loop(
                    whole,
                    lambda c: compute(n, g, o, above, row, c * tile.columns, rows, tile.columns),
                )
            )
        if rest:
            parts.append(compute(n, g, o, above, row, i32(whole * tile.columns), rows, rest))
        return seq(*parts)

    def task(n: Expr, g: Expr, o: Expr, *rest: Expr) -> Stmt:
        *above, r = rest
        row = r * tile.rows
        whole, left = divmod(height, tile.rows)
        if not left:
            body = columns_of(n, g, o, list(above), row, tile.rows)
        elif not whole:
            body = columns_of(n, g, o, list(above), i32(0), left)
        else:
            body = tirx.IfThenElse(
                r < whole,
                columns_of(n, g, o, list(above), row, tile.rows),
                columns_of(n, g, o, list(above), i32(whole * tile.rows), left),
            )
        channel = g * outputs + o * wide
        fill = _border_of_tile(scope, n, channel, vectors, lanes) if first else None
        if fill is not None:
            start = tirx.all(*(p.equal(i32(0)) for p in rest))
            body = seq(scope.when(start, fill), body)
        return allocate(acc, body)

    weight_bytes = groups * outputs * reduction * 4
    places = [*outer, row_tiles]
    # Where weights stay in cache: walk the image once, all output channels at each place.
    orders = ("places, channels", "channels, places")
    order = scope.choose.one_of(
        f"{prefix}order", orders, orders[weight_bytes > machine.l2_bytes // 2]
    )
    scope.notes["order"] = order
    if order == "places, channels":
        every = [batch, *places, groups, blocks // vectors]
        return scope.parallel(every, lambda n, *p: task(n, p[-2], p[-1], *p[:-2]))
    return scope.parallel([batch, groups, blocks // vectors, *places], task)


def _border_of_tile(scope: Scope, n: Expr, channel: Expr, vectors: int, lanes: int) -> Stmt | None:
    """Zeros around the channels of one tile."""
    if fill_border(scope, n, i32(0), lanes) is None:
        return None
    return scope.loop(
        vectors,
        lambda v: seq(fill_border(scope, n, scope.analyzer.simplify(channel + v * lanes), lanes)),
    )
