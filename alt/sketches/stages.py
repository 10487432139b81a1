"""Reductions that came as TensorIR stages: whatever ALT has no better schedule for."""

from __future__ import annotations

from math import prod
from typing import Any

from alt.elementary import Emitter, Expr
from alt.sketches.scope import SERIAL_ELEMENTS, VECTORIZED, Scope, Stmt, i32, seq
from primitives.stages import Stage, dtype_of_buffer
from primitives.tensorir import tirx


class Reduction:
    """What a stage computes, however it is scheduled."""

    def __init__(self, scope: Scope) -> None:
        node = scope.kernel.anchor
        assert node is not None
        self.scope = scope
        self.node = node
        self.stage: Stage = node.attrs["of"].stage
        self.extents = [axis.extent for axis in self.stage.spatial]
        self.reduced = [axis.extent for axis in self.stage.reduce]
        self._buffers: list[Any] = []
        for access in self.stage.reads:
            if not any(access.buffer.same_as(b) for b in self._buffers):
                self._buffers.append(access.buffer)

    def block(self, front: list[Expr], first: Expr, count: int, vector: bool) -> Stmt:
        """Some neighbouring results.

        Args:
            front: indices along all but the last axis.
            first: index of the first result along the last one.
            count: how many there are.
            vector: whether they are computed at once.
        """
        scope, stage, node = self.scope, self.stage, self.node
        sums = [scope.local(count, dtype_of_buffer(b)) for b in stage.outputs]
        how = VECTORIZED if vector and count > 1 else tirx.ForKind.SERIAL

        def at(k: Expr) -> list[Expr]:
            return [*front, scope.analyzer.simplify(first + k)] if self.extents else []

        def start(k: Expr) -> Stmt:
            return seq(
                *(
                    tirx.BufferStore(acc, stage.at(value, at(k), read=self._read), [k])
                    for acc, value in zip(sums, stage.init, strict=True)
                )
            )

        def step(*r: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                emit = Emitter()
                before = [tirx.BufferLoad(acc, [k]) for acc in sums]
                after = [
                    emit.bind(stage.at(value, at(k), list(r), before, self._read))
                    for value in stage.values
                ]
                stores = [
                    tirx.BufferStore(acc, value, [k])
                    for acc, value in zip(sums, after, strict=True)
                ]
                return seq(*emit.statements, *stores)

            return scope.loop(count, lane, how)

        def finish(k: Expr) -> Stmt:
            emit = Emitter()
            given = {node.output: tirx.BufferLoad(sums[node.attrs["which"]], [k])}
            value = scope.evaluate(scope.kernel.output, at(k), emit, given)
            return seq(*emit.statements, scope.store(at(k), value))

        return seq(
            *(tirx.AllocBuffer(acc) for acc in sums),
            scope.loop(count, start, how),
            scope.nest(self.reduced, step),
            scope.loop(count, finish, how),
        )

    def _read(self, buffer: object, at: list[Expr]) -> Expr:
        scope = self.scope
        k = next(k for k, b in enumerate(self._buffers) if b.same_as(buffer))
        return scope.load(self.node.inputs[k], [scope.analyzer.simplify(i) for i in at])


def stage_reduction(scope: Scope) -> Stmt:
    """A vector of neighbouring results at a time, each core a share of the rest."""
    work = Reduction(scope)
    *outer, last = work.extents or [1]
    lanes = min(scope.machine.lanes(), last)
    whole, rest = divmod(last, lanes)

    def task(*position: Expr) -> Stmt:
        *front, piece = position
        return work.block(list(front), piece * lanes, lanes, True)

    many = prod(work.extents) * prod(work.reduced) >= SERIAL_ELEMENTS
    spread = scope.parallel if many else scope.nest
    parts: list[Stmt] = []
    if whole:
        parts.append(spread([*outer, whole], task))
    if rest:
        tail = i32(whole * lanes)
        parts.append(spread(outer, lambda *f: work.block(list(f), tail, rest, False)))
    return seq(*parts)
