"""The networks that we measure: builders by name, and inputs for any of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from benchmarks.bert import bert_base, bert_tiny
from benchmarks.convnets import mobilenet_v2, resnet3d18, resnet18
from benchmarks.light import light_graph, light_graphs, light_names

__all__ = [
    "NETWORKS",
    "Builder",
    "bert_base",
    "bert_tiny",
    "inputs_for",
    "light_graph",
    "light_graphs",
    "light_names",
    "mobilenet_v2",
    "resnet3d18",
    "resnet18",
]


class Builder(Protocol):
    """Builds a network whose other parameters have their benchmark's values by default."""

    def __call__(self, *, batch: int = 1, seed: int = 0) -> onnx.ModelProto: ...


NETWORKS: dict[str, Builder] = {
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "bert_base": bert_base,
    "bert_tiny": bert_tiny,
    "resnet3d18": resnet3d18,
}


def inputs_for(model: onnx.ModelProto, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded inputs for `model`, by name.

    Floats are standard normal. Integers that index a table stay within it; other integers are
    taken for attention masks: ones, with the last eighth of each row zero.

    Example:
        >>> inputs = inputs_for(bert_tiny(tokens=16), seed=1)
        >>> inputs["attention_mask"].tolist()
        [[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]]
        >>> sorted(set(inputs["token_type_ids"].flat)) == [0, 1]
        True
    """
    rng = np.random.default_rng(seed)
    rows = {t.name: t.dims[0] for t in model.graph.initializer if t.dims}
    indexed = {
        node.input[1]: rows[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in rows
    }
    inputs: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        if kind.elem_type == TensorProto.FLOAT:
            inputs[value.name] = rng.standard_normal(shape, dtype=np.float32)
        elif value.name in indexed:
            inputs[value.name] = rng.integers(0, indexed[value.name], shape, dtype=np.int64)
        else:
            mask = np.ones(shape, np.int64)
            mask[..., shape[-1] - shape[-1] // 8 :] = 0
            inputs[value.name] = mask
    return inputs
