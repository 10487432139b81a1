"""From a relax function to a `Graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax as _relax

from alt import operators as ops
from alt.errors import AltError
from alt.graph import Graph, Node, Value, fresh_names
from primitives.tensorir import tirx, tvm

relax: Any = _relax  # TVM ships no stubs

Handler = Callable[["Translation", Any, list[Value], Value], list[Node]]


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def _type_of(expr: Any) -> tuple[tuple[int, ...], str]:
    info = expr.ty
    return _ints(info.shape), str(info.dtype)


class Translation:
    """State of one translation: names, known constants and the value of each relax variable."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.constants: dict[Value, np.ndarray] = {}
        self.bound: dict[Any, Any] = {}
        self.names = fresh_names("t")

    def value(self, shape: tuple[int, ...], dtype: str) -> Value:
        """A new value."""
        return Value(next(self.names), shape, dtype)

    def constant(self, array: np.ndarray) -> Value:
        """A value with known contents."""
        value = self.value(tuple(array.shape), str(array.dtype))
        self.constants[value] = array
        return value

    def resolve(self, expr: Any) -> Any:
        """The value (or tuple of values, or shape) that a relax expression stands for."""
        if isinstance(expr, tvm.ir.GenericConst):
            return self.constant(expr.value.numpy())
        if isinstance(expr, tirx.IntImm | tirx.FloatImm):
            return expr.value
        if isinstance(expr, relax.Tuple):
            return tuple(self.resolve(field) for field in expr.fields)
        if isinstance(expr, relax.ShapeExpr):
            return _ints(expr.values)
        if isinstance(expr, relax.Var):
            return self.bound[expr]
        raise AltError(f"relax expression of kind {type(expr).__name__} is not supported")


def to_graph(module: Any, weights: Mapping[str, np.ndarray], inputs: int) -> Graph:
    """Translate the `main` function of an imported module.

    Args:
        module: what the ONNX frontend returned; static shapes only.
        weights: arrays for the parameters after the first `inputs`, by name.
        inputs: how many leading parameters the caller provides at run time.

    Raises:
        AltError: if an operator cannot be expressed, naming it.
    """
    main = module["main"]
    state = Translation(module)
    graph_inputs: list[Value] = []
    for position, param in enumerate(main.params):
        shape, dtype = _type_of(param)
        if position < inputs:
            value = Value(param.name, shape, dtype)
            graph_inputs.append(value)
        else:
            value = Value(param.name, shape, dtype)
            state.constants[value] = weights[param.name]
        state.bound[param] = value
    nodes: list[Node] = []
    for block in main.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding):
                raise AltError(f"relax binding {type(binding).__name__} is not supported")
            state.bound[binding.var] = translate_expression(state, binding.value, nodes)
    result = state.resolve(main.body.body)
    outputs = list(result) if isinstance(result, tuple) else [result]
    return Graph(graph_inputs, outputs, nodes, state.constants).without_dead_nodes()


def translate_expression(state: Translation, expr: Any, nodes: list[Node]) -> Any:
    if isinstance(expr, relax.TupleGetItem):
        return state.resolve(expr.tuple_value)[int(expr.index)]
    if not isinstance(expr, tvm.ir.Call):
        return state.resolve(expr)
    name = str(expr.op.name).removeprefix("relax.")
    if name == "shape_of":
        return _type_of(expr.args[0])[0]
    if name == "shape_to_tensor":
        return state.constant(np.array(state.resolve(expr.args[0]), "int64"))
    if name == "call_tir":
        from alt.legalize import call_tir_nodes

        return call_tir_nodes(state, expr, nodes)
    if name == "nn.batch_norm":
        return _batch_norm(state, expr, nodes)
    if name == "split":
        return _split(state, expr, nodes)
    operands: list[Any] = []
    for argument in expr.args:
        if isinstance(argument, relax.Tuple | relax.Var | tvm.ir.GenericConst):
            found = state.resolve(argument)
            if isinstance(found, Value):
                operands.append(found)
            elif isinstance(found, tuple) and all(isinstance(f, Value) for f in found):
                operands.extend(found)
    handler = HANDLERS.get(name)
    if handler is None or not isinstance(expr.ty, relax.TensorType):
        from alt.legalize import legalized_nodes

        return legalized_nodes(state, expr, nodes)
    shape, dtype = _type_of(expr)
    output = state.value(shape, dtype)
    made = handler(state, expr, operands, output)
    nodes.extend(made)
    return output


def _map(name: str, fn: ops.Map, inputs: list[Value], output: Value, **attrs: Any) -> Node:
    return Node("map", name, tuple(inputs), output, attrs, fn)


def _view(name: str, fn: ops.Relabel, x: Value, output: Value, **attrs: Any) -> Node:
    return Node("view", name, (x,), output, attrs, fn)


