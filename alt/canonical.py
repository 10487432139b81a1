"""Rewrites that make the network simpler before anything is decided about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alt import operators as ops
from alt.graph import Graph, Node, Value, fresh_names
from alt.recognise import decomposed_layer_norm, decomposed_softmax

FOLD_LIMIT_ELEMENTS = 1 << 28
"""A fold never makes a constant larger than this (or than its inputs)."""


_EVALUATE: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else (a // b),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "power": np.power,
    "negative": np.negative,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "where": np.where,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "greater": np.greater,
    "isnan": np.isnan,
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "take": lambda x, i, axis: np.take(x, np.where(i < 0, i + x.shape[axis], i), axis, mode="clip"),
}


def canonicalize(graph: Graph) -> Graph:
    """Apply every rewrite, in the order in which they help each other."""
    for rewrite in (
        fold_constants,
        sums_of_stacks,
        fold_constants,
        scales_into_weights,
        decomposed_layer_norm,
        decomposed_softmax,
        runtime_weights,
    ):
        graph = rewrite(graph).without_dead_nodes()
    return outputs_of_their_own(graph)


def outputs_of_their_own(graph: Graph) -> Graph:
    """Copy what the caller gets but no node computes just for that: inputs, constants, twins."""
    computed = set(graph.producers())
    names = fresh_names("output")
    nodes, outputs = list(graph.nodes), list[Value]()
    for value in graph.outputs:
        if value not in computed or value in outputs:
            copy = Value(next(names), value.shape, value.dtype)
            same = ops.reshape(value.shape, copy.shape)
            nodes.append(Node("view", "reshape", (value,), copy, {"target": copy.shape}, same))
            value = copy
        outputs.append(value)
    return Graph(graph.inputs, outputs, nodes, graph.constants)


def evaluate(node: Node, inputs: list[np.ndarray]) -> np.ndarray | None:
    """The node's output for known inputs, or None if it is not one of the foldable operators."""
    shape, dtype = node.output.shape, node.output.dtype
    if node.op == "view":
        (x,) = inputs
        match node.name:
            case "reshape":
                return x.reshape(shape)
            case "transpose":
                return x.transpose(node.attrs["axes"])
            case "broadcast":
                return np.broadcast_to(x, shape)
            case _:
                return None
    if node.name == "cast":
        return inputs[0].astype(dtype)
    function = _EVALUATE.get(node.name)
    if function is None:
        return None
    attrs = {"axis": node.attrs["axis"]} if "axis" in node.attrs else {}
    with np.errstate(all="ignore"):
        return np.asarray(function(*inputs, **attrs)).astype(dtype, copy=False).reshape(shape)


