"""An ONNX network of the benchmarks as PyTorch users write it.

The operators are those of `torch.nn.functional`, also where exporters spell them out node by node:
`linear`, `gelu` and `scaled_dot_product_attention` are one call each. The weights are the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from onnx import helper, numpy_helper
from torch import fx

_INTEGERS = 64
"""Constants of whole numbers up to this size are shapes and axes, and become Python's."""


def torch_network(
    model: onnx.ModelProto, dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> fx.GraphModule:
    """A module that computes what a model does; it takes its inputs in order, gives a tuple.

    Args:
        model: one of the benchmarks' networks or operators.
        dtype: of weights and of everything computed; inputs and outputs stay as in the model.
        channels_last: store images and weights of convolutions with their channels last.

    Raises:
        ValueError: if there is an operator that the benchmarks do not use.
    """
    return _Translation(model, dtype, channels_last).module()


class _Translation:
    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype, channels_last: bool) -> None:
        self.model, self.dtype, self.channels_last = model, dtype, channels_last
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.values: dict[str, Any] = {}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def module(self) -> fx.GraphModule:
        """Translate node by node; what a longer pattern made needless is dropped in the end."""
        for value in self.model.graph.input:
            given = self.graph.placeholder(_identifier(value.name))
            floats = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            dims = len(value.type.tensor_type.shape.dim)
            if floats and self.dtype != torch.float32:
                given = self.graph.call_method("to", (given, self.dtype))
            if floats and self.channels_last and dims in _CHANNELS_LAST:
                options: dict[str, Any] = {"memory_format": _CHANNELS_LAST[dims]}
                given = self.graph.call_method("contiguous", (given,), options)
            self.values[value.name] = given
        for node in self.model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            translate = _OPERATORS.get(node.op_type)
            if translate is None:
                raise ValueError(f"no benchmark uses {node.op_type}; add it to _OPERATORS")
            self.values[node.output[0]] = translate(self, node, attributes)
        outputs = [self.value(o.name) for o in self.model.graph.output]
        if self.dtype != torch.float32:
            outputs = [self.graph.call_method("to", (o, torch.float32)) for o in outputs]
        self.graph.output(tuple(outputs))
        self.graph.eliminate_dead_code()
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        for name in [n for n, _ in self.root.named_parameters() if n not in used]:
            delattr(self.root, name)
        return fx.GraphModule(self.root, self.graph).eval()

    def value(self, name: str) -> Any:
        """A node of the graph; a constant is put into the module when it is first asked for."""
        if name not in self.values:
            self.values[name] = self.weight(name, self.arrays[name])
        return self.values[name]

    def weight(self, name: str, array: np.ndarray) -> fx.Node:
        """A constant of the module."""
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            if self.dtype == torch.float16:
                # Minus the largest float32 hides a token; it must not become infinite.
                most = torch.finfo(self.dtype).max
                tensor = tensor.clamp(-most, most)
            tensor = tensor.to(self.dtype)
        if self.channels_last and tensor.dim() in _CHANNELS_LAST:
            tensor = tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.dim()])
        attribute = _identifier(name)
        parameter = torch.nn.Parameter(tensor, requires_grad=False)
        self.root.register_parameter(attribute, parameter)
        return self.graph.get_attr(attribute)

    def integers(self, name: str) -> list[int]:
        """A constant that says a shape or axes."""
        array = self.arrays[name]
        assert array.dtype.kind == "i" and array.size <= _INTEGERS, name
        return [int(i) for i in array.reshape(-1)]

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """A call of a function in the graph."""
        return self.graph.call_function(function, arguments, options)

    def inputs(self, node: onnx.NodeProto) -> list[Any]:
        """The values that a node takes."""
        return [self.value(name) for name in node.input]

    def maker(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node that computes a value, if it is of a kind."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def scalar(self, name: str) -> float | None:
        """The number that a constant is."""
        array = self.arrays.get(name)
        return float(array) if array is not None and array.size == 1 else None


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _identifier(name: str) -> str:
    return "v_" + "".join(c if c.isalnum() else "_" for c in name)


# --- operators ----------------------------------------------------------------------------------

Attributes = Mapping[str, Any]


def _conv(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    x, w, *bias = t.inputs(node)
    rank = len(a["kernel_shape"])
    before, after = list(a["pads"])[:rank], list(a["pads"])[rank:]
    assert before == after, "torch pads the same on both sides"
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    return t.call(
        function,
        x,
        w,
        bias[0] if bias else None,
        tuple(a["strides"]),
        tuple(before),
        tuple(a["dilations"]),
        a["group"],
    )


def _batch_norm(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    x, scale, bias, mean, variance = t.inputs(node)
    return t.call(F.batch_norm, x, mean, variance, scale, bias, False, 0.0, a["epsilon"])


def _max_pool(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    (x,) = t.inputs(node)
    pads = list(a["pads"])
    assert pads[:2] == pads[2:], "torch pads the same on both sides"
    return t.call(F.max_pool2d, x, tuple(a["kernel_shape"]), tuple(a["strides"]), tuple(pads[:2]))


def _global_pool(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    (x,) = t.inputs(node)
    image = t.model.graph.input[0].type.tensor_type.shape.dim
    return t.call(torch.mean, x, tuple(range(2, len(image))), True)


def _gemm(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    x, w, b = t.inputs(node)
    assert a.get("transB") == 1 and a.get("alpha", 1.0) == a.get("beta", 1.0) == 1.0
    return t.call(F.linear, x, w, b)


def _clip(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    low, high = (t.scalar(name) for name in node.input[1:])
    x = t.value(node.input[0])
    if (low, high) == (0.0, 6.0):
        return t.call(F.relu6, x)
    return t.call(torch.clamp, x, low, high)


def _gather(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    data, indices = node.input
    axis = a.get("axis", 0)
    if indices in t.arrays and t.arrays[indices].ndim == 0:
        return t.call(torch.select, t.value(data), axis, int(t.arrays[indices]))
    assert axis == 0, "a table is read by its first axis"
    return t.call(F.embedding, t.value(indices), t.value(data))


def _layer_norm(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    x, scale, bias = t.inputs(node)
    return t.call(F.layer_norm, x, t.arrays[node.input[1]].shape, scale, bias, a["epsilon"])


def _reshape(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    return t.call(torch.reshape, t.value(node.input[0]), tuple(t.integers(node.input[1])))


def _unsqueeze(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    (axis,) = t.integers(node.input[1])
    return t.call(torch.unsqueeze, t.value(node.input[0]), axis)


def _cast(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    assert a["to"] == onnx.TensorProto.FLOAT
    return t.graph.call_method("to", (t.value(node.input[0]), t.dtype))


def _add(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    """A bias belongs to the product before it."""
    for bias, product in (node.input, reversed(node.input)):
        made = t.maker(product, "MatMul")
        weight = t.arrays.get(made.input[1]) if made is not None else None
        if made is not None and weight is not None and weight.ndim == 2 and bias in t.arrays:
            name = f"{made.input[1]}_linear"
            if name not in t.values:
                t.values[name] = t.weight(name, np.ascontiguousarray(weight.T))
            return t.call(F.linear, t.value(made.input[0]), t.value(name), t.value(bias))
    return t.call(torch.add, *t.inputs(node))


def _mul(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    """`x * (erf(x / sqrt(2)) + 1) * 0.5` is GELU."""
    product = t.maker(node.input[0], "Mul")
    if product is not None and t.scalar(node.input[1]) == 0.5:
        x = product.input[0]
        grown = t.maker(product.input[1], "Add")
        erf = t.maker(grown.input[0], "Erf") if grown is not None else None
        divided = t.maker(erf.input[0], "Div") if erf is not None else None
        root = t.scalar(divided.input[1]) if divided is not None else None
        if divided is not None and divided.input[0] == x and root is not None:
            assert abs(root * root - 2) < 1e-5
            return t.call(F.gelu, t.value(x))
    return t.call(torch.mul, *t.inputs(node))


def _matmul(t: _Translation, node: onnx.NodeProto, a: Attributes) -> fx.Node:
    """`softmax(q k / c + mask) v` is attention."""
    softmax = t.maker(node.input[0], "Softmax")
    masked = t.maker(softmax.input[0], "Add") if softmax is not None else None
    divided = t.maker(masked.input[0], "Div") if masked is not None else None
    scores = t.maker(divided.input[0], "MatMul") if divided is not None else None
    divisor = t.scalar(divided.input[1]) if divided is not None else None
    if masked is None or scores is None or divisor is None:
        return t.call(torch.matmul, *t.inputs(node))
    query, key = t.inputs(scores)
    return t.call(
        F.scaled_dot_product_attention,
        query,
        t.call(torch.transpose, key, -2, -1),
        t.value(node.input[1]),
        attn_mask=t.value(masked.input[1]),
        scale=1.0 / divisor,
    )


def _plain(function: Callable[..., Any]) -> Callable[..., fx.Node]:
    """An operator without attributes."""
    return lambda t, node, a: t.call(function, *t.inputs(node))


_OPERATORS: dict[str, Callable[[_Translation, onnx.NodeProto, Attributes], fx.Node]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Erf": _plain(torch.erf),
    "Flatten": lambda t, node, a: t.call(torch.flatten, t.value(node.input[0]), a["axis"]),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Softmax": lambda t, node, a: t.call(torch.softmax, t.value(node.input[0]), a["axis"]),
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda t, node, a: t.call(torch.permute, t.value(node.input[0]), tuple(a["perm"])),
    "Unsqueeze": _unsqueeze,
}
