"""Winograd convolution: 3x3 (and n x3x3) windows of stride 1 with 2.25 or 4 times fewer products.

An output tile of m x m comes from (m+2) x (m+2) products in a transformed space. Two kernels: one
transforms the input, the other multiplies with weights transformed at compile time, transforms
back and applies the epilogue. Whether it pays is computed from the shape: where images are small,
the larger weights make it memory-bound.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from __future__ import annotations

from math import prod
from typing import Any

from alt.elementary import Emitter, Expr, f32
from alt.sketches.border import check_room, fill_border
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from alt.sketches.winograd_transforms import INPUT, OUTPUT, both_sides, transformed_weights
from alt.winograd import grid_of
from primitives import Layout
from primitives.tensorir import tirx


def transform_input(scope: Scope) -> Stmt:
    """Every (m+2) x (m+2) window of the input, transformed, a vector of channels at a time."""
    node = scope.kernel.anchor
    assert node is not None
    x = node.inputs[0]
    grid = grid_of(*node.attrs["grid"])
    size = grid.m + 2
    (_, depth, _, _, blocks, _, lanes) = node.output.shape
    volume = len(x.shape) == 5
    *before, top, left = (lo for lo, _ in node.attrs["pads"])

    def window(n: Expr, d: Expr, c: Expr, b: Expr) -> Stmt:
        def tile(t: Expr) -> Stmt:
            where = tirx.Var("tile", "int32")
            last = tirx.min(c * grid.chunk + t, i32(grid.tiles - 1))
            y, z = where // grid.across, where % grid.across

            def lane(k: Expr) -> Stmt:
                emit = Emitter()
                cells = [
                    [
                        emit.bind(
                            scope.load(
                                x,
                                [
                                    n,
                                    b * lanes + k,
                                    *([d - before[0]] if volume else []),
                                    y * grid.m + (i - top),
                                    z * grid.m + (j - left),
                                ],
                            )
                        )
                        for j in range(size)
                    ]
                    for i in range(size)
                ]
                result = both_sides(emit, INPUT[grid.m], cells)
                stores = [
                    scope.store([n, d, c, i32(i * size + j), b, t, k], result[i][j])
                    for i in range(size)
                    for j in range(size)
                ]
                return seq(*emit.statements, *stores)

            return seq(tirx.Bind(where, last), scope.loop(lanes, lane, VECTORIZED))

        return scope.loop(grid.chunk, tile, name="t")

    return scope.parallel([x.shape[0], depth, grid.chunks, blocks], window)


def winograd(scope: Scope) -> Stmt:
    """Products in the transformed space, the inverse transform, the epilogue."""
    node = scope.kernel.anchor
    assert node is not None
    check_room(scope)
    machine = scope.machine
    v_in, weight = node.inputs[:2]
    m = node.attrs["grid"][0]
    grid = grid_of(*node.attrs["grid"])
    batch, _, _, points, _, _, lanes = v_in.shape
    outputs, channels = node.output.shape[1], node.attrs["channels"]
    *outer, height, width = node.output.shape[2:]
    depth = prod(node.attrs["kernel"][:-2])
    blocks = -(-outputs // lanes)
    default = choose_tile(
        1, grid.chunk, blocks, machine.registers, channels * lanes * 4, machine.l1_bytes
    )
    tile = decide_tile(scope.choose, 1, grid.chunk, blocks, machine.registers, default)
    unroll = scope.choose.one_of("unroll", (1, 2, 4), 1)
    vectors, positions = tile.vectors, tile.columns
    scope.notes["winograd"] = f"{m}x{m}"
    scope.notes["tile"] = [1, positions, vectors]
    wide = vectors * lanes
    layout = Layout.identity((outputs, channels, depth, points)).pad(0, 0, -outputs % wide)
    layout = layout.split(0, (-1, wide)).reorder((0, 4, 3, 2, 1))
    weights = scope.buffer(weight, layout, (f"winograd{m}", lambda w: transformed_weights(m, w)))
    acc = scope.local(positions * wide)
    products = tirx.decl_buffer((points * grid.chunk * wide,), "float32", "products")

    def multiply(n: Expr, o: Expr, d: Expr, c: Expr, p: Expr, first: Expr, count: int) -> Stmt:
        """One register tile: `count` tiles by `wide` output channels at one point."""

        def each(body: Any) -> Stmt:
            return scope.loop(
                count,
                lambda t: scope.loop(
                    vectors,
                    lambda v: scope.loop(lanes, lambda k: body(t, v, k), VECTORIZED),
                    UNROLLED,
                ),
                UNROLLED,
            )

        def cell(t: Expr, v: Expr, k: Expr) -> Expr:
            return (t * vectors + v) * lanes + k

        def step(kd: Expr, b: Expr, i: Expr) -> Stmt:
            def fma(t: Expr, v: Expr, k: Expr) -> Stmt:
                here = [cell(t, v, k)]
                x = scope.load(v_in, [n, d + kd, c, p, b, first + t, i])
                at = scope.address(layout, [(o * vectors + v) * lanes + k, b * lanes + i, kd, p])
                total = tirx.BufferLoad(acc, here) + x * tirx.BufferLoad(weights, [at])
                return tirx.BufferStore(acc, total, here)

            return each(fma)

        full, rest = divmod(channels, lanes)

        def deep(kd: Expr) -> Stmt:
            return seq(
                scope.loop(
                    full, lambda b: scope.steps(lanes, unroll, lambda i: step(kd, b, i), "i")
                )
                if full
                else None,
                scope.loop(rest, lambda i: step(kd, i32(full), i)) if rest else None,
            )

        def keep(t: Expr, v: Expr, k: Expr) -> Stmt:
            at = (p * grid.chunk + first + t) * wide + v * lanes + k
            return tirx.BufferStore(products, tirx.BufferLoad(acc, [cell(t, v, k)]), [at])

        zero = each(lambda *q: tirx.BufferStore(acc, f32(0.0), [cell(*q)]))
        return seq(zero, scope.loop(depth, deep), each(keep))

    def back(n: Expr, o: Expr, d: Expr, c: Expr, t: Expr, v: Expr) -> Stmt:
        """The inverse transform of one tile, and the epilogue of its outputs."""
        where = tirx.Var("tile", "int32")
        y, z = where // grid.across, where % grid.across

        def lane(k: Expr) -> Stmt:
            emit = Emitter()
            size = m + 2
            cells = [
                [
                    emit.bind(
                        tirx.BufferLoad(
                            products,
                            [((i * size + j) * grid.chunk + t) * wide + v * lanes + k],
                        )
                    )
                    for j in range(size)
                ]
                for i in range(size)
            ]
            result = both_sides(emit, OUTPUT[m], cells)
            stores: list[Stmt] = []
            for i in range(m):
                for j in range(m):
                    row, column = y * m + i, z * m + j
                    last = Emitter()
                    indices = [
                        n,
                        (o * vectors + v) * lanes + k,
                        *([d] if outer else []),
                        row,
                        column,
                    ]
                    value = scope.evaluate(
                        scope.kernel.output, indices, last, {node.output: result[i][j]}
                    )
                    store = seq(*last.statements, scope.store(indices, value))
                    guards = [
                        p < extent
                        for p, extent, tiles in (
                            (row, height, grid.down),
                            (column, width, grid.across),
                        )
                        if tiles * m > extent
                    ]
                    stores.append(
                        tirx.IfThenElse(tirx.all(*guards), store, None) if guards else store
                    )
            return seq(*emit.statements, *stores)

        return seq(tirx.Bind(where, c * grid.chunk + t), scope.loop(lanes, lane, VECTORIZED))

    def task(o: Expr, n: Expr, *rest: Expr) -> Stmt:
        *above, c = rest
        d = above[0] if above else i32(0)
        whole, left = divmod(grid.chunk, positions)

        def point(p: Expr) -> Stmt:
            return seq(
                scope.loop(whole, lambda t: multiply(n, o, d, c, p, t * positions, positions))
                if whole
                else None,
                multiply(n, o, d, c, p, i32(whole * positions), left) if left else None,
            )

        def tile_back(t: Expr) -> Stmt:
            body = scope.loop(vectors, lambda v: back(n, o, d, c, t, v))
            return seq(scope.when(c * grid.chunk + t < grid.tiles, body))

        first = tirx.all(*(q.equal(i32(0)) for q in rest))
        fill = (
            scope.loop(
                vectors, lambda v: seq(fill_border(scope, n, (o * vectors + v) * lanes, lanes))
            )
            if fill_border(scope, n, i32(0), lanes) is not None
            else None
        )
        return seq(
            tirx.AllocBuffer(products),
            tirx.AllocBuffer(acc),
            scope.when(first, fill) if fill is not None else None,
            scope.loop(points, point, name="point"),
            scope.loop(grid.chunk, tile_back, name="t"),
        )

    return scope.parallel([blocks // vectors, batch, *outer, grid.chunks], task)
