"""Reductions along rows: softmax, layer norm, and sums, means and extrema over any axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from alt import elementary as el
from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.generic import SERIAL_ELEMENTS
from alt.sketches.scope import VECTORIZED, Scope, Stmt, i32, seq
from alt.storage import block_of
from primitives.tensorir import tirx

Combine = Callable[[Expr, Expr], Expr]

_COMBINE: dict[str, Combine] = {
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: a + b,
    "max": lambda a, b: tirx.max(a, b),
    "min": lambda a, b: tirx.min(a, b),
    "prod": lambda a, b: a * b,
}


def _start(kind: str, dtype: str) -> Expr:
    if kind in ("sum", "mean"):
        return tirx.const(0, dtype)
    if kind == "prod":
        return tirx.const(1, dtype)
    return el.lowest(dtype) if kind == "max" else el.highest(dtype)


def _spread(scope: Scope, extents: Sequence[int], work: int, body: Callable[..., Stmt]) -> Stmt:
    """Loops over rows, parallel where the work is worth it."""
    if work >= SERIAL_ELEMENTS and prod(extents) > 1:
        return scope.parallel(list(extents), body)
    return scope.nest(list(extents), body)


class Row:
    """Vectorised passes over one row of `length` elements, held in a private array.

    Args:
        buffer: the array, if it is not the row's own.
        base: where the row begins in it.
    """

    def __init__(
        self,
        scope: Scope,
        length: int,
        dtype: str,
        buffer: Any = None,
        base: Expr = 0,
    ) -> None:
        self.scope = scope
        self.length = length
        self.dtype = dtype
        self.lanes = scope.machine.lanes(dtype)
        self.whole, self.rest = divmod(length, self.lanes)
        self.base = base
        self.owned = buffer is None
        self.buffer = tirx.decl_buffer((length,), dtype, "row") if buffer is None else buffer
        self.partial = scope.local(self.lanes, dtype, "partial")
        self.total = scope.local(1, dtype, "total")

    def load(self, position: Expr) -> Expr:
        return tirx.BufferLoad(self.buffer, [self.base + position])

    def store(self, position: Expr, value: Expr) -> Stmt:
        return tirx.BufferStore(self.buffer, value, [self.base + position])

    def each(self, body: Callable[[Expr], Stmt]) -> Stmt:
        """A statement for every position, in vectors."""
        scope = self.scope
        parts: list[Stmt] = []
        if self.whole:
            parts.append(
                scope.loop(
                    self.whole,
                    lambda v: scope.loop(
                        self.lanes, lambda k: body(v * self.lanes + k), VECTORIZED
                    ),
                )
            )
        if self.rest:
            parts.append(scope.loop(self.rest, lambda k: body(k + self.whole * self.lanes)))
        return seq(*parts)

    def reduce(self, kind: str, element: Callable[[Expr, Emitter], Expr]) -> Stmt:
        """Combine elements into `total`: by lanes first, then across them."""
        scope, combine = self.scope, _COMBINE[kind]
        start = _start(kind, self.dtype)

        def accumulate(position: Expr, lane: Expr, target: object) -> Stmt:
            emit = Emitter()
            value = element(position, emit)
            before = tirx.BufferLoad(target, [lane])
            return seq(*emit.statements, tirx.BufferStore(target, combine(before, value), [lane]))

        parts: list[Stmt] = [tirx.BufferStore(self.total, start, [i32(0)])]
        if self.whole:
            parts.append(
                scope.loop(
                    self.lanes, lambda k: tirx.BufferStore(self.partial, start, [k]), VECTORIZED
                )
            )
            parts.append(
                scope.loop(
                    self.whole,
                    lambda v: scope.loop(
                        self.lanes,
                        lambda k: accumulate(v * self.lanes + k, k, self.partial),
                        VECTORIZED,
                    ),
                )
            )
            parts.append(
                scope.loop(
                    self.lanes,
                    lambda k: tirx.BufferStore(
                        self.total,
                        combine(
                            tirx.BufferLoad(self.total, [i32(0)]),
                            tirx.BufferLoad(self.partial, [k]),
                        ),
                        [i32(0)],
                    ),
                )
            )
        if self.rest:
            parts.append(
                scope.loop(
                    self.rest, lambda k: accumulate(k + self.whole * self.lanes, i32(0), self.total)
                )
            )
        return seq(*parts)

    def result(self) -> Expr:
        return tirx.BufferLoad(self.total, [i32(0)])

    def allocate(self, *body: Stmt | None) -> Stmt:
        return seq(
            tirx.AllocBuffer(self.buffer) if self.owned else None,
            tirx.AllocBuffer(self.partial),
            tirx.AllocBuffer(self.total),
            *body,
        )


def _fill_row(
    scope: Scope, row: Row, source: Value, at: Callable[[Expr], list[Expr]]
) -> Callable[[Expr], Stmt]:
    def fill(position: Expr) -> Stmt:
        emit = Emitter()
        value = scope.evaluate(source, at(position), emit)
        return seq(*emit.statements, row.store(position, value))

    return fill


def softmax(scope: Scope) -> Stmt:
    """exp(x - max x) / sum, or its logarithm, along one axis."""
    node = scope.kernel.anchor
    assert node is not None
    x, axis = node.inputs[0], node.attrs["axis"]
    shape = x.shape
    length = shape[axis]
    others = [e for k, e in enumerate(shape) if k != axis]
    logarithm = node.name == "log_softmax"

    def task(*outer: Expr) -> Stmt:
        row = Row(scope, length, x.dtype)

        def at(position: Expr) -> list[Expr]:
            return [*outer[:axis], position, *outer[axis:]]

        maximum = tirx.Var("largest", x.dtype)
        total = tirx.Var("total", x.dtype)

        def power(position: Expr) -> Stmt:
            emit = Emitter()
            value = el.exp(emit, row.load(position) - maximum)
            return seq(*emit.statements, row.store(position, value))

        def power_of(position: Expr, emit: Emitter) -> Expr:
            return el.exp(emit, row.load(position) - maximum)

        def finish(position: Expr) -> Stmt:
            emit = Emitter()
            value = (
                row.load(position) - maximum - total if logarithm else row.load(position) * total
            )
            result = scope.evaluate(scope.kernel.output, at(position), emit, {node.output: value})
            return seq(*emit.statements, scope.store(at(position), result))

        passes: list[Stmt] = [
            row.each(_fill_row(scope, row, x, at)),
            row.reduce("max", lambda p, _: row.load(p)),
            tirx.Bind(maximum, row.result()),
        ]
        if logarithm:
            passes.append(row.reduce("sum", power_of))
            emit = Emitter()
            log = el.log(emit, row.result())
            passes += [*emit.statements, tirx.Bind(total, log)]
        else:
            passes.append(row.each(power))
            passes.append(row.reduce("sum", lambda p, _: row.load(p)))
            passes.append(tirx.Bind(total, tirx.const(1, x.dtype) / row.result()))
        return row.allocate(*passes, row.each(finish))

    return _spread(scope, others, 16 * x.size, task)


def layer_norm(scope: Scope) -> Stmt:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the trailing axes."""
    node = scope.kernel.anchor
    assert node is not None
    x = node.inputs[0]
    axes = node.attrs["axes"]
    outer_extents, inner = x.shape[: axes[0]], x.shape[axes[0] :]
    length = prod(inner)

    def task(*outer: Expr) -> Stmt:
        row = Row(scope, length, x.dtype)

        def inside(position: Expr) -> list[Expr]:
            return delinear(position, inner) if len(inner) > 1 else [position]

        def at(position: Expr) -> list[Expr]:
            return [*outer, *inside(position)]

        mean = tirx.Var("mean", x.dtype)
        scale = tirx.Var("scale", x.dtype)
        share = tirx.const(1.0 / length, x.dtype)

        def square(position: Expr, emit: Emitter) -> Expr:
            centred = emit.bind(row.load(position) - mean)
            return centred * centred

        def finish(position: Expr) -> Stmt:
            emit = Emitter()
            value = (row.load(position) - mean) * scale
            if len(node.inputs) > 1:
                value = value * scope.evaluate(node.inputs[1], inside(position), emit)
            if len(node.inputs) > 2:
                value = value + scope.evaluate(node.inputs[2], inside(position), emit)
            result = scope.evaluate(scope.kernel.output, at(position), emit, {node.output: value})
            return seq(*emit.statements, scope.store(at(position), result))

        variance = row.result() * share + tirx.const(node.attrs["epsilon"], x.dtype)
        return row.allocate(
            row.each(_fill_row(scope, row, x, at)),
            row.reduce("sum", lambda p, _: row.load(p)),
            tirx.Bind(mean, row.result() * share),
            row.reduce("sum", square),
            tirx.Bind(scale, tirx.const(1, x.dtype) / tirx.sqrt(variance)),
            row.each(finish),
        )

    return _spread(scope, outer_extents, 4 * x.size, task)


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
        return _across(scope, 1, blocked)
    # The last axis longer than 1 decides which way memory runs.
    long = [k for k in range(len(x.shape)) if x.shape[k] > 1]
    if long and long[-1] in kept:
        return _across(scope, long[-1], scope.machine.lanes(x.dtype))
    return _along(scope)


