"""Kernels without a reduction: elementwise chains, layout conversions, gathers, concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.border import fill_border, fill_rows_border, vector_of_block
from alt.sketches.row import spread
from alt.sketches.scope import PARALLEL, SERIAL, SERIAL_ELEMENTS, VECTORIZED, Scope, Stmt, i32, seq
from alt.sketches.turned import rows_of_blocks
from alt.storage import block_of
from primitives.tensorir import tirx

Element = Callable[[Sequence[Expr], Emitter], Expr]


def elementwise(scope: Scope) -> Stmt:
    """Any kernel without an anchor."""
    output = scope.kernel.output
    if _is_flat(scope):
        return _flat(scope)
    turned = rows_of_blocks(scope)
    if turned is not None:
        return turned

    def element(indices: Sequence[Expr], emit: Emitter) -> Expr:
        return scope.evaluate(output, indices, emit)

    return write_region(scope, (0,) * len(output.shape), output.shape, element)


def concat(scope: Scope) -> Stmt:
    """Each operand is copied to its place, through the epilogue."""
    anchor = scope.kernel.anchor
    assert anchor is not None
    axis = anchor.attrs["axis"]
    shape = scope.kernel.output.shape
    statements: list[Stmt] = []
    start = 0
    for source in anchor.inputs:
        extent = source.shape[axis]
        begin = tuple(start if k == axis else 0 for k in range(len(shape)))
        extents = (*shape[:axis], extent, *shape[axis + 1 :])

        def element(
            indices: Sequence[Expr], emit: Emitter, source: Value = source, start: int = start
        ) -> Expr:
            inside = list(indices)
            inside[axis] = scope.analyzer.simplify(indices[axis] - start)
            piece = scope.evaluate(source, inside, emit)
            return scope.evaluate(scope.kernel.output, indices, emit, {anchor.output: piece})

        statements.append(write_region(scope, begin, extents, element, border=start == 0))
        start += extent
    return seq(*statements)


def _is_flat(scope: Scope) -> bool:
    """Whether storage order can be walked blindly: all tensors alike, or a single number."""
    output = scope.kernel.output
    layout = scope.layout(output)
    if layout.has_padding or any(n.op != "map" for n in scope.kernel.nodes):
        return False
    return all(
        scope.constants[v].size == 1
        if v in scope.constants and scope.constants[v].size == 1
        else v.shape == output.shape and scope.layout(v) == layout
        for v in scope.kernel.inputs
    )


def _flat(scope: Scope) -> Stmt:
    output = scope.kernel.output
    size = output.size
    lanes = min(scope.machine.lanes(output.dtype), scope.machine.lanes())

    def at(position: Expr) -> Stmt:
        emit = Emitter()
        loads = {
            v: tirx.BufferLoad(scope.buffer(v, scope.layout(v)), [position])
            for v in scope.kernel.inputs
            if not (v in scope.constants and scope.constants[v].size == 1)
        }
        indices = [i32(0)] * len(output.shape)
        value = scope.evaluate(output, indices, emit, loads)
        return seq(*emit.statements, tirx.BufferStore(scope.output, value, [position]))

    vectors = size // lanes
    parts: list[Stmt] = []
    if vectors:
        kind = PARALLEL if size >= SERIAL_ELEMENTS else SERIAL
        parts.append(
            scope.loop(
                vectors, lambda p: scope.loop(lanes, lambda k: at(p * lanes + k), VECTORIZED), kind
            )
        )
    if size % lanes:
        parts.append(scope.loop(size % lanes, lambda k: at(k + vectors * lanes)))
    return seq(*parts)


def write_region(
    scope: Scope,
    start: Sequence[int],
    extents: Sequence[int],
    element: Element,
    border: bool = True,
) -> Stmt:
    """Compute a box of the output, vectorised along its innermost stored axis.

    Args:
        scope: the kernel.
        start: first logical index of the box along each axis.
        extents: size of the box.
        element: the value at logical indices.
        border: also fill the border around the spatial axes of a row-major output; that of a
            blocked one is filled with each vector. A box of it begins and ends between vectors.
    """
    block = block_of(scope.output_layout)
    if block == 1:
        rows = _write_rows(scope, start, extents, element)
        return seq(fill_rows_border(scope) if border else None, rows)
    return _write_blocks(scope, start, extents, element, block)


def _point(scope: Scope, indices: Sequence[Expr], element: Element) -> Stmt:
    emit = Emitter()
    value = element(indices, emit)
    return seq(*emit.statements, scope.store(indices, value))


def _write_rows(
    scope: Scope, start: Sequence[int], extents: Sequence[int], element: Element
) -> Stmt:
    """Row-major output: the trailing axes are walked in vectors."""
    rank = len(extents)
    lanes = scope.machine.lanes()
    inner = rank - 1 if rank else 0
    bordered = scope.output_layout.has_padding
    while inner > 0 and prod(extents[inner:]) < lanes and not bordered:
        inner -= 1
    outer, tail = list(extents[:inner]), list(extents[inner:])
    length = prod(tail)
    # A single long row is cut, so that every core gets a share.
    pieces = 1
    vectors = length // lanes
    if prod(extents) >= SERIAL_ELEMENTS and prod(outer) < 4 * scope.machine.cores and vectors > 1:
        pieces = next(
            p for p in range(min(vectors, 16 * scope.machine.cores), 0, -1) if vectors % p == 0
        )

    def whole(*position: Expr) -> Stmt:
        *front, piece = position

        def at(offset: Expr) -> Stmt:
            inside = delinear(offset, tail) if len(tail) > 1 else [offset]
            indices = [
                scope.analyzer.simplify(i + s if s else i)
                for i, s in zip([*front, *inside], start, strict=True)
            ]
            return _point(scope, indices, element)

        each = vectors // pieces
        statements: list[Stmt] = []
        if vectors:
            statements.append(
                scope.loop(
                    each,
                    lambda v: scope.loop(
                        lanes, lambda k: at((piece * each + v) * lanes + k), VECTORIZED
                    ),
                )
            )
        if length % lanes:
            rest = scope.loop(length % lanes, lambda k: at(k + vectors * lanes))
            statements.append(rest if pieces == 1 else scope.when(piece.equal(i32(0)), rest))
        return seq(*statements)

    if not extents:
        return _point(scope, [], element)
    return spread(scope, [*outer, pieces], prod(extents), whole)


def _write_blocks(
    scope: Scope,
    start: Sequence[int],
    extents: Sequence[int],
    element: Element,
    block: int,
) -> Stmt:
    """Blocked output: a vector of channels at a time."""
    batch, channels, *spatial = extents
    lanes = vector_of_block(scope, block)
    rows, width = (spatial[:-1], spatial[-1]) if spatial else ([], 1)

    def row(n: Expr, v: Expr, *above: Expr) -> Stmt:
        channel = scope.analyzer.simplify(v * lanes + start[1])

        def at(*last: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                where = [*above, *last] if spatial else []
                indices = [
                    n + start[0],
                    channel + k,
                    *(p + s for p, s in zip(where, start[2:], strict=True)),
                ]
                return _point(scope, [scope.analyzer.simplify(i) for i in indices], element)

            return scope.loop(lanes, lane, VECTORIZED)

        body = scope.loop(width, at) if spatial else at()
        fill = fill_border(scope, scope.analyzer.simplify(n + start[0]), channel, lanes)
        if fill is None:
            return body
        at_first = tirx.all(*(p.equal(i32(0)) for p in above)) if above else tirx.const(True)
        return seq(scope.when(at_first, fill), body)

    every = [batch, -(-channels // lanes), *rows]
    return spread(scope, every, prod(extents), row)
