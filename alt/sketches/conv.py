"""Convolutions: 1-D to 3-D, strided, dilated, grouped, transposed.

One recipe serves all. Activations are stored in blocks of one vector of channels, weights as
[O tile][I block][taps...][channel in block][O in tile]; a tile of outputs (rows x columns x vectors
of output channels) stays in registers through the whole reduction and leaves once, through the
fused epilogue, into a buffer that already has the border the next convolution wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from alt.elementary import Emitter, Expr
from alt.graph import Node
from alt.sketches.generic import fill_border
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.storage import block_of
from primitives import Layout
from primitives.tensorir import tirx


@dataclass(frozen=True)
class Tile:
    """Outputs that one core keeps in registers: rows x columns x vectors of channels."""

    rows: int
    columns: int
    vectors: int


@dataclass(frozen=True)
class Phase:
    """A stride-1-output convolution that computes every `step`-th output, from `first` on.

    A plain convolution is one phase; a transposed one is a phase for each remainder of the output
    index by the stride. For output `first + step*q` along an axis the taps read input
    `q*stride + t*dilation + offset`, t = 0 .. taps-1.
    """

    first: tuple[int, ...]
    step: tuple[int, ...]
    count: tuple[int, ...]
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    offset: tuple[int, ...]
    kernel_first: tuple[int, ...]
    kernel_step: tuple[int, ...]


def phases(node: Node) -> list[Phase]:
    """How a convolution node decomposes."""
    a = node.attrs
    spatial = len(node.output.shape) - 2
    kernel = node.inputs[1].shape[2:]
    if node.op == "conv":
        return [
            Phase(
                first=(0,) * spatial,
                step=(1,) * spatial,
                count=node.output.shape[2:],
                taps=kernel,
                stride=a["strides"],
                dilation=a["dilation"],
                offset=tuple(-lo for lo, _ in a["pads"]),
                kernel_first=(0,) * spatial,
                kernel_step=(1,) * spatial,
            )
        ]
    # Output o reads input (o + pad - t*dilation) / stride for the taps t where that is whole.
    per_axis: list[list[tuple[int, ...]]] = []
    for d in range(spatial):
        s, dil, pad = a["strides"][d], a["dilation"][d], a["pads"][d][0]
        choices: list[tuple[int, ...]] = []
        for r in range(min(s, node.output.shape[2 + d])):
            hits = [t for t in range(kernel[d]) if (r + pad - t * dil) % s == 0]
            count = -(-(node.output.shape[2 + d] - r) // s)
            if hits:
                period = hits[1] - hits[0] if len(hits) > 1 else 1
                # Taps run backwards, so that the input index grows with the tap.
                last = hits[-1]
                offset = (r + pad - last * dil) // s
                choices.append(
                    (r, s, count, len(hits), period * dil // s or 1, offset, last, -period)
                )
            else:
                choices.append((r, s, count, 0, 1, 0, 0, 1))
        per_axis.append(choices)

    def combine(axis: int) -> Iterator[list[tuple[int, ...]]]:
        if axis == spatial:
            yield []
            return
        for choice in per_axis[axis]:
            for rest in combine(axis + 1):
                yield [choice, *rest]

    found: list[Phase] = []
    for axes in combine(0):
        r, s, count, taps, dil, offset, kfirst, kstep = (tuple(c) for c in zip(*axes, strict=True))
        found.append(Phase(r, s, count, taps, (1,) * spatial, dil, offset, kfirst, kstep))
    return found


def required_border(node: Node) -> tuple[tuple[int, int], ...]:
    """Cells of zeros a convolution reads before and after each spatial axis of its input."""
    shape = node.inputs[0].shape[2:]
    border = [(0, 0)] * len(shape)
    for phase in phases(node):
        for d in range(len(shape)):
            if not phase.taps[d] or not phase.count[d]:
                continue
            low = phase.offset[d]
            high = (
                (phase.count[d] - 1) * phase.stride[d]
                + (phase.taps[d] - 1) * phase.dilation[d]
                + phase.offset[d]
            )
            lo, hi = border[d]
            border[d] = (max(lo, -low), max(hi, high - shape[d] + 1))
    return tuple(border)


def choose_tile(
    rows: int,
    columns: int,
    vectors: int,
    registers: int,
    panel_bytes: int,
    l1_bytes: int,
    most_positions: int = 32,
) -> Tile:
    """The register tile with the fewest estimated cycles for one image of outputs.

    A step of the reduction takes one multiply-add an accumulator, a load for each vector of weights
    and a broadcast for each output position; at least eight multiply-adds are needed to hide their
    latency. Weights that do not stay in the first-level cache load at half speed.
    """
    weight_load = 1.0 if panel_bytes <= l1_bytes // 2 else 2.0
    best: tuple[float, Tile] | None = None
    for v in range(1, min(vectors, 6) + 1):
        if vectors % v:
            continue
        budget = max(1, min((registers - v - 1) // v, most_positions))
        for r in range(1, min(rows, budget, 8) + 1):
            for c in _widths(columns, budget // r):
                cycles = 0.0
                for height, times_r in _pieces(rows, r):
                    for width, times_c in _pieces(columns, c):
                        positions = height * width
                        step = max(positions * v, 0.5 * positions + weight_load * v, 8.0)
                        cycles += times_r * times_c * step
                # Per vector of output channels, with a slight preference for few loads.
                loads = (0.5 * r * c + weight_load * v) / (r * c * v)
                score = cycles / v * (1.0 + 0.05 * loads)
                if best is None or score < best[0] - 1e-9:
                    best = (score, Tile(r, c, v))
    assert best is not None
    return best[1]


def _widths(columns: int, limit: int) -> list[int]:
    """Tile widths worth trying: those that cut the row evenly, or nearly so."""
    limit = min(columns, limit)
    found = {-(-columns // n) for n in range(1, columns + 1) if -(-columns // n) <= limit}
    return sorted(found | ({limit} if limit else set()), reverse=True)


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the pieces an extent is cut into."""
    whole, rest = divmod(extent, size)
    return [p for p in ((size, whole), (rest, 1 if rest else 0)) if p[1]]