def fold_constants(graph: Graph) -> Graph:
    """Compute now what depends on constants only."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        known = [constants.get(v) for v in node.inputs]
        result = None
        if all(k is not None for k in known):
            bound = max([FOLD_LIMIT_ELEMENTS, *(v.size for v in node.inputs)])
            if node.output.size <= bound:
                result = evaluate(node, known)  # type: ignore[arg-type]
        if result is None:
            nodes.append(node)
        else:
            constants[node.output] = result
    return Graph(graph.inputs, graph.outputs, nodes, constants)


def sums_of_stacks(graph: Graph) -> Graph:
    """`sum(concat(reshape(a), reshape(b)), axis)` over the stacked axis is a chain of additions.

    This is how the importer spells ONNX's variadic Sum, Max and Min.
    """
    producers = graph.producers()
    names = fresh_names("stacked")
    nodes: list[Node] = []
    chain = {"sum": "add", "max": "maximum", "min": "minimum"}
    for node in graph.nodes:
        stack = producers.get(node.inputs[0]) if node.op == "reduce" else None
        if (
            stack is None
            or node.name not in chain
            or stack.op != "concat"
            or node.attrs["axes"] != (stack.attrs["axis"],)
            or any(v.shape[stack.attrs["axis"]] != 1 for v in stack.inputs)
        ):
            nodes.append(node)
            continue
        terms: list[Value] = []
        for part in stack.inputs:
            term = Value(next(names), node.output.shape, part.dtype)
            relabel = ops.reshape(part.shape, term.shape)
            nodes.append(Node("view", "reshape", (part,), term, {"target": term.shape}, relabel))
            terms.append(term)
        total = terms[0]
        for position, term in enumerate(terms[1:], 1):
            last = position == len(terms) - 1
            out = node.output if last else Value(next(names), node.output.shape, term.dtype)
            name = chain[node.name]
            nodes.append(Node("map", name, (total, term), out, {}, ops.MAPS[name]))
            total = out
        if len(terms) == 1:
            identity = ops.reshape(terms[0].shape, node.output.shape)
            nodes.append(Node("view", "reshape", (terms[0],), node.output, {}, identity))
    return _without_identity_views(Graph(graph.inputs, graph.outputs, nodes, graph.constants))


def _without_identity_views(graph: Graph) -> Graph:
    """Drop views that change nothing: reshapes that cancel, a broadcast to the same shape."""
    producers = graph.producers()
    renamed: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "view" and node.name in ("reshape", "broadcast"):
            source = node.inputs[0]
            before = producers.get(source)
            while (
                node.name == "reshape"
                and before is not None
                and before.op == "view"
                and before.name == "reshape"
            ):
                source = before.inputs[0]
                before = producers.get(source)
            if source.shape == node.output.shape and node.output not in graph.outputs:
                renamed[node.output] = source
                continue
            if source is not node.inputs[0]:
                relabel = ops.reshape(source.shape, node.output.shape)
                attrs = {"target": node.output.shape}
                node = Node("view", "reshape", (source,), node.output, attrs, relabel)
        nodes.append(node)
    return graph.replaced(nodes, renamed)


def scales_into_weights(graph: Graph) -> Graph:
    """`conv(x, w) * s` with a constant a channel becomes `conv(x, w * s)`; so does a later scale
    behind an addition of constants: `(conv(x, w) + b) * s` is `conv(x, w * s) + b * s`.
    """
    graph = _without_identity_views(graph)
    readers = graph.consumers()
    constants = dict(graph.constants)
    names = fresh_names("scaled")
    replaced: dict[Node, Node] = {}
    renamed: dict[Value, Value] = {}
    gone: set[Node] = set()

    def per_channel(value: Value, output: Value) -> np.ndarray | None:
        array = constants.get(value)
        rank = len(output.shape)
        if array is None:
            return None
        padded = (1,) * (rank - array.ndim) + array.shape
        if any(extent != 1 for axis, extent in enumerate(padded) if axis != 1):
            return None
        return np.broadcast_to(array.reshape(-1), (output.shape[1],))

    def constant_operand(node: Node, variable: Value) -> np.ndarray | None:
        if len(node.inputs) != 2 or node.output.shape != variable.shape:
            return None
        a, b = node.inputs
        return per_channel(b if a is variable else a, node.output)

    def only_reader(value: Value) -> Node | None:
        found = readers.get(value, [])
        return found[0] if len(found) == 1 and value not in graph.outputs else None

    for conv in graph.nodes:
        if conv.op != "conv" or conv.inputs[1] not in constants:
            continue
        channels = conv.output.shape[1]
        scale, offset = np.ones(channels, "float64"), np.zeros(channels, "float64")
        chain: list[Node] = []
        end = conv.output
        follower = only_reader(end)
        while follower is not None and follower.name in ("multiply", "add"):
            operand = constant_operand(follower, end)
            if operand is None:
                break
            if follower.name == "multiply":
                scale, offset = scale * operand, offset * operand
            else:
                offset = offset + operand
            chain.append(follower)
            end = follower.output
            follower = only_reader(end)
        if not chain:
            continue
        weight = constants[conv.inputs[1]]
        scaled = conv.inputs[1]
        if any(n.name == "multiply" for n in chain):
            scaled = Value(next(names), scaled.shape, scaled.dtype)
            factors = scale.reshape(-1, *(1,) * (weight.ndim - 1)).astype(weight.dtype)
            constants[scaled] = weight * factors
        last = chain[-1]
        gone.update(chain[:-1])
        replaced[conv] = Node(
            "conv", conv.name, (conv.inputs[0], scaled), conv.output, conv.attrs, conv.compute
        )
        if any(n.name == "add" for n in chain):
            bias = Value(next(names), (channels, *(1,) * (weight.ndim - 2)), scaled.dtype)
            constants[bias] = offset.astype(weight.dtype).reshape(bias.shape)
            inputs = (conv.output, bias)
            replaced[last] = Node("map", "add", inputs, last.output, {}, ops.MAPS["add"])
        else:
            gone.add(last)
            renamed[last.output] = conv.output
    nodes = [replaced.get(n, n) for n in graph.nodes if n not in gone]
    return Graph(graph.inputs, graph.outputs, nodes, constants).replaced(nodes, renamed)


def runtime_weights(graph: Graph) -> Graph:
    """Mark the convolutions whose weights are not constants."""
    nodes = [
        Node(n.op, n.name, n.inputs, n.output, {**n.attrs, "runtime_weights": True}, n.compute)
        if n.op in ("conv", "conv_transpose") and n.inputs[1] not in graph.constants
        else n
        for n in graph.nodes
    ]
    return Graph(graph.inputs, graph.outputs, nodes, graph.constants)
