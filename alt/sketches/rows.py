"""Softmax and layer norm: one row at a time, kept where whoever computes it can reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

from alt import elementary as el
from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.row import Row, spread
from alt.sketches.scope import Scope, Stmt, seq
from primitives.tensorir import tirx


class Rows(Protocol):
    """How the rows of a tensor are shared out: among cores, or among teams of threads."""

    def row(self, scope: Scope, length: int, dtype: str) -> Any:
        """A row, with the methods of `Row`."""
        ...

    def spread(
        self, scope: Scope, extents: Sequence[int], work: int, body: Callable[..., Stmt]
    ) -> Stmt:
        """The loops over all rows."""
        ...


class CoreRows:
    """One row after the other, each core its share."""

    def row(self, scope: Scope, length: int, dtype: str) -> Row:
        """A row in a private array."""
        return Row(scope, length, dtype)

    def spread(
        self, scope: Scope, extents: Sequence[int], work: int, body: Callable[..., Stmt]
    ) -> Stmt:
        """The loops over all rows."""
        return spread(scope, extents, work, body)


CORES = CoreRows()


def _fill_row(
    scope: Scope, row: Any, source: Value, at: Callable[[Expr], list[Expr]]
) -> Callable[[Expr], Stmt]:
    def fill(position: Expr) -> Stmt:
        emit = Emitter()
        value = scope.evaluate(source, at(position), emit)
        return seq(*emit.statements, row.store(position, value))

    return fill


def softmax(scope: Scope, rows: Rows = CORES) -> Stmt:
    """exp(x - max x) / sum, or its logarithm, along one axis."""
    node = scope.kernel.anchor
    assert node is not None
    x, axis = node.inputs[0], node.attrs["axis"]
    shape = x.shape
    length = shape[axis]
    others = [e for k, e in enumerate(shape) if k != axis]
    logarithm = node.name == "log_softmax"

    def task(*outer: Expr) -> Stmt:
        row = rows.row(scope, length, x.dtype)

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

    return rows.spread(scope, others, 16 * x.size, task)


def layer_norm(scope: Scope, rows: Rows = CORES) -> Stmt:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the trailing axes."""
    node = scope.kernel.anchor
    assert node is not None
    x = node.inputs[0]
    axes = node.attrs["axes"]
    outer_extents, inner = x.shape[: axes[0]], x.shape[axes[0] :]
    length = prod(inner)

    def task(*outer: Expr) -> Stmt:
        row = rows.row(scope, length, x.dtype)

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

    return rows.spread(scope, outer_extents, 4 * x.size, task)