def convolution(scope: Scope) -> Stmt:
    """A convolution whose output channels are stored in blocks of vectors."""
    node = scope.kernel.anchor
    assert node is not None
    statements: list[Stmt] = []
    for number, phase in enumerate(phases(node)):
        statements.append(_phase(scope, node, phase, number == 0))
    return seq(*statements)


def geometry(node: Node) -> tuple[int, int, int]:
    """Groups, input channels a group, output channels a group."""
    groups = node.attrs["groups"]
    return groups, node.inputs[0].shape[1] // groups, node.output.shape[1] // groups


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


def taps_of_phase(node: Node, phase: Phase, weight: np.ndarray) -> np.ndarray:
    """The weights that one phase uses.

    Shape:
        (groups, outputs a group, channels a group, taps).
    """
    groups, channels, outputs = geometry(node)
    kernel = weight.shape[2:]
    if node.op == "conv_transpose":
        w = weight.reshape(groups, channels, outputs, *kernel).swapaxes(1, 2)
    else:
        w = weight.reshape(groups, outputs, channels, *kernel)
    for axis, (first, step, count) in enumerate(
        zip(phase.kernel_first, phase.kernel_step, phase.taps, strict=True)
    ):
        if (first, step, count) != (0, 1, kernel[axis]):
            w = w.take([first + step * t for t in range(count)], axis=3 + axis)
    return np.ascontiguousarray(w).reshape(groups, outputs, channels, prod(phase.taps))


def _phase(scope: Scope, node: Node, phase: Phase, first: bool) -> Stmt:
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
    tile = choose_tile(
        height, width, blocks, machine.registers, reduction * lanes * 4, machine.l1_bytes
    )
    vectors = tile.vectors
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

        def taps_then(i_block: Expr, count: int) -> Stmt:
            return scope.nest(
                phase.taps,
                lambda *taps: scope.loop(count, lambda i: step(i_block, list(taps), i), name="ic"),
                name="tap",
            )

        full, rest = divmod(channels, block)
        zero = each(lambda *p: tirx.BufferStore(acc, tirx.const(0.0, "float32"), [cell(*p)]))
        parts = [zero]
        if some:
            if full:
                parts.append(scope.loop(full, lambda b: taps_then(b, block), name="ib"))
            if rest:
                parts.append(taps_then(i32(full), rest))

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
        fill = _border_of_tile(scope, n, g, o, vectors, blocks) if first else None
        if fill is not None:
            start = tirx.all(*(p.equal(i32(0)) for p in rest))
            body = seq(scope.when(start, fill), body)
        return allocate(acc, body)

    weight_bytes = groups * outputs * reduction * 4
    places = [*outer, row_tiles]
    if weight_bytes <= machine.l2_bytes // 2:
        # Weights stay in cache: walk the image once, all output channels at each place.
        order = [batch, *places, groups, blocks // vectors]
        scope.notes["order"] = "places, channels"
        return scope.parallel(order, lambda n, *p: task(n, p[-2], p[-1], *p[:-2]))
    order = [batch, groups, blocks // vectors, *places]
    scope.notes["order"] = "channels, places"
    return scope.parallel(order, task)


def _border_of_tile(
    scope: Scope, n: Expr, g: Expr, o: Expr, vectors: int, blocks: int
) -> Stmt | None:
    if fill_border(scope, n, i32(0)) is None:
        return None
    return scope.loop(
        vectors,
        lambda v: seq(fill_border(scope, n, scope.analyzer.simplify(g * blocks + o * vectors + v))),
    )


def has_packed_weights(node: Node) -> bool:
    """Whether the weights are constants, which can be laid out at compile time."""
    return not node.attrs.get("runtime_weights", False)


def is_depthwise(node: Node) -> bool:
    """Whether every channel is convolved by itself, with weights known at compile time."""
    groups, channels, outputs = geometry(node)
    alone = groups > 1 and channels == 1 and outputs == 1
    return node.op == "conv" and alone and has_packed_weights(node)


def wants_blocks(node: Node, lanes: int) -> bool:
    """Whether a convolution runs on channel blocks.

    Grouped ones do only if a vector of output channels never straddles two groups, and all only if
    the weights can be laid out at compile time.
    """
    groups, channels, outputs = geometry(node)
    if not has_packed_weights(node):
        return False
    if groups == 1 or is_depthwise(node):
        return True
    return outputs % lanes == 0 and channels % lanes == 0


def depthwise(scope: Scope) -> Stmt:
    """A depthwise convolution: a vector of channels at each position, taps unrolled."""
    node = scope.kernel.anchor
    assert node is not None
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
    columns = max((c for c in _widths(width, budget) if c <= 14), default=1)
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
        reduce = scope.nest(phase.taps, tap, UNROLLED if taps <= 25 else tirx.ForKind.SERIAL)
        return seq(zero, reduce, each(finish))

    def task(n: Expr, b: Expr, *rest: Expr) -> Stmt:
        *above, row = rest
        whole, left = divmod(width, columns)
        parts: list[Stmt | None] = []
        fill = fill_border(scope, n, b)
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
