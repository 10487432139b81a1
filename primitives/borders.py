"""Guards and pad stages that a layout with a border makes unnecessary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primitives.expressions import substitute
from primitives.stage import Axis, Stage, dtype_of_buffer, shape_of_buffer
from primitives.storage import Storage
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


def without_guards(
    stages: Sequence[Stage], params: Sequence[Buffer], storages: Mapping[Buffer, Storage]
) -> list[Stage]:
    """The stages with `if_then_else(inside, x[i], fill)` read plainly where x has a border.

    Where all that is done with the value is to take a maximum that starts from some number, any
    fill up to that number serves as well as the guard's own, and likewise for a minimum: a border
    of -inf serves max pooling, which TVM pads with the least finite number.
    """
    starts = _starts(stages, params)
    return [_without_guards(stage, starts, storages) for stage in stages]


def _without_guards(
    stage: Stage, starts: Mapping[Buffer, list[_Start]], storages: Mapping[Buffer, Storage]
) -> Stage:
    if not any(storages[r.buffer].has_border for r in stage.reads):
        return stage
    analyzer = analyzer_for((*stage.spatial, *stage.reduce))
    own = _start_of(stage)
    whole = stage.source if own is not None else stage.values[0]
    limits = starts.get(stage.outputs[0], []) if own is None else [own]

    def unguard(call: Any) -> Any:
        if not call.op.same_as(_IF_THEN_ELSE):
            return call
        condition, read, other = call.args
        if not isinstance(read, ir.TensorLoad):
            return call
        storage = storages[read.source]
        if not storage.has_border:
            return call
        serves = _is_literal(other, _rounded(storage))
        if limits and call.same_as(whole):
            serves |= all(start.ignores(other, storage) for start in limits)
        if not serves:
            return call
        return read if _border_serves(analyzer, condition, read, storage) else call

    values = tuple(ffi.structural_map(v, [(ir.Call, unguard)]) for v in stage.values)
    return stage.with_values(values)


@dataclass(frozen=True)
class _Start:
    """A maximum or minimum that starts from a number."""

    combiner: str
    number: float

    def ignores(self, other: Expr, storage: Storage) -> bool:
        """Whether neither a literal nor the tensor's fill can change the result."""
        if not isinstance(other, tirx.FloatImm | tirx.IntImm):
            return False
        numbers = float(other.value), _rounded(storage)
        if self.combiner == "max":
            return all(number <= self.number for number in numbers)
        return all(number >= self.number for number in numbers)


def _start_of(stage: Stage) -> _Start | None:
    if stage.combiner not in ("max", "min"):
        return None
    start = stage.init[0]
    if not isinstance(start, tirx.FloatImm | tirx.IntImm):
        return None
    return _Start(stage.combiner, float(start.value))


def _starts(stages: Sequence[Stage], params: Sequence[Buffer]) -> dict[Buffer, list[_Start]]:
    """For tensors inside the function that only such maxima and minima read, where those start."""
    starts: dict[Buffer, list[_Start]] = {}
    otherwise = set(params)
    for stage in stages:
        start = _start_of(stage)
        for buffer, _ in stage.reads:
            again = sum(buffer.same_as(r.buffer) for r in stage.reads) > 1
            source: Any = stage.source
            whole = isinstance(source, ir.TensorLoad) and source.source.same_as(buffer)
            if start is not None and whole and not again:
                starts.setdefault(buffer, []).append(start)
            else:
                otherwise.add(buffer)
    return {buffer: found for buffer, found in starts.items() if buffer not in otherwise}


def _border_serves(analyzer: Any, condition: Expr, read: Any, storage: Storage) -> bool:
    """Whether reads that fail the condition find fill in the tensor's border, none beyond it."""
    inside: list[Expr] = []
    shape = shape_of_buffer(read.source)
    for index, extent, (before, after) in zip(read.indices, shape, storage.border, strict=True):
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
    stages: list[Stage], params: list[Buffer], storages: Mapping[Buffer, Storage]
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
            and storages[stage.output].form.is_identity
        )
        if only_copies:
            copies[stage.output] = stage
        else:
            kept.append(stage)
    return kept


def _is_literal(expr: Expr, number: float) -> bool:
    return isinstance(expr, tirx.FloatImm | tirx.IntImm) and float(expr.value) == float(number)


def _rounded(storage: Storage) -> float:
    """A tensor's fill as its dtype holds it."""
    dtype = dtype_of_buffer(storage.buffer)
    known = dtype in ("float16", "float32")
    return float(np.dtype(dtype).type(storage.fill)) if known else float(storage.fill)
