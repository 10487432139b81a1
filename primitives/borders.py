"""Guards and pad stages that a layout with a border makes unnecessary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primitives.expressions import substitute
from primitives.layout import Layout
from primitives.stage import Axis, Stage
from primitives.tensorir import Any, Buffer, Expr, ffi, ir, sym, tirx

_IF_THEN_ELSE = ir.Op.get("prim.if_then_else")


def is_one_of(buffer: Buffer, buffers: Sequence[Buffer]) -> bool:
    """Whether a buffer is among others."""
    return any(buffer.same_as(b) for b in buffers)


def analyzer_for(axes: Sequence[Axis]) -> Any:
    """An analyzer that knows the ranges of the axes."""
    analyzer = sym.Analyzer()
    for axis in axes:
        dtype = str(axis.var.ty.dtype)
        analyzer.bind(
            axis.var, ir.Range.from_min_extent(tirx.const(0, dtype), tirx.const(axis.extent, dtype))
        )
    return analyzer


def without_guards(stage: Stage, layouts: Mapping[Buffer, Layout], fill: float) -> Stage:
    """The stage with `if_then_else(inside, x[i], fill)` read plainly where x has a border."""
    if not any(
        r.buffer in layouts and any(map(any, layouts[r.buffer].border)) for r in stage.reads
    ):
        return stage
    analyzer = analyzer_for((*stage.spatial, *stage.reduce))

    def unguard(call: Any) -> Any:
        if not call.op.same_as(_IF_THEN_ELSE):
            return call
        condition, read, other = call.args
        if not isinstance(read, ir.TensorLoad) or read.source not in layouts:
            return call
        if not _is_literal(other, fill):
            return call
        layout = layouts[read.source]
        return read if _border_serves(analyzer, condition, list(read.indices), layout) else call

    values = tuple(ffi.structural_map(v, [(ir.Call, unguard)]) for v in stage.values)
    return stage.with_values(values)


def _border_serves(analyzer: Any, condition: Expr, indices: list[Expr], layout: Layout) -> bool:
    """Whether reads that fail the condition find fill in the layout's border, none beyond it."""
    inside: list[Expr] = []
    for index, extent, (before, after) in zip(
        indices, layout.logical_shape, layout.border, strict=True
    ):
        bound = analyzer.const_int_bound(index)
        if bound.min_value < -before or bound.max_value >= extent + after:
            return False
        inside.append(tirx.all(index >= 0, index < extent))
    # Inside the logical tensor, nothing may have been masked.
    with analyzer.constraint_scope(tirx.all(*inside)):
        return all(bool(analyzer.can_prove(part)) for part in _conjuncts(condition))


def _conjuncts(condition: Expr) -> list[Expr]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def without_copies(
    stages: list[Stage], params: list[Buffer], layouts: Mapping[Buffer, Layout]
) -> list[Stage]:
    """The stages without those that only copy from elsewhere into a tensor nobody laid out."""
    copies: dict[Buffer, Stage] = {}
    kept: list[Stage] = []

    def read(buffer: Buffer, indices: list[Expr]) -> Expr:
        copy = copies.get(buffer)
        if copy is None:
            return tirx.BufferLoad(buffer, indices)
        return copy.at(copy.value, indices)

    for stage in stages:
        if any(r.buffer in copies for r in stage.reads):
            init = tuple(substitute(v, {}, read) for v in stage.init)
            stage = stage.with_values(tuple(substitute(v, {}, read) for v in stage.values), init)
        only_copies = (
            not stage.accumulators
            and isinstance(stage.values[0], ir.TensorLoad)
            and not is_one_of(stage.output, params)
            and stage.output not in layouts
        )
        if only_copies:
            copies[stage.output] = stage
        else:
            kept.append(stage)
    return kept


def _is_literal(expr: Expr, number: float) -> bool:
    return isinstance(expr, tirx.FloatImm | tirx.IntImm) and float(expr.value) == float(number)
