"""Vectorised passes over one row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from alt import elementary as el
from alt.elementary import Emitter, Expr
from alt.sketches.scope import SERIAL_ELEMENTS, VECTORIZED, Scope, Stmt, i32, seq
from primitives.tensorir import tirx

Combine = Callable[[Expr, Expr], Expr]


COMBINE: dict[str, Combine] = {
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: a + b,
    "max": lambda a, b: tirx.max(a, b),
    "min": lambda a, b: tirx.min(a, b),
    "prod": lambda a, b: a * b,
}


def start_of(kind: str, dtype: str) -> Expr:
    if kind in ("sum", "mean"):
        return tirx.const(0, dtype)
    if kind == "prod":
        return tirx.const(1, dtype)
    return el.lowest(dtype) if kind == "max" else el.highest(dtype)


def spread(scope: Scope, extents: Sequence[int], work: int, body: Callable[..., Stmt]) -> Stmt:
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
        scope, combine = self.scope, COMBINE[kind]
        start = start_of(kind, self.dtype)

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