def _reads_blocks(scope: Scope, x: Value) -> int:
    blocks = [block_of(scope.layout(v)) for v in scope.kernel.inputs if v.shape == x.shape]
    return max(blocks, default=1)


def _finish(scope: Scope, full: list[Expr], total: Expr) -> Stmt:
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
                total = _COMBINE[kind](tirx.BufferLoad(acc, [k]), value)
                return seq(*emit.statements, tirx.BufferStore(acc, total, [k]))

            return scope.loop(count, lane, how)

        def finish(k: Expr) -> Stmt:
            full = {**at, axis: first + k, **{a: i32(0) for a in axes}}
            return _finish(scope, [full[d] for d in range(len(x.shape))], tirx.BufferLoad(acc, [k]))

        zero = scope.loop(count, lambda k: tirx.BufferStore(acc, _start(kind, x.dtype), [k]), how)
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
        parts.append(_spread(scope, [*extents, whole], x.size, task))
    if rest:

        def tail(*o: Expr) -> Stmt:
            return block(dict(zip(outer, o, strict=True)), i32(whole * lanes), rest, False)

        parts.append(_spread(scope, extents, x.size, tail))
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

            merged = _COMBINE[kind](tirx.BufferLoad(best, [i32(0)]), row.result())
            return seq(row.reduce(kind, element), tirx.BufferStore(best, merged, [i32(0)]))

        full = {**at, **{a: i32(0) for a in axes}}
        return seq(
            tirx.AllocBuffer(row.partial),
            tirx.AllocBuffer(row.total),
            tirx.AllocBuffer(best),
            tirx.BufferStore(best, _start(kind, x.dtype), [i32(0)]),
            scope.nest([x.shape[a] for a in outer_axes], sweep),
            _finish(scope, [full[d] for d in range(len(x.shape))], tirx.BufferLoad(best, [i32(0)])),
        )

    return _spread(scope, [x.shape[k] for k in kept], x.size, task)
