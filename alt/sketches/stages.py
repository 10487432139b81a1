"""Reductions that came as TensorIR stages: whatever ALT has no better schedule for."""

from __future__ import annotations

from math import prod

from alt.elementary import Emitter, Expr
from alt.sketches.generic import SERIAL_ELEMENTS
from alt.sketches.scope import VECTORIZED, Scope, Stmt, i32, seq
from primitives.stages import Stage, dtype_of_buffer
from primitives.tensorir import tirx


def stage_reduction(scope: Scope) -> Stmt:
    """A vector of neighbouring results at a time, each core a share of the rest."""
    node = scope.kernel.anchor
    assert node is not None
    stage: Stage = node.attrs["of"].stage
    which = node.attrs["which"]
    buffers = []
    for access in stage.reads:
        if not any(access.buffer.same_as(b) for b in buffers):
            buffers.append(access.buffer)
    extents = [axis.extent for axis in stage.spatial]
    reduced = [axis.extent for axis in stage.reduce]
    *outer, last = extents or [1]
    lanes = min(scope.machine.lanes(), last)
    whole, rest = divmod(last, lanes)

    def read(buffer: object, at: list[Expr]) -> Expr:
        k = next(k for k, b in enumerate(buffers) if b.same_as(buffer))
        return scope.load(node.inputs[k], [scope.analyzer.simplify(i) for i in at])

    def block(front: list[Expr], first: Expr, count: int, vector: bool) -> Stmt:
        dtypes = [dtype_of_buffer(b) for b in stage.outputs]
        sums = [scope.local(count, d) for d in dtypes]
        how = VECTORIZED if vector and count > 1 else tirx.ForKind.SERIAL

        def at(k: Expr) -> list[Expr]:
            return [*front, scope.analyzer.simplify(first + k)] if extents else []

        def start(k: Expr) -> Stmt:
            return seq(
                *(
                    tirx.BufferStore(acc, stage.at(value, at(k), read=read), [k])
                    for acc, value in zip(sums, stage.init, strict=True)
                )
            )

        def step(*r: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                emit = Emitter()
                before = [tirx.BufferLoad(acc, [k]) for acc in sums]
                after = [
                    emit.bind(stage.at(value, at(k), list(r), before, read))
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
            given = {node.output: tirx.BufferLoad(sums[which], [k])}
            value = scope.evaluate(scope.kernel.output, at(k), emit, given)
            return seq(*emit.statements, scope.store(at(k), value))

        return seq(
            *(tirx.AllocBuffer(acc) for acc in sums),
            scope.loop(count, start, how),
            scope.nest(reduced, step),
            scope.loop(count, finish, how),
        )

    def task(*position: Expr) -> Stmt:
        *front, piece = position
        return block(list(front), piece * lanes, lanes, True)

    many = prod(extents) * prod(reduced) >= SERIAL_ELEMENTS
    spread = scope.parallel if many else scope.nest
    parts: list[Stmt] = []
    if whole:
        parts.append(spread([*outer, whole], task))
    if rest:
        parts.append(spread(outer, lambda *f: block(list(f), i32(whole * lanes), rest, False)))
    return seq(*parts)
