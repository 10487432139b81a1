"""Softmax, layer norm and reductions: teams of threads, a row each."""

from __future__ import annotations

from math import prod

from alt.elementary import Emitter, Expr
from alt.operators import delinear
from alt.sketches import rows
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.team import Teams
from alt.sketches.reduce import finish_reduction
from alt.sketches.row import COMBINE, start_of
from alt.sketches.scope import Stmt, allocate, i32, seq
from alt.storage import block_of
from primitives.tensorir import tirx

ACROSS = 32
"""Neighbouring results of a reduction that a block computes."""


def softmax(scope: GpuScope) -> Stmt:
    """exp(x - max x) / sum, or its logarithm, along one axis."""
    node = scope.kernel.anchor
    assert node is not None
    return rows.softmax(scope, Teams(scope, node.inputs[0].shape[node.attrs["axis"]]))


def layer_norm(scope: GpuScope) -> Stmt:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the trailing axes."""
    node = scope.kernel.anchor
    assert node is not None
    return rows.layer_norm(scope, Teams(scope, prod(node.inputs[0].shape[node.attrs["axes"][0] :])))


def reduction(scope: GpuScope) -> Stmt:
    """Sum, mean, maximum, minimum or product over any axes.

    Neighbouring threads read neighbours: along the reduced elements where those lie next to each
    other in memory, else of neighbouring results.
    """
    node = scope.kernel.anchor
    assert node is not None
    shape, axes = node.inputs[0].shape, node.attrs["axes"]
    # The last axis longer than 1 decides which way memory runs.
    long = [k for k in _memory_order(scope) if shape[k] > 1]
    return _across(scope) if long and long[-1] not in axes else _along(scope)


def _memory_order(scope: GpuScope) -> list[int]:
    """The axes of what is reduced, that of neighbours in memory last."""
    node = scope.kernel.anchor
    assert node is not None
    x = node.inputs[0]
    blocks = [block_of(scope.layout(v)) for v in scope.kernel.inputs if v.shape == x.shape]
    order = list(range(len(x.shape)))
    return [0, *order[2:], 1] if max(blocks, default=1) > 1 else order


def _along(scope: GpuScope) -> Stmt:
    """A team for each result."""
    node = scope.kernel.anchor
    assert node is not None
    x, kind = node.inputs[0], node.attrs["kind"]
    order = _memory_order(scope)
    axes = [k for k in order if k in node.attrs["axes"]]
    kept = [k for k in order if k not in axes]
    extents = [x.shape[a] for a in axes]
    length = prod(extents)
    teams = Teams(scope, length)

    def task(*position: Expr) -> Stmt:
        row = teams.row(scope, length, x.dtype)
        at = dict(zip(kept, position, strict=True))

        def element(p: Expr, emit: Emitter) -> Expr:
            where = {**at, **dict(zip(axes, delinear(p, extents), strict=True))}
            indices = [scope.analyzer.simplify(where[d]) for d in range(len(x.shape))]
            return scope.evaluate(x, indices, emit)

        reduced = row.reduce(kind, element)
        full = {**at, **{a: i32(0) for a in axes}}
        done = finish_reduction(scope, [full[d] for d in range(len(x.shape))], row.result())
        return row.allocate(reduced, tirx.IfThenElse(teams.thread.equal(i32(0)), done, None))

    return teams.spread(scope, [x.shape[k] for k in kept], x.size, task)


def _across(scope: GpuScope) -> Stmt:
    """Neighbouring results by neighbouring threads; where results are few, several threads each."""
    node = scope.kernel.anchor
    assert node is not None
    x, kind = node.inputs[0], node.attrs["kind"]
    order = _memory_order(scope)
    axes = [k for k in order if k in node.attrs["axes"]]
    kept = [k for k in order if k not in axes]
    extents = [x.shape[a] for a in axes]
    outer = [x.shape[k] for k in kept]
    count, length = prod(outer), prod(extents)
    if not count:
        return seq()
    gpu = scope.gpu
    shares = 1
    while shares < 16 and shares * 8 <= length and count * shares < gpu.cores * gpu.core_threads:
        shares *= 2

    def work(block: Expr, thread: Expr, share: Expr = 0) -> Stmt:
        total = scope.local(1, x.dtype, "total")
        meeting = scope.shared(ACROSS * shares, x.dtype, "shares")
        here = [i32(0)]
        number = block * ACROSS + thread
        merge = COMBINE[kind]

        def indices_of(result: Expr) -> dict[int, Expr]:
            return dict(zip(kept, delinear(result, outer), strict=True))

        def sweep(result: Expr) -> Stmt:
            def step(k: Expr) -> Stmt:
                def at(p: Expr) -> Stmt:
                    emit = Emitter()
                    where = indices_of(result) | dict(zip(axes, delinear(p, extents), strict=True))
                    indices = [scope.analyzer.simplify(where[d]) for d in range(len(x.shape))]
                    value = scope.evaluate(x, indices, emit)
                    merged = merge(tirx.BufferLoad(total, here), value)
                    return seq(*emit.statements, tirx.BufferStore(total, merged, here))

                p = k * shares + share
                made = scope.bound(length, p, "reduced", at)
                return made if length % shares == 0 else tirx.IfThenElse(p < length, made, None)

            return scope.loop(-(-length // shares), step)

        def finish(result: Expr) -> Stmt:
            def add(s: Expr) -> Stmt:
                other = tirx.BufferLoad(meeting, [s * ACROSS + thread])
                return tirx.BufferStore(total, merge(tirx.BufferLoad(total, here), other), here)

            others = scope.loop(shares - 1, lambda s: add(s + 1)) if shares > 1 else None
            full = indices_of(result) | {a: i32(0) for a in axes}
            where = [full[d] for d in range(len(x.shape))]
            return seq(others, finish_reduction(scope, where, tirx.BufferLoad(total, here)))

        def inside(body: Stmt) -> Stmt:
            return body if count % ACROSS == 0 else tirx.IfThenElse(number < count, body, None)

        start = tirx.BufferStore(total, start_of(kind, x.dtype), here)
        reduce = inside(scope.bound(count, number, "result", sweep))
        end = inside(scope.bound(count, number, "result", finish))
        if shares == 1:
            return allocate(total, start, reduce, end)
        share_at = [share * ACROSS + thread]
        told = tirx.BufferStore(meeting, tirx.BufferLoad(total, here), share_at)
        end = tirx.IfThenElse(share.equal(i32(0)), end, None)
        return allocate(total, allocate(meeting, start, reduce, told, scope.sync(), end))

    block = (ACROSS, shares) if shares > 1 else (ACROSS,)
    return scope.launch((-(-count // ACROSS),), block, work)
