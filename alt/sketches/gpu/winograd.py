"""Winograd's algorithm on a GPU: a thread for each tile, before and after products of matrices.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from alt.elementary import Emitter, Expr
from alt.operators import delinear
from alt.sketches.gpu.blocked import blocked_product
from alt.sketches.gpu.elementwise import VECTOR_DTYPES
from alt.sketches.gpu.grid import Region, or_zero, over_elements
from alt.sketches.gpu.product import LANES, Operand, Product, Results
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, Stmt, seq
from alt.sketches.winograd_transforms import INPUT, OUTPUT, both_sides, transformed_weights
from alt.winograd import grid_of
from primitives import Layout
from primitives.tensorir import tirx


def transform_input(scope: GpuScope) -> Stmt:
    """Every (m+2) x (m+2) window of the input, transformed; zeros are outside of the image."""
    node = scope.kernel.anchor
    assert node is not None
    x, m = node.inputs[0], node.attrs["m"]
    *_, height, width = node.attrs["image"]
    grid, size = grid_of(m, height, width), m + 2
    *before, top, left = (lo for lo, _ in node.attrs["pads"])

    def window(c: Expr, n: Expr, d: Expr, t: Expr) -> Stmt:
        emit = Emitter()
        plane = [d - lo for lo in before]
        first = t // grid.across * m - top, t % grid.across * m - left

        def cell(i: int, j: int) -> Expr:
            at = [*plane, first[0] + i, first[1] + j]
            inside = [
                guard
                for p, extent in zip(at, x.shape[2:], strict=True)
                for guard in (p >= 0, p < extent)
            ]
            return emit.bind(or_zero(scope, tirx.all(*inside), scope.load(x, [n, c, *at])))

        cells = [[cell(i, j) for j in range(size)] for i in range(size)]
        result = both_sides(emit, INPUT[m], cells)
        numbered = enumerate(value for row in result for value in row)
        return seq(*emit.statements, *(scope.store([p, c, n, d, t], v) for p, v in numbered))

    scope.notes["winograd"] = f"{m}x{m}"
    return over_elements(scope, Region(node.output.shape[1:], window))


def multiply_points(scope: GpuScope) -> Stmt:
    """For each point of the transformed space, weights times windows."""
    node = scope.kernel.anchor
    assert node is not None
    windows, weight = node.inputs
    m = node.attrs["m"]
    points, channels, *_ = windows.shape
    _, outputs, *places = node.output.shape
    taps = prod(node.attrs["kernel"][:-2])

    def terms_first(w: np.ndarray) -> np.ndarray:
        made = transformed_weights(m, w).transpose(3, 2, 1, 0)
        return np.ascontiguousarray(made).reshape(points, taps * channels, outputs)

    layout = Layout.identity((points, taps * channels, outputs))
    packed = scope.buffer(weight, layout, (f"winograd{m} terms", terms_first))

    def left(at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        return tirx.BufferLoad(packed, [scope.address(layout, [at[0], k, row])])

    def right(at: Sequence[Expr], column: Expr, k: Expr) -> Expr:
        n, d, t = delinear(column, places)
        tap, channel = (k // channels, k % channels) if taps > 1 else (0, k)
        return scope.load(windows, [at[0], channel, n, d + tap, t])

    def indices(at: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
        return [at[0], row, *delinear(column, places)]

    depth, columns = taps * channels, prod(places)
    lanes = LANES if columns % LANES == 0 else 1
    product = Product(
        (points,),
        outputs,
        columns,
        depth,
        Operand(scope, left, (points,), outputs, depth),
        Operand(scope, right, (points,), columns, depth),
        Results(scope, node.output, indices, lanes),
    )
    scope.notes["winograd"] = f"{m}x{m}"
    return blocked_product(scope, product, "fp32")


def transform_output(scope: GpuScope) -> Stmt:
    """Products transformed back: m x m results for each tile, and the epilogue."""
    node = scope.kernel.anchor
    assert node is not None
    products, m = node.inputs[0], node.attrs["m"]
    *outer, height, width = node.attrs["image"]
    grid, size = grid_of(m, height, width), m + 2
    whole = width % m == 0 and scope.output_layout.is_identity
    run = m if whole and scope.kernel.output.dtype in VECTOR_DTYPES else 1

    def tile(o: Expr, n: Expr, d: Expr, t: Expr) -> Stmt:
        emit = Emitter()
        results = scope.local(m * m, "float32", "results")
        y, z = t // grid.across * m, t % grid.across * m

        def cell(i: int, j: int) -> Expr:
            return emit.bind(scope.load(products, [i * size + j, o, n, d, t]))

        cells = [[cell(i, j) for j in range(size)] for i in range(size)]
        made = both_sides(emit, OUTPUT[m], cells)
        numbered = enumerate(value for row in made for value in row)
        kept = [tirx.BufferStore(results, value, [k]) for k, value in numbered]

        def indices(_: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
            return [n, o, *([d] if outer else []), y + row, z + column]

        writer = Results(scope, node.output, indices, run)

        def some(row: Expr, part: Expr) -> Stmt:
            first = part * run
            written = writer.write(
                (), row, first, run, lambda k: tirx.BufferLoad(results, [row * m + first + k])
            )
            guards = [
                at < extent for at, extent in ((y + row, height), (z + first, width)) if extent % m
            ]
            return tirx.IfThenElse(tirx.all(*guards), written, None) if guards else written

        written = scope.nest((m, m // run), some, UNROLLED)
        return seq(tirx.AllocBuffer(results), *emit.statements, *kept, written)

    scope.notes["winograd"] = f"{m}x{m}"
    return over_elements(scope, Region(products.shape[1:], tile))
