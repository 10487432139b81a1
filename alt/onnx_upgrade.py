"""Spellings of older opsets, rewritten to the one opset that the rest of `alt` reads.

`onnx.version_converter` is not used: it wants the weights, and refuses a model for one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from alt.onnx_graph import Graph

Nodes = list[NodeProto]
_Rule = Callable[[NodeProto, int, Graph], Nodes | None]


def upgrade(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """The same computation in the current spelling; None if `node` itself is it, edited or not.

    Example:
        >>> graph = Graph(opset=6)
        >>> node = helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)
        >>> upgrade(node, 6, graph), list(node.input)
        (None, ['x', 'y_min', 'y_max'])
    """
    rule = _RULES.get(node.op_type)
    newer = rule(node, opset, graph) if rule else None
    for each in [node] if newer is None else newer:
        _drop(each, "consumed_inputs")
    return newer


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _drop(node: NodeProto, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    if len(kept) != len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _set(node: NodeProto, **values: object) -> None:
    _drop(node, *values)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items())


def _to_inputs(node: NodeProto, graph: Graph, values: dict[str, Any]) -> None:
    """Turn attributes into inputs, in this order; None leaves the input out."""
    for name, value in values.items():
        _drop(node, name)
        if value is None:
            node.input.append("")
        else:
            node.input.append(graph.add_constant(np.asarray(value), f"{node.output[0]}_{name}"))
    while node.input and not node.input[-1]:
        node.input.pop()


def _rank(graph: Graph, name: str) -> int | None:
    kind = graph.type_of(name)
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    return len(kind.tensor_type.shape.dim)


def _ints(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value, np.int64)


def _axes_input(since: int) -> _Rule:
    def rule(node: NodeProto, opset: int, graph: Graph) -> None:
        axes = _attributes(node).get("axes")
        if opset < since and axes is not None:
            _to_inputs(node, graph, {"axes": _ints(axes)})

    return rule


def _batch_normalization(node: NodeProto, opset: int, graph: Graph) -> None:
    _drop(node, "is_test", "spatial")
    if opset < 14 or not _attributes(node).get("training_mode", 0):
        del node.output[1:]


def _broadcast(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """Before opset 7 the second operand lined up at `axis`, not at the end."""
    attributes = _attributes(node)
    _drop(node, "broadcast", "axis")
    if opset >= 7 or "axis" not in attributes:
        return None
    rank, other = _rank(graph, node.input[0]), _rank(graph, node.input[1])
    if rank is None or other is None:
        return None
    axis = attributes["axis"] % rank
    after = rank - axis - other
    return _unsqueezed(node, 1, range(other, other + after), graph) if after > 0 else None


def _unsqueezed(node: NodeProto, position: int, axes: range, graph: Graph) -> Nodes:
    name = graph.fresh(f"{node.input[position]}_aligned")
    wide = helper.make_node("Unsqueeze", [node.input[position]], [name], node.name)
    _to_inputs(wide, graph, {"axes": _ints(list(axes))})
    node.input[position] = name
    return [wide, node]


def _cast(node: NodeProto, opset: int, graph: Graph) -> None:
    target = _attributes(node).get("to")
    if isinstance(target, bytes):
        _set(node, to=TensorProto.DataType.Value(target.decode()))


def _cast_like(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    kind = graph.type_of(node.input[1])
    if kind is None or _attributes(node).get("saturate", 1) != 1:
        return None
    to = kind.tensor_type.elem_type
    return [helper.make_node("Cast", node.input[:1], node.output, node.name, to=to)]


def _clip(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 11:
        dtype = graph.dtype(node.input[0]) or np.dtype("float32")
        bounds = {k: _attributes(node).get(k) for k in ("min", "max")}
        typed = {k: None if v is None else np.asarray(v, dtype) for k, v in bounds.items()}
        _to_inputs(node, graph, typed)


def _concat(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 4 and "axis" not in _attributes(node):
        _set(node, axis=1)


def _dropout(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """At inference dropout is the identity, and its mask all true."""
    training = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else False
    if training is None or bool(np.any(training)):
        return None
    nodes = [helper.make_node("Identity", node.input[:1], node.output[:1], node.name)]
    if len(node.output) > 1 and node.output[1]:
        shape = graph.fresh(f"{node.output[1]}_shape")
        nodes.append(helper.make_node("Shape", node.input[:1], [shape], node.name))
        true = helper.make_tensor("value", TensorProto.BOOL, [1], [True])
        nodes.append(
            helper.make_node("ConstantOfShape", [shape], node.output[1:], node.name, value=true)
        )
    return nodes


def _group_normalization(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """Before opset 21 scale and bias had one number a group."""
    shape = graph.shape(node.input[0])
    if opset >= 21 or shape is None:
        return None
    groups = _attributes(node)["num_groups"]
    nodes = []
    for position in (1, 2):
        source = node.input[position]
        column, wide, flat = (graph.fresh(f"{source}_{n}") for n in ("column", "wide", "flat"))
        steps = (
            ("Reshape", source, column, [groups, 1]),
            ("Expand", column, wide, [groups, shape[1] // groups]),
            ("Reshape", wide, flat, [shape[1]]),
        )
        for op, read, made, sizes in steps:
            step = helper.make_node(op, [read], [made], node.name)
            _to_inputs(step, graph, {"shape": _ints(sizes)})
            nodes.append(step)
        node.input[position] = flat
    return [*nodes, node]


def _pad(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 11:
        attributes = _attributes(node)
        pads = _ints(attributes.get("pads", attributes.get("paddings")))
        dtype = graph.dtype(node.input[0]) or np.dtype("float32")
        value = np.asarray(attributes.get("value", 0), dtype)
        _drop(node, "paddings")
        _to_inputs(node, graph, {"pads": pads, "value": value})


def _prelu(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """Before opset 7 the slope was one number a channel."""
    rank, slope = _rank(graph, node.input[0]), graph.shape(node.input[1])
    if opset >= 7 or rank is None or slope is None or len(slope) != 1 or slope[0] == 1:
        return None
    return _unsqueezed(node, 1, range(1, rank - 1), graph)


def _resize(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 11:
        node.input.insert(1, "")
        _set(node, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _reshape(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 5:
        _to_inputs(node, graph, {"shape": _ints(_attributes(node)["shape"])})


def _scatter(node: NodeProto, opset: int, graph: Graph) -> None:
    node.op_type = "ScatterElements"


def _slice(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 10:
        attributes = _attributes(node)
        _to_inputs(node, graph, {k: _ints(attributes.get(k)) for k in ("starts", "ends", "axes")})


def _softmax(node: NodeProto, opset: int, graph: Graph) -> Nodes | None:
    """Before opset 13 every axis from `axis` on was flattened into one."""
    if opset >= 13:
        return None
    axis, shape = _attributes(node).get("axis", 1), graph.shape(node.input[0])
    if shape is not None:
        axis %= max(len(shape), 1)
        wide = [a for a in range(axis, len(shape)) if shape[a] != 1]
        if len(wide) < 2:
            _set(node, axis=wide[0] if wide else -1)
            return None
    x, y = node.input[0], node.output[0]
    sizes, flat, done = (graph.fresh(f"{y}_{n}") for n in ("shape", "flat", "done"))
    return [
        helper.make_node("Shape", [x], [sizes], node.name),
        helper.make_node("Flatten", [x], [flat], node.name, axis=axis),
        helper.make_node(node.op_type, [flat], [done], node.name, axis=-1),
        helper.make_node("Reshape", [done, sizes], [y], node.name),
    ]


def _split(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 13 and len(node.input) < 2:
        _to_inputs(node, graph, {"split": _ints(_attributes(node).get("split"))})
    if len(node.input) < 2 and "num_outputs" not in _attributes(node):
        _set(node, num_outputs=len(node.output))


def _top_k(node: NodeProto, opset: int, graph: Graph) -> None:
    if opset < 10:
        _to_inputs(node, graph, {"k": _ints([_attributes(node)["k"]])})


def _upsample(node: NodeProto, opset: int, graph: Graph) -> Nodes:
    attributes = _attributes(node)
    mode = {b"bilinear": "linear", b"linear": "linear"}.get(attributes.get("mode", b""), "nearest")
    scales = attributes.get("scales")
    if "height_scale" in attributes:
        scales = [1, 1, attributes["height_scale"], attributes["width_scale"]]
    node.op_type = "Resize"
    _set(node, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    _drop(node, "height_scale", "width_scale")
    if opset < 9:
        node.input.append("")
        _to_inputs(node, graph, {"scales": np.asarray(scales, np.float32)})
    else:
        node.input.insert(1, "")
    return [node]


_RULES: dict[str, _Rule] = {
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "Dropout": _dropout,
    "Gemm": lambda node, opset, graph: _drop(node, "broadcast"),
    "GroupNormalization": _group_normalization,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Scatter": _scatter,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _axes_input(13),
    "TopK": _top_k,
    "Unsqueeze": _axes_input(13),
    "Upsample": _upsample,
    "ReduceSum": _axes_input(13),
    **dict.fromkeys(
        ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"),
        _broadcast,
    ),
    **{
        f"Reduce{kind}": _axes_input(18)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
}
