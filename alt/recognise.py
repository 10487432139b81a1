"""Layer norm and softmax in the spellings of exporters that have no operator for them."""

from __future__ import annotations

from typing import Any

from alt.graph import Graph, Node, Value


def _scalar(graph: Graph, value: Value) -> float | None:
    array = graph.constants.get(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def decomposed_layer_norm(graph: Graph) -> Graph:
    """Recognise `(x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) * gamma + beta`."""
    producers = graph.producers()
    constants = graph.constants
    found: dict[Node, Node] = {}

    def by(value: Value, name: str) -> Node | None:
        node = producers.get(value)
        return node if node is not None and node.name == name else None

    def mean_of(value: Value) -> tuple[Value, tuple[int, ...]] | None:
        node = by(value, "mean")
        if node is None or not node.attrs["keepdims"]:
            return None
        return node.inputs[0], node.attrs["axes"]

    def centred(value: Value) -> tuple[Value, tuple[int, ...]] | None:
        node = by(value, "subtract")
        mean = mean_of(node.inputs[1]) if node is not None else None
        if node is None or mean is None or mean[0] is not node.inputs[0]:
            return None
        return mean

    def squared(value: Value) -> Value | None:
        node = producers.get(value)
        if node is None:
            return None
        if node.name == "power" and _scalar(graph, node.inputs[1]) == 2.0:
            return node.inputs[0]
        if node.name == "square" or (node.name == "multiply" and node.inputs[0] is node.inputs[1]):
            return node.inputs[0]
        return None

    def normalised(value: Value) -> tuple[Value, tuple[int, ...], float] | None:
        node = by(value, "divide")
        root = by(node.inputs[1], "sqrt") if node is not None else None
        shifted = by(root.inputs[0], "add") if root is not None else None
        if node is None or shifted is None:
            return None
        top = centred(node.inputs[0])
        epsilon = _scalar(graph, shifted.inputs[1])
        variance = mean_of(shifted.inputs[0])
        if epsilon is None:
            epsilon = _scalar(graph, shifted.inputs[0])
            variance = mean_of(shifted.inputs[1])
        if top is None or variance is None or epsilon is None or variance[1] != top[1]:
            return None
        under = squared(variance[0])
        below = centred(under) if under is not None else None
        if below is None or below[0] is not top[0]:
            return None
        rank = len(top[0].shape)
        if top[1] != tuple(range(rank - len(top[1]), rank)):
            return None
        return top[0], top[1], epsilon

    def affine(
        node: Node, x_shape: tuple[int, ...], axes: tuple[int, ...]
    ) -> tuple[Value, Value] | None:
        for variable, parameter in (node.inputs, node.inputs[::-1]):
            if parameter in constants and parameter.shape == x_shape[axes[0] :]:
                return variable, parameter
        return None

    for node in graph.nodes:
        if node.name != "add" or node.op != "map":
            continue
        for variable, beta in (node.inputs, node.inputs[::-1]):
            times = by(variable, "multiply")
            if times is None or beta not in constants:
                continue
            for inner, gamma in (times.inputs, times.inputs[::-1]):
                core = normalised(inner)
                if core is None or gamma not in constants:
                    continue
                x, axes, epsilon = core
                if not (gamma.shape == beta.shape == x.shape[axes[0] :]):
                    continue
                attrs = {"axes": axes, "epsilon": epsilon}
                found[node] = Node("layer_norm", "layer_norm", (x, gamma, beta), node.output, attrs)
    nodes = [found.get(n, n) for n in graph.nodes]
    return Graph(graph.inputs, graph.outputs, nodes, constants)


def decomposed_softmax(graph: Graph) -> Graph:
    """Recognise `e / sum(e)` with `e = exp(x)` or `exp(x - max(x))`."""
    producers = graph.producers()
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.name != "divide":
            continue
        top = producers.get(node.inputs[0])
        total = producers.get(node.inputs[1])
        if top is None or total is None or top.name != "exp" or total.op != "reduce":
            continue
        if total.name != "sum" or total.inputs[0] is not top.output or not total.attrs["keepdims"]:
            continue
        axes = total.attrs["axes"]
        if len(axes) != 1:
            continue
        x = top.inputs[0]
        shift: Any = producers.get(x)
        if shift is not None and shift.name == "subtract":
            largest = producers.get(shift.inputs[1])
            if (
                largest is not None
                and largest.op == "reduce"
                and largest.name == "max"
                and largest.attrs["axes"] == axes
                and largest.inputs[0] is shift.inputs[0]
            ):
                x = shift.inputs[0]
        found[node] = Node("softmax", "softmax", (x,), node.output, {"axis": axes[0]})
    nodes = [found.get(n, n) for n in graph.nodes]
    return Graph(graph.inputs, graph.outputs, nodes, graph.constants)
