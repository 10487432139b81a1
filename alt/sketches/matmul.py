"""Matrix products: with constant, packed weights; batched with operands computed at run time; and
matrix-vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from alt.elementary import Emitter, Expr, Inline
from alt.operators import delinear
from alt.sketches.scope import SERIAL, UNROLLED, VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from primitives import Layout
from primitives.expressions import reads_of
from primitives.tensorir import tirx


def matmul(scope: Scope) -> Stmt:
    """[..., M, K] x [..., K, N], NumPy rules for batches and vectors."""
    node = scope.kernel.anchor
    assert node is not None
    a, b = node.inputs[:2]
    machine = scope.machine
    lanes = machine.lanes(a.dtype)
    depth = a.shape[-1]
    width = b.shape[-1] if len(b.shape) > 1 else 1
    batch = node.output.shape[: max(len(a.shape), len(b.shape)) - 2]
    height = a.shape[-2] if len(a.shape) > 1 else 1
    packed = b in scope.constants and prod(b.shape[:-2]) == 1
    if packed:
        # The whole batch shares one matrix: it is just more rows.
        rows_of = [*batch, height]
        height, batch = prod(rows_of), ()
    else:
        rows_of = [height]
    blocks = -(-width // lanes)

    def split_row(batch_at: Sequence[Expr], row: Expr) -> list[Expr]:
        return delinear(row, rows_of) if packed else [*batch_at, row]

    def a_at(batch_at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        where = split_row(batch_at, row)
        index = [*where, k] if len(a.shape) > 1 else [k]
        return scope.evaluate(a, fit(index, a.shape), Inline())

    # Rows whose addresses agree in the low 12 bits compete for the same few ways of the first-level
    # cache: take fewer at a time.
    stride = stride_of(scope, lambda row: a_at([i32(0)] * len(batch), row, i32(0)))
    conflict = height > 1 and stride is not None and stride * 4 % 2048 == 0
    default = choose_tile(
        1,
        height,
        blocks,
        machine.registers,
        depth * lanes * 4,
        machine.l1_bytes,
        most_positions=8 if conflict else 32,
    )
    tile = decide_tile(scope.choose, 1, height, blocks, machine.registers, default)
    unroll = scope.choose.one_of("unroll", (1, 2, 4), 1)
    vectors, rows = tile.vectors, tile.columns
    scope.notes["tile"] = [1, rows, vectors]
    wide = vectors * lanes
    acc = scope.local(rows * wide, a.dtype)

    def b_at(batch_at: Sequence[Expr], k: Expr, column: Expr) -> Expr:
        index = [*batch_at, k, column] if len(b.shape) > 1 else [k]
        return scope.evaluate(b, fit(index, b.shape), Inline())

    def out_index(batch_at: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
        index = [*split_row(batch_at, row)]
        if len(a.shape) == 1:
            index = index[:-1]
        if len(b.shape) > 1:
            index = [*index, column]
        return [scope.analyzer.simplify(i) for i in index]

    scratch = tirx.decl_buffer((depth * wide,), b.dtype, "panel")

    def copy_panel(batch_at: Sequence[Expr], tile_at: Expr) -> Stmt:
        """One column tile of an operand that is not known at compile time."""

        def cell(k: Expr, lane: Expr) -> Stmt:
            column = tile_at * wide + lane
            if width % wide:
                column = tirx.min(column, i32(width - 1))
            return tirx.BufferStore(scratch, b_at(batch_at, k, column), [k * wide + lane])

        def vector(k: Expr, v: Expr) -> Stmt:
            return scope.loop(lanes, lambda i: cell(k, v * lanes + i), VECTORIZED)

        contiguous = stride_of(scope, lambda lane: b_at(batch_at, i32(0), lane)) == 1
        if width % wide == 0 and contiguous:
            return scope.nest([depth, vectors], vector)
        return scope.loop(wide, lambda lane: scope.loop(depth, lambda k: cell(k, lane)))

    if packed:
        matrix = Layout.identity((depth, width)).pad(1, 0, -width % wide)
        matrix = matrix.split(1, (-1, wide)).reorder((1, 0, 2))
        weights = scope.buffer(b, matrix, ("matrix", lambda w: w.reshape(depth, width)))

        def panel(_: Sequence[Expr], k: Expr, tile_at: Expr, lane: Expr) -> Expr:
            return tirx.BufferLoad(weights, [scope.address(matrix, [k, tile_at * wide + lane])])

    else:

        def panel(_: Sequence[Expr], k: Expr, tile_at: Expr, lane: Expr) -> Expr:
            return tirx.BufferLoad(scratch, [k * wide + lane])

    def compute(batch_at: Sequence[Expr], row: Expr, tile_at: Expr, count: int) -> Stmt:
        def each(body: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
            return scope.loop(
                count,
                lambda r: scope.loop(
                    vectors,
                    lambda v: scope.loop(lanes, lambda i: body(r, v, i), VECTORIZED),
                    UNROLLED,
                ),
                UNROLLED,
            )

        def cell(r: Expr, v: Expr, i: Expr) -> Expr:
            return (r * vectors + v) * lanes + i

        def step(k: Expr) -> Stmt:
            def fma(r: Expr, v: Expr, i: Expr) -> Stmt:
                here = [cell(r, v, i)]
                product = a_at(batch_at, row + r, k) * panel(batch_at, k, tile_at, v * lanes + i)
                return tirx.BufferStore(acc, tirx.BufferLoad(acc, here) + product, here)

            return each(fma)

        def finish(r: Expr, column: Expr, at: Expr) -> Stmt:
            emit = Emitter()
            indices = out_index(batch_at, row + r, column)
            given = {node.output: tirx.BufferLoad(acc, [at])}
            value = scope.evaluate(scope.kernel.output, indices, emit, given)
            return seq(*emit.statements, scope.store(indices, value))

        def whole_columns(used: int) -> Stmt:
            """The epilogue over the first `used` columns of the tile."""
            full, rest = divmod(used, lanes)

            def vector(r: Expr, v: Expr) -> Stmt:
                return scope.loop(
                    lanes,
                    lambda i: finish(r, tile_at * wide + v * lanes + i, cell(r, v, i)),
                    VECTORIZED,
                )

            def one(r: Expr, i: Expr) -> Stmt:
                return finish(r, tile_at * wide + full * lanes + i, cell(r, i32(full), i))

            return scope.loop(
                count,
                lambda r: seq(
                    scope.loop(full, lambda v: vector(r, v), UNROLLED) if full else None,
                    scope.loop(rest, lambda i: one(r, i), SERIAL) if rest else None,
                ),
                UNROLLED,
            )

        zero = each(lambda r, v, i: tirx.BufferStore(acc, tirx.const(0, a.dtype), [cell(r, v, i)]))
        whole, left = divmod(width, wide)
        if not left:
            ending = whole_columns(wide)
        elif not whole:
            ending = whole_columns(left)
        else:
            ending = tirx.IfThenElse(tile_at < whole, whole_columns(wide), whole_columns(left))
        return seq(zero, scope.steps(depth, unroll, step, "k"), ending)

    tiles = -(-width // wide)
    whole, left = divmod(height, rows)

    def down(batch_at: Sequence[Expr], tile_at: Expr) -> Stmt:
        """All rows of one column tile."""
        parts: list[Stmt] = []
        if whole:
            parts.append(
                scope.loop(whole, lambda r: compute(batch_at, r * rows, tile_at, rows), name="m")
            )
        if left:
            parts.append(compute(batch_at, i32(whole * rows), tile_at, left))
        return seq(*parts)

    if not packed:

        def batched(*at: Expr) -> Stmt:
            *batch_at, tile_at = at
            return seq(
                tirx.AllocBuffer(scratch),
                tirx.AllocBuffer(acc),
                copy_panel(batch_at, tile_at),
                down(batch_at, tile_at),
            )

        return scope.parallel([*batch, tiles], batched)
    enough = tiles >= 4 * machine.cores or whole <= 1 or tiles % machine.cores == 0
    tasks = ("columns", "tiles")
    if scope.choose.one_of("tasks", tasks, tasks[not enough]) == "columns":
        return scope.parallel([tiles], lambda t: allocate(acc, down((), t)))

    def one_tile(t: Expr, m: Expr) -> Stmt:
        if not left:
            return allocate(acc, compute((), m * rows, t, rows))
        body = tirx.IfThenElse(
            m < whole,
            compute((), m * rows, t, rows),
            compute((), i32(whole * rows), t, left),
        )
        return allocate(acc, body)

    return scope.parallel([tiles, whole + (1 if left else 0)], one_tile)


def fit(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """Indices of an operand whose batch is broadcast."""
    kept = list(index)[len(index) - len(shape) :]
    batch = max(len(shape) - 2, 0)
    return [
        i32(0) if axis < batch and extent == 1 else kept[axis] for axis, extent in enumerate(shape)
    ]


def stride_of(scope: Scope, element: Callable[[Expr], Expr]) -> int | None:
    """How far apart neighbouring elements lie in memory; None unless that is one distance."""
    at = tirx.Var("at", "int32")
    first, second = reads_of(element(at)), reads_of(element(at + 1))
    if len(first) != 1 or len(second) != 1:
        return None
    difference = scope.analyzer.simplify(second[0].indices[0] - first[0].indices[0])
    return int(difference.value) if isinstance(difference, tirx.IntImm) else None
