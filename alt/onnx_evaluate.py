"""Constant folding of single ONNX nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from alt.onnx_graph import Graph

#: A fold may make this many bytes from smaller inputs, and no more: `Expand` of a scalar to a
#: gigabyte stays a node. Constant fills are free (see `evaluate`) and exempt.
FOLD_BYTES = 64 << 20

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip

#: ONNX's reference knows the default activations only, and neither clips nor ends early.
_HALF_KNOWN = {"GRU", "LSTM", "RNN"}

_UNFOLDED = _RANDOM | _HALF_KNOWN


def evaluate(node: NodeProto, graph: Graph, opset: int) -> list[np.ndarray] | None:
    """The outputs of `node` if they are constant and not too big, else None.

    `ConstantOfShape` comes out as a read-only view of one element with zero strides, so the
    fill weights of a network without trained weights take no memory.
    """
    if node.op_type in _UNFOLDED or not all(n in graph.constants for n in node.input if n):
        return None
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    if node.op_type == "ConstantOfShape":
        value = next((onnx.numpy_helper.to_array(a.t) for a in node.attribute), None)
        fill = np.zeros(1, np.float32) if value is None else value
        return [np.broadcast_to(fill.reshape(()), tuple(graph.constants[node.input[0]]))]
    inputs = {name: graph.constants[name] for name in node.input if name}
    limit = max(FOLD_BYTES, sum(value.nbytes for value in inputs.values()))
    if sum(_bytes(name, graph) for name in node.output) > limit:
        return None
    infos = [onnx.ValueInfoProto(name=n, type=graph.type_of(n)) for n in inputs]
    results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    body = helper.make_graph([node], "fold", infos, results)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, v) for d, v in graph.domains.items()]
    try:
        model = helper.make_model(body, opset_imports=opsets)
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, inputs)
    except Exception:  # noqa: BLE001 - a node the reference cannot run is simply not folded
        return None
    values = iter(found)
    outputs = [next(values) if name else np.zeros(0) for name in node.output]
    if not all(isinstance(value, np.ndarray | np.generic) for value in outputs):
        return None
    return [np.asarray(value) for value in outputs]


def _bytes(name: str, graph: Graph) -> int:
    shape, dtype = graph.shape(name), graph.dtype(name)
    if shape is None or dtype is None:
        return 0
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
