"""The nine classic networks that ship inside the `onnx` package, with weights worth computing on.

Their files are small because every weight is one repeated constant. Here each weight gets seeded
random values of the same shape, scaled by the role that its consumer gives it, so that activations
stay of order one and a comparison between two runtimes means something.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.onnx_builder import IR_VERSION

_FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"
_RESHAPING = ("Reshape", "Unsqueeze")
_KEEPING_SIGN = (
    "AveragePool",
    "Concat",
    "Dropout",
    "GlobalAveragePool",
    "LRN",
    "MaxPool",
    "Reshape",
    "Sum",
    "Transpose",
)


def light_names() -> tuple[str, ...]:
    """Names of the graphs, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("light_*.onnx")))


def light_graph(name: str, seed: int = 0) -> onnx.ModelProto:
    """One graph by name, such as `light_resnet50`, re-seeded.

    Weights become initializers and are no longer graph inputs: what remains is the image.
    """
    return reseed(onnx.load(_FOLDER / f"{name}.onnx"), seed)


def light_graphs(seed: int = 0) -> Iterator[tuple[str, onnx.ModelProto]]:
    """All nine graphs, one at a time, for each may hold hundreds of megabytes."""
    return ((name, light_graph(name, seed)) for name in light_names())


def _consumers(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """Each value's first consumer and the position it takes there."""
    consumers: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            consumers.setdefault(name, (node, position))
    return consumers


def _after_relu(graph: onnx.GraphProto) -> set[str]:
    """Values that are ReLU outputs, pooled or rearranged or not: half of their variance is gone."""
    after_relu: set[str] = set()
    for node in graph.node:
        if node.op_type == "Relu" or (
            node.op_type in _KEEPING_SIGN and node.input[0] in after_relu
        ):
            after_relu.add(node.output[0])
    return after_relu


def _gain(
    node: onnx.NodeProto, consumers: dict[str, tuple[onnx.NodeProto, int]], relu: set[str]
) -> float:
    """The factor that keeps variances level: ReLUs undone, residual sums damped."""
    if node.op_type == "BatchNormalization":
        following = consumers.get(node.output[0])
        return 0.0625 if following and following[0].op_type == "Sum" else 1.0
    return 2.0 if node.input[0] in relu else 1.0


def _draw(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    consumer: onnx.NodeProto,
    position: int,
    gain: float,
) -> NDArray[np.float32]:
    """Values for a weight that `consumer` takes as its input number `position`.

    Args:
        gain: factor on the variance that `consumer` passes on.
    """
    match consumer.op_type, position:
        case "Conv", 1:
            values = rng.standard_normal(shape) * math.sqrt(gain / math.prod(shape[1:]))
        case "Gemm", 1:
            transposed = any(a.name == "transB" and a.i for a in consumer.attribute)
            inputs = shape[-1] if transposed else shape[-2]
            values = rng.standard_normal(shape) * math.sqrt(gain / inputs)
        case "BatchNormalization", 1:
            values = rng.uniform(0.8, 1.2, shape) * math.sqrt(gain)
        case ("BatchNormalization", 4) | ("Mul", _):
            values = rng.uniform(0.8, 1.2, shape)
        case _:
            values = rng.standard_normal(shape) * 0.1
    return values.astype(np.float32)


def reseed(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Replace every float32 constant of `model` by seeded values of the same shape."""
    graph = model.graph
    rng = np.random.default_rng(seed)
    initializers = {t.name: t for t in graph.initializer}
    consumers, relu = _consumers(graph), _after_relu(graph)
    shapes: dict[str, tuple[int, ...]] = {
        name: tuple(t.dims)
        for name, t in initializers.items()
        if t.data_type == onnx.TensorProto.FLOAT
    }
    filled = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in filled:
        shape = numpy_helper.to_array(initializers[node.input[0]])
        shapes[node.output[0]] = tuple(int(extent) for extent in shape)

    weights: list[onnx.TensorProto] = []
    for name, shape in shapes.items():
        if name not in consumers:
            continue
        node, position = consumers[name]
        while node.op_type in _RESHAPING:
            node, position = consumers[node.output[0]]
        values = _draw(rng, shape, node, position, _gain(node, consumers, relu))
        weights.append(numpy_helper.from_array(values, name))

    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in nodes for name in node.input}
    kept = [t for t in graph.initializer if t.name in used and t.name not in shapes]
    inputs = [i for i in graph.input if i.name not in initializers]
    reseeded = onnx.helper.make_graph(
        nodes, graph.name, inputs, list(graph.output), [*weights, *kept]
    )
    return onnx.helper.make_model(
        reseeded, opset_imports=list(model.opset_import), ir_version=IR_VERSION
    )
