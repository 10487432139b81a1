"""Convolutions, matrix products, pooling and whatever came as stages: one thread per result.

No data is shared between threads. This is what fits every shape, for shapes that no better sketch
takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from alt.elementary import Emitter, Expr, Inline
from alt.graph import Node
from alt.sketches.gpu.grid import Region, in_order, or_zero, over_elements, walk_of
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.matmul import fit
from alt.sketches.pool import Window
from alt.sketches.scope import Stmt, allocate, i32, seq
from alt.sketches.stages import Reduction
from alt.sketches.windows import Phase, geometry, phases
from primitives.tensorir import tirx


def matmul(scope: GpuScope) -> Stmt:
    """[..., M, K] x [..., K, N], NumPy rules for batches and vectors."""
    node = scope.kernel.anchor
    assert node is not None
    a, b = node.inputs[:2]
    depth = a.shape[-1]

    def element(*indices: Expr) -> Stmt:
        # A vector has no axis of its own in the result.
        batch = list(indices)
        column = [batch.pop()] if len(b.shape) > 1 else []
        row = [batch.pop()] if len(a.shape) > 1 else []

        def step(k: Expr) -> Expr:
            left = scope.evaluate(a, fit([*batch, *row, k], a.shape), Inline())
            right = scope.evaluate(b, fit([*batch, k, *column], b.shape), Inline())
            return left * right

        return _sum(scope, node, indices, (depth,), step)

    return over_elements(scope, Region(node.output.shape, element))


def one_by_one(scope: GpuScope) -> Stmt:
    """A convolution of any rank, groups, strides and dilations, transposed or not."""
    node = scope.kernel.anchor
    assert node is not None
    regions = [_phase(scope, node, phase) for phase in phases(node)]
    return over_elements(scope, *regions)


def _phase(scope: GpuScope, node: Node, phase: Phase) -> Region:
    x, weight = node.inputs[:2]
    groups, channels, outputs = geometry(node)

    def element(n: Expr, g: Expr, o: Expr, *place: Expr) -> Stmt:
        spatial = [f + s * q for f, s, q in zip(phase.first, phase.step, place, strict=True)]
        indices = [n, g * outputs + o, *spatial]

        def step(channel: Expr, *taps: Expr) -> Expr:
            inside = n, g * channels + channel, *_read(phase, place, taps)
            factor = [
                f + t * s
                for f, t, s in zip(phase.kernel_first, taps, phase.kernel_step, strict=True)
            ]
            if node.op == "conv_transpose":
                where = [g * channels + channel, o, *factor]
            else:
                where = [g * outputs + o, channel, *factor]
            return _or_zero(scope, node, inside) * scope.load(weight, where)

        return _sum(scope, node, indices, (channels, *phase.taps), step)

    return Region((x.shape[0], groups, outputs, *phase.count), element)


def _read(phase: Phase, place: Sequence[Expr], taps: Sequence[Expr]) -> list[Expr]:
    """Which input element a tap reads along each spatial axis; it may lie outside the data."""
    return [
        q * s + t * d + o
        for q, s, t, d, o in zip(
            place, phase.stride, taps, phase.dilation, phase.offset, strict=True
        )
    ]


def _or_zero(scope: GpuScope, node: Node, indices: Sequence[Expr]) -> Expr:
    """An element of the first input, or 0 around its spatial axes."""
    x = node.inputs[0]
    inside = (
        tirx.all(i >= 0, i < extent) for i, extent in zip(indices[2:], x.shape[2:], strict=True)
    )
    return or_zero(scope, tirx.all(*inside), scope.load(x, indices))


def _sum(
    scope: GpuScope,
    node: Node,
    indices: Sequence[Expr],
    reduced: Sequence[int],
    step: Callable[..., Expr],
) -> Stmt:
    """One result: terms summed, then the epilogue."""
    dtype = node.output.dtype
    acc = scope.local(1, dtype)
    here = [i32(0)]

    def add(*at: Expr) -> Stmt:
        return tirx.BufferStore(acc, tirx.BufferLoad(acc, here) + step(*at), here)

    emit = Emitter()
    where = [scope.analyzer.simplify(i) for i in indices]
    given = {node.output: tirx.BufferLoad(acc, here)}
    value = scope.evaluate(scope.kernel.output, where, emit, given)
    return allocate(
        acc,
        tirx.BufferStore(acc, tirx.const(0, dtype), here),
        # A transposed convolution may have outputs that nothing reaches.
        scope.nest(reduced, add, name="k") if prod(reduced) else None,
        *emit.statements,
        scope.store(where, value),
    )


def pooling(scope: GpuScope) -> Stmt:
    """Maximum or average of windows."""
    window = Window(scope)

    def element(*indices: Expr) -> Stmt:
        where = list(indices)
        if window.is_long:
            return window.looped(scope.local(1, window.x.dtype, "window"), lambda _: where)
        emit = Emitter()
        value = window.element(where, emit)
        return seq(*emit.statements, scope.store(where, value))

    walk = walk_of(scope, scope.kernel.output.shape)
    return over_elements(scope, in_order(scope, walk, element))


def stage_reduction(scope: GpuScope) -> Stmt:
    """A reduction that came as a TensorIR stage."""
    work = Reduction(scope)

    def element(*indices: Expr) -> Stmt:
        *front, last = indices or (i32(0),)
        return work.block(list(front), last, 1, False)

    return over_elements(scope, Region(tuple(work.extents), element))
