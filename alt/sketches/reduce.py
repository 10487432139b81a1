"""Sums, means, extrema and products over any axes."""

from __future__ import annotations

from math import prod

from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.border import vector_of_block
from alt.sketches.row import COMBINE, Row, spread, start_of
from alt.sketches.scope import VECTORIZED, Scope, Stmt, i32, seq
from alt.storage import block_of
from primitives.tensorir import tirx


def reduction(scope: Scope) -> Stmt:
    """Sum, mean, maximum, minimum or product over any axes.

    Vectors run along the channels of a blocked input, along the last axis where that is kept, and
    along the reduced row otherwise.
    """
    node = scope.kernel.anchor
    assert node is not None
    x = node.inputs[0]
    axes = node.attrs["axes"]
    kept = [k for k in range(len(x.shape)) if k not in axes]
    blocked = _reads_blocks(scope, x)
    if blocked > 1 and 1 in kept:
        return _across(scope, 1, vector_of_block(scope, blocked))
    # The last axis longer than 1 decides which way memory runs.
    long = [k for k in range(len(x.shape)) if x.shape[k] > 1]
    if long and long[-1] in kept:
        return _across(scope, long[-1], scope.machine.lanes(x.dtype))
    return _along(scope)


def _reads_blocks(scope: Scope, x: Value) -> int:
    blocks = [block_of(scope.layout(v)) for v in scope.kernel.inputs if v.shape == x.shape]
    return max(blocks, default=1)


def finish_reduction(scope: Scope, full: list[Expr], total: Expr) -> Stmt:
    """Scale a mean, apply the epilogue, write; `full` are indices of the input's kept axes."""
    node = scope.kernel.anchor
    assert node is not None
    x, axes = node.inputs[0], node.attrs["axes"]
    if node.attrs["kind"] == "mean":
        count = prod(x.shape[a] for a in axes)
        total = (
            total * tirx.const(1.0 / count, x.dtype)
            if x.dtype.startswith("float")
            else (tirx.truncdiv(total, tirx.const(count, x.dtype)))
        )
    indices = [
        i32(0) if k in axes else full[k]
        for k in range(len(x.shape))
        if k not in axes or node.attrs["keepdims"]
    ]
    emit = Emitter()
    value = scope.evaluate(scope.kernel.output, indices, emit, {node.output: total})
    return seq(*emit.statements, scope.store(indices, value))


def _across(scope: Scope, axis: int, lanes: int) -> Stmt:
    """Neighbouring results side by side in a vector along a kept axis."""
    node = scope.kernel.anchor
    assert node is not None
    x, axes, kind = node.inputs[0], node.attrs["axes"], node.attrs["kind"]
    outer = [k for k in range(len(x.shape)) if k not in axes and k != axis]
    whole, rest = divmod(x.shape[axis], lanes)

    def block(at: dict[int, Expr], first: Expr, count: int, vector: bool) -> Stmt:
        acc = scope.local(count, x.dtype)
        how = VECTORIZED if vector else tirx.ForKind.SERIAL

        def step(*reduced: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                emit = Emitter()
                where = {**at, axis: first + k, **dict(zip(axes, reduced, strict=True))}
                value = scope.evaluate(x, [where[d] for d in range(len(x.shape))], emit)
                total = COMBINE[kind](tirx.BufferLoad(acc, [k]), value)
                return seq(*emit.statements, tirx.BufferStore(acc, total, [k]))

            return scope.loop(count, lane, how)

        def finish(k: Expr) -> Stmt:
            full = {**at, axis: first + k, **{a: i32(0) for a in axes}}
            return finish_reduction(
                scope, [full[d] for d in range(len(x.shape))], tirx.BufferLoad(acc, [k])
            )

        zero = scope.loop(count, lambda k: tirx.BufferStore(acc, start_of(kind, x.dtype), [k]), how)
        return seq(
            tirx.AllocBuffer(acc),
            zero,
            scope.nest([x.shape[a] for a in axes], step),
            scope.loop(count, finish, how),
        )

    def task(*position: Expr) -> Stmt:
        *o, piece = position
        at = dict(zip(outer, o, strict=True))
        return block(at, piece * lanes, lanes, True)

    parts: list[Stmt] = []
    extents = [x.shape[k] for k in outer]
    if whole:
        parts.append(spread(scope, [*extents, whole], x.size, task))
    if rest:

        def tail(*o: Expr) -> Stmt:
            return block(dict(zip(outer, o, strict=True)), i32(whole * lanes), rest, False)

        parts.append(spread(scope, extents, x.size, tail))
    return seq(*parts)


def _along(scope: Scope) -> Stmt:
    """One result at a time, vectors along the reduced elements."""
    node = scope.kernel.anchor
    assert node is not None
    x, axes, kind = node.inputs[0], node.attrs["axes"], node.attrs["kind"]
    kept = [k for k in range(len(x.shape)) if k not in axes]
    # The trailing run of reduced axes makes the row; other reduced axes are looped over.
    inner = [a for a in axes if all(k in axes or x.shape[k] == 1 for k in range(a, len(x.shape)))]
    outer_axes = [a for a in axes if a not in inner]
    extents = [x.shape[a] for a in inner]

    def task(*position: Expr) -> Stmt:
        row = Row(scope, max(prod(extents), 1), x.dtype)
        best = scope.local(1, x.dtype, "best")
        at = dict(zip(kept, position, strict=True))

        def sweep(*o: Expr) -> Stmt:
            def element(p: Expr, emit: Emitter) -> Expr:
                where = {**at, **dict(zip(outer_axes, o, strict=True))}
                where.update(zip(inner, delinear(p, extents), strict=True))
                indices = [scope.analyzer.simplify(where[d]) for d in range(len(x.shape))]
                return scope.evaluate(x, indices, emit)

            merged = COMBINE[kind](tirx.BufferLoad(best, [i32(0)]), row.result())
            return seq(row.reduce(kind, element), tirx.BufferStore(best, merged, [i32(0)]))

        full = {**at, **{a: i32(0) for a in axes}}
        return seq(
            tirx.AllocBuffer(row.partial),
            tirx.AllocBuffer(row.total),
            tirx.AllocBuffer(best),
            tirx.BufferStore(best, start_of(kind, x.dtype), [i32(0)]),
            scope.nest([x.shape[a] for a in outer_axes], sweep),
            finish_reduction(
                scope, [full[d] for d in range(len(x.shape))], tirx.BufferLoad(best, [i32(0)])
            ),
        )

    return spread(scope, [x.shape[k] for k in kept], x.size, task)