def _elementwise(name: str) -> Handler:
    def handle(_: Translation, __: Any, inputs: list[Value], output: Value) -> list[Node]:
        return [_map(name.removeprefix("nn."), ops.MAPS[name], inputs, output)]

    return handle


def _reshape(_: Translation, __: Any, inputs: list[Value], output: Value) -> list[Node]:
    x = inputs[0]
    return [_view("reshape", ops.reshape(x.shape, output.shape), x, output, target=output.shape)]


def _permute(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    rank = len(output.shape)
    axes = _ints(call.attrs.axes) if call.attrs.axes is not None else tuple(range(rank))[::-1]
    axes = tuple(a % rank for a in axes)
    return [_view("transpose", ops.permute(axes), inputs[0], output, axes=axes)]


def _broadcast(_: Translation, __: Any, inputs: list[Value], output: Value) -> list[Node]:
    x = inputs[0]
    return [_view("broadcast", ops.broadcast(x.shape, output.shape), x, output)]


def _stack(state: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    axis = int(call.attrs.axis) % len(output.shape)
    nodes: list[Node] = []
    parts: list[Value] = []
    for x in inputs:
        part = state.value((*x.shape[:axis], 1, *x.shape[axis:]), x.dtype)
        nodes.append(_view("reshape", ops.reshape(x.shape, part.shape), x, part))
        parts.append(part)
    return [*nodes, Node("concat", "concat", tuple(parts), output, {"axis": axis})]


def _concat(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    axis = int(call.attrs.axis) % len(output.shape) if call.attrs.axis is not None else 0
    return [Node("concat", "concat", tuple(inputs), output, {"axis": axis})]


def _astype(_: Translation, __: Any, inputs: list[Value], output: Value) -> list[Node]:
    return [_map("cast", ops.cast(output.dtype), inputs, output)]


def _leaky(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    alpha = float(call.attrs.alpha)
    return [_map("leaky_relu", ops.leaky_relu(alpha), inputs, output, alpha=alpha)]


def _clip(state: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    low, high = (
        float(a.value.value if hasattr(a.value, "value") else a.value) for a in call.args[1:3]
    )
    return [_map("clip", ops.clip(low, high), inputs, output, low=low, high=high)]


def _conv(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    a = call.attrs
    spatial = len(output.shape) - 2
    layout = "NC" + "DHW"[-spatial:] if spatial > 1 else "NCW"
    if str(a.data_layout) != layout:
        raise AltError(f"convolution in layout {a.data_layout} is not supported; use {layout}")
    padding = _ints(a.padding)
    attrs = {
        "strides": _ints(a.strides),
        "pads": tuple(zip(padding[:spatial], padding[spatial:], strict=True)),
        "dilation": _ints(a.dilation),
        "groups": int(a.groups),
    }
    return [Node("conv", f"conv{spatial}d", tuple(inputs), output, attrs)]


def _conv_transpose(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    (node,) = _conv(_, call, inputs, output)
    attrs = {**node.attrs, "output_padding": _ints(call.attrs.output_padding)}
    return [Node("conv_transpose", f"{node.name}_transpose", node.inputs, output, attrs)]


def _pool(kind: str) -> Handler:
    def handle(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
        a = call.attrs
        x = inputs[0]
        spatial = len(output.shape) - 2
        padding = _ints(a.padding)
        before = padding[:spatial]
        strides, kernel, dilation = _ints(a.strides), _ints(a.pool_size), _ints(a.dilation)
        # What ceil_mode reads beyond the declared padding counts as padding on the far side.
        after: list[int] = []
        for d in range(spatial):
            reach = (output.shape[2 + d] - 1) * strides[d] + (kernel[d] - 1) * dilation[d] + 1
            after.append(max(reach - x.shape[2 + d] - before[d], 0))
        attrs = {
            "kind": kind,
            "kernel": kernel,
            "strides": strides,
            "dilation": dilation,
            "pads": tuple(zip(before, after, strict=True)),
            "declared": tuple(zip(before, padding[spatial:], strict=True)),
            "count_include_pad": bool(a.count_include_pad),
        }
        return [Node("pool", f"{kind}_pool", tuple(inputs), output, attrs)]

    return handle


def _matmul(_: Translation, __: Any, inputs: list[Value], output: Value) -> list[Node]:
    return [Node("matmul", "matmul", tuple(inputs), output)]


def _softmax(kind: str) -> Handler:
    def handle(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
        axis = int(call.attrs.axis) % len(output.shape)
        return [Node("softmax", kind, tuple(inputs), output, {"axis": axis})]

    return handle


def _layer_norm(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    a = call.attrs
    rank = len(output.shape)
    axes = tuple(sorted(x % rank for x in _ints(a.axes)))
    if axes != tuple(range(rank - len(axes), rank)):
        raise AltError(f"layer_norm over axes {axes} of rank {rank} is not supported")
    attrs = {"axes": axes, "epsilon": float(a.epsilon)}
    return [Node("layer_norm", "layer_norm", tuple(inputs), output, attrs)]


def _reduce(kind: str) -> Handler:
    def handle(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
        rank = len(inputs[0].shape)
        given = call.attrs.axis
        axes = (
            tuple(sorted(a % rank for a in _ints(given)))
            if given is not None
            else tuple(range(rank))
        )
        attrs = {"kind": kind, "axes": axes, "keepdims": bool(call.attrs.keepdims)}
        return [Node("reduce", kind, tuple(inputs), output, attrs)]

    return handle


def _take(_: Translation, call: Any, inputs: list[Value], output: Value) -> list[Node]:
    x, indices = inputs
    axis = int(call.attrs.axis) % len(x.shape) if call.attrs.axis is not None else 0
    extent = x.shape[axis]
    rank = len(indices.shape)

    def compute(read: Callable[..., Any], idx: list[Any]) -> Any:
        chosen = tirx.Cast("int32", read(1, idx[axis : axis + rank]))
        wrapped = tirx.Select(chosen < 0, chosen + extent, chosen)
        inside = tirx.max(tirx.min(wrapped, extent - 1), 0)
        return read(0, [*idx[:axis], inside, *idx[axis + rank :]])

    return [Node("gather", "take", (x, indices), output, {"axis": axis}, compute)]


def _batch_norm(state: Translation, call: Any, nodes: list[Node]) -> tuple[Value, ...]:
    x, gamma, beta, mean, variance = (state.resolve(a) for a in call.args[:5])
    a = call.attrs
    known = [state.constants.get(v) for v in (gamma, beta, mean, variance)]
    if any(k is None for k in known):
        raise AltError("batch_norm with statistics computed at run time is not supported")
    g, b, m, v = (np.asarray(k, "float64") for k in known)
    if not a.scale:
        g = np.ones_like(m)
    if not a.center:
        b = np.zeros_like(m)
    scale = g / np.sqrt(v + float(a.epsilon))
    axis = int(a.axis) % len(x.shape)
    shape = tuple(-1 if i == axis else 1 for i in range(axis, len(x.shape)))
    scaled = state.value(x.shape, x.dtype)
    output = state.value(x.shape, x.dtype)
    factor = state.constant(scale.reshape(shape).astype(x.dtype))
    offset = state.constant((b - m * scale).reshape(shape).astype(x.dtype))
    nodes.append(_map("multiply", ops.MAPS["multiply"], [x, factor], scaled))
    nodes.append(_map("add", ops.MAPS["add"], [scaled, offset], output))
    return output, mean, variance


def _split(state: Translation, call: Any, nodes: list[Node]) -> tuple[Value, ...]:
    x = state.resolve(call.args[0])
    axis = int(call.attrs.axis) % len(x.shape)
    start = 0
    outputs: list[Value] = []
    for info in call.ty.fields:
        output = state.value(_ints(info.shape), x.dtype)
        begin = tuple(start if i == axis else 0 for i in range(len(x.shape)))
        relabel = ops.strided_slice(begin, (1,) * len(x.shape))
        nodes.append(_view("slice", relabel, x, output, begin=begin))
        start += output.shape[axis]
        outputs.append(output)
    return tuple(outputs)


HANDLERS: dict[str, Handler] = {
    **{name: _elementwise(name) for name in ops.MAPS},
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "flatten": _reshape,
    "permute_dims": _permute,
    "broadcast_to": _broadcast,
    "stack": _stack,
    "concat": _concat,
    "astype": _astype,
    "clip": _clip,
    "nn.leakyrelu": _leaky,
    "nn.conv1d": _conv,
    "nn.conv2d": _conv,
    "nn.conv3d": _conv,
    "nn.conv1d_transpose": _conv_transpose,
    "nn.conv2d_transpose": _conv_transpose,
    "nn.conv3d_transpose": _conv_transpose,
    "nn.max_pool1d": _pool("max"),
    "nn.max_pool2d": _pool("max"),
    "nn.max_pool3d": _pool("max"),
    "nn.avg_pool1d": _pool("avg"),
    "nn.avg_pool2d": _pool("avg"),
    "nn.avg_pool3d": _pool("avg"),
    "matmul": _matmul,
    "nn.softmax": _softmax("softmax"),
    "nn.log_softmax": _softmax("log_softmax"),
    "nn.layer_norm": _layer_norm,
    "sum": _reduce("sum"),
    "mean": _reduce("mean"),
    "max": _reduce("max"),
    "min": _reduce("min"),
    "prod": _reduce("prod"),
    "take": _take,
}
"""One entry for each relax operator that ALT knows; all others are legalised into stages."""
