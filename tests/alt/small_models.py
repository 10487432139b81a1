"""Small networks for the tests of what surrounds the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int]]],
    outputs: Mapping[str, tuple[int, Sequence[int]]],
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model of opset 18."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(n, *kind) for n, kind in inputs.items()],
        [helper.make_tensor_value_info(n, *kind) for n, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network() -> onnx.ModelProto:
    """Convolutions, pooling and a classifier: image `x` to scores `y`, features `f`."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "body", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "bias"], ["y"], "classifier", transB=1),
    ]
    weights = {
        "w0": random(20, 3, 3, 3),
        "w1": random(24, 20, 3, 3, seed=1),
        "w2": random(10, 24, seed=2),
        "bias": random(10, seed=3),
    }
    image = {"x": (TensorProto.FLOAT, [1, 3, 15, 17])}
    outputs = {"y": (TensorProto.FLOAT, [1, 10]), "f": (TensorProto.FLOAT, [1, 24])}
    return model_of(nodes, image, outputs, weights)


def arithmetic() -> onnx.ModelProto:
    """`total = a + 2 b`, `taken = table[index]`, `largest = max(a)`, a scalar."""
    nodes = [
        helper.make_node("Mul", ["b", "two"], ["d"], "double"),
        helper.make_node("Add", ["a", "d"], ["total"], "add"),
        helper.make_node("Gather", ["table", "index"], ["taken"], "take"),
        helper.make_node("ReduceMax", ["a"], ["largest"], "max", keepdims=0),
    ]
    inputs = {
        "a": (TensorProto.FLOAT, [4, 33]),
        "b": (TensorProto.FLOAT, [4, 1]),
        "index": (TensorProto.INT64, [5]),
    }
    outputs = {
        "total": (TensorProto.FLOAT, [4, 33]),
        "taken": (TensorProto.FLOAT, [5, 7]),
        "largest": (TensorProto.FLOAT, []),
    }
    return model_of(nodes, inputs, outputs, {"two": np.float32(2), "table": random(6, 7, seed=4)})
