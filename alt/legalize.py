"""Operators that ALT has no entry for: TVM legalises them, and their TensorIR stages become nodes.

A stage without a reduction becomes a `map` or a `gather` node and fuses like any other; a reduction
becomes a `stages` node with a schedule of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tvm import relax, tirx

from alt.elementary import Emitter, Expr
from alt.errors import AltError
from alt.graph import Node, Value
from primitives.errors import LayoutError
from primitives.expressions import substitute
from primitives.stages import Stage, dtype_of_buffer, shape_of_buffer, stages_of

if TYPE_CHECKING:
    from alt.relax_graph import Translation

Read = Callable[[int, Sequence[Expr]], Expr]


def call_tir_nodes(state: Translation, call: Any, nodes: list[Node]) -> Any:
    """The nodes of a `call_tir` of a TensorIR function of the module."""
    symbol = call.args[0]
    arguments = [state.resolve(a) for a in call.args[1].fields]
    name = str(symbol.name_hint if hasattr(symbol, "name_hint") else symbol.name)
    return _function_nodes(state, state.module[symbol], name, arguments, nodes)


def legalized_nodes(state: Translation, call: Any, nodes: list[Node]) -> Any:
    """The nodes of any relax operator that TVM can legalise."""
    name = str(call.op.name).removeprefix("relax.")
    legalize = call.op.get_attr("FLegalize")
    if legalize is None:
        raise AltError(f"operator {name} is not supported: TVM has no TensorIR for it")
    from alt.relax_graph import translate_expression

    builder = relax.BlockBuilder()
    fresh: dict[Any, Any] = {}

    def operand(expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([operand(f) for f in expr.fields])
        if isinstance(expr, relax.Var) and isinstance(expr.ty, relax.TensorType):
            return fresh.setdefault(expr, relax.Var(f"a{len(fresh)}", expr.ty))
        return expr

    arguments = [operand(a) for a in call.args]
    plain = type(call)(call.op, arguments, call.attrs, call.ty_args)
    try:
        with builder.function("main", list(fresh.values())):
            result = builder.emit(legalize(builder, builder.normalize(plain)))
            builder.emit_func_output(result)
    except Exception as cause:
        first = str(cause).strip().splitlines()[-1]
        raise AltError(f"operator {name} is not supported: TVM says {first}") from cause
    module = builder.get()
    outer, state.module = state.module, module
    try:
        for old, new in fresh.items():
            state.bound[new] = state.resolve(old)
        body = module["main"].body
        for block in body.blocks:
            for binding in block.bindings:
                state.bound[binding.var] = translate_expression(state, binding.value, nodes)
        return state.resolve(body.body)
    finally:
        state.module = outer


def _function_nodes(
    state: Translation, function: Any, name: str, arguments: list[Any], nodes: list[Node]
) -> Any:
    tensors = [a for a in arguments if isinstance(a, Value)]
    try:
        stages = stages_of(function)
    except LayoutError as cause:
        raise AltError(f"operator {name} is not supported: {cause}") from cause
    digest = hashlib.sha256(function.script().encode()).hexdigest()[:16]
    values: dict[Any, Value] = dict(zip(function.params, tensors, strict=False))
    outputs: list[Value] = []
    for number, stage in enumerate(stages):
        for which, buffer in enumerate(stage.outputs):
            output = state.value(shape_of_buffer(buffer), dtype_of_buffer(buffer))
            attrs = {"function": digest, "stage": number, "which": which}
            nodes.append(_stage_node(stage, which, name, values, output, attrs))
            if any(buffer.same_as(p) for p in function.params):
                outputs.append(output)
        for buffer, node in zip(stage.outputs, nodes[-len(stage.outputs) :], strict=True):
            values[buffer] = node.output
    order = [values[p] for p in function.params if any(values.get(p) is o for o in outputs)]
    return order[0] if len(order) == 1 else tuple(order)


def _stage_node(
    stage: Stage,
    which: int,
    name: str,
    values: dict[Any, Value],
    output: Value,
    attrs: dict[str, Any],
) -> Node:
    buffers: list[Any] = []
    for read in stage.reads:
        if not any(read.buffer.same_as(b) for b in buffers):
            buffers.append(read.buffer)
    inputs = tuple(values[b] for b in buffers)

    def number_of(buffer: Any) -> int:
        return next(k for k, b in enumerate(buffers) if b.same_as(buffer))

    if stage.reduce:
        return Node("stages", name, inputs, output, {**attrs, "of": _Opaque(stage)})
    value = stage.values[which]
    if _is_map(stage, output):

        def apply(_: Emitter, *operands: Expr) -> Expr:
            zeros = [tirx.IntImm("int32", 0)] * len(stage.spatial)
            return stage.at(value, zeros, read=lambda b, _: operands[number_of(b)])

        return Node("map", name, inputs, output, attrs, apply)

    def compute(read: Read, indices: Sequence[Expr]) -> Expr:
        return stage.at(value, list(indices), read=lambda b, at: read(number_of(b), at))

    return Node("gather", name, inputs, output, attrs, compute)


class _Opaque:
    """A stage carried in a node's attributes; the digest beside it is what distinguishes it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __repr__(self) -> str:
        return "stage"

    def __lt__(self, other: object) -> bool:
        return False


def _is_map(stage: Stage, output: Value) -> bool:
    """Whether every read is at the output's own indices (or of a single number), once a buffer."""
    seen: list[Any] = []
    for read in stage.reads:
        if any(read.buffer.same_as(b) for b in seen):
            return False
        seen.append(read.buffer)
        shape = shape_of_buffer(read.buffer)
        if all(extent == 1 for extent in shape):
            continue
        if shape != output.shape:
            return False
        for index, axis in zip(read.indices, stage.spatial, strict=True):
            if axis.extent != 1 and not index.same_as(axis.var):
                return False
    spatial = {axis.var for axis in stage.spatial}
    return not _uses_indices(stage, spatial)


def _uses_indices(stage: Stage, spatial: set[Any]) -> bool:
    """Whether a value depends on its position other than through what it reads."""
    zero = tirx.IntImm("int32", 0)
    for value in stage.values:
        blind = substitute(value, {}, lambda b, _: tirx.Var("read", dtype_of_buffer(b)))
        moved = substitute(blind, dict.fromkeys(spatial, zero), None)
        if str(moved) != str(blind):
            return True
    return False
