"""One forward pass over an ONNX graph: upgrade, fold, repair, expand and type every node.

Types are inferred node by node while constants become known, so shape arithmetic of any depth
disappears in a single pass, and no pass ever sees a weight's bytes unless it folds them.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from alt.errors import AltError
from alt.onnx_evaluate import evaluate
from alt.onnx_graph import OPSET, Graph, node_reads, remove_dead
from alt.onnx_inline import Step, inline_branch, inline_function, schema_function
from alt.onnx_upgrade import upgrade
from tvm_patches import onnx_importer

#: Constants up to this many elements are shown to type inference (axes, shapes, pads, ...).
_SHOWN_ELEMENTS = 4096

#: Functions that ONNX does not infer the shape of; their output is as their first input.
_LIKE_THEIR_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}


class Refusal(NamedTuple):
    """A node that cannot be compiled, and why."""

    node: NodeProto
    reason: str


def simplify(graph: Graph) -> list[Refusal]:
    """Rewrite `graph` in place to nodes of one opset that TVM's importer gets right.

    Returns:
        The nodes for which that is impossible. They stay in the graph.
    """
    remove_dead(graph)
    target = max(OPSET, graph.opset)
    todo = deque(Step(node, graph.opset) for node in graph.nodes)
    alias: dict[str, str] = {}
    refused: list[Refusal] = []
    graph.nodes = []
    while todo:
        step = todo.popleft()
        node = step.node
        _rename_inputs(node, alias)
        answer = _expand(step, graph, target)
        if isinstance(answer, list):
            todo.extendleft(reversed(answer))
            continue
        if _is_copy(node, graph):
            alias[node.output[0]] = node.input[0]
            continue
        fault = _infer(node, graph, target)
        if all(name in graph.constants for name in node.output if name):
            continue
        values = _shape_value(node, graph) or evaluate(node, graph, target)
        if values is not None:
            for name, value in zip(node.output, values, strict=True):
                if name:
                    graph.constants[name] = value
                    graph.types.pop(name, None)
            continue
        if _keeps_shape_and_order(node, graph):
            alias[node.output[0]] = node.input[0]
            continue
        if answer is None and fault is not None:
            raise fault
        answer = answer or _repair(step, graph, target)
        if isinstance(answer, list):
            todo.extendleft(reversed(answer))
            continue
        answer = answer or _shape_depends_on_data(node, graph)
        if answer is not None:
            refused.append(Refusal(node, answer))
        graph.nodes.append(node)
        graph.makers.update(dict.fromkeys(node.output, node))
    graph.opset = target
    graph.outputs = [(public, alias.get(value, value)) for public, value in graph.outputs]
    remove_dead(graph)
    kept = {id(node) for node in graph.nodes}
    return [refusal for refusal in refused if id(refusal.node) in kept]


def _expand(step: Step, graph: Graph, target: int) -> list[Step] | str | None:
    """The nodes that a node stands for whatever its inputs; None if it stands for itself."""
    node = step.node
    local = graph.functions.get((node.domain, node.op_type))
    if local is not None:
        return inline_function(node, local, graph, step.opset)
    if node.domain not in ("", "ai.onnx"):
        return None
    if not step.upgraded:
        newer = upgrade(node, step.opset, graph)
        return [Step(n, target, True) for n in ([node] if newer is None else newer)]
    return inline_branch(node, graph, step.opset) if node.op_type == "If" else None


def _repair(step: Step, graph: Graph, target: int) -> list[Step] | str | None:
    """What to do for TVM's importer: other nodes, why there are none, or nothing."""
    if step.repaired:
        return None
    node = step.node
    answer = onnx_importer.repair(node, graph)
    if isinstance(answer, str):
        return schema_function(node, graph, target) or answer
    return None if answer is None else [Step(n, target, True, n is node) for n in answer]


def _shape_depends_on_data(node: NodeProto, graph: Graph) -> str | None:
    if any(graph.shape(name) is None for name in node.input if name):
        return None
    loose = next((name for name in node.output if name and graph.shape(name) is None), None)
    return None if loose is None else f"the shape of its output {loose} depends on data"


def _rename_inputs(node: NodeProto, alias: dict[str, str]) -> None:
    for position, name in enumerate(node.input):
        if name in alias:
            node.input[position] = alias[name]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                _rename_inputs(inner, alias)


def _is_copy(node: NodeProto, graph: Graph) -> bool:
    """Is the node's output its input?"""
    if node.op_type == "Cast" and not node.domain:
        target = next(a.i for a in node.attribute if a.name == "to")
        kind = graph.type_of(node.input[0])
        return kind is not None and kind.tensor_type.elem_type == target
    return node.op_type == "Identity"


def _keeps_shape_and_order(node: NodeProto, graph: Graph) -> bool:
    """Does a reshape or expansion leave its input as it is?"""
    if node.op_type not in ("Expand", "Flatten", "Reshape", "Tile") or node.domain:
        return False
    shape = graph.shape(node.input[0])
    return shape is not None and shape == graph.shape(node.output[0])


def _shape_value(node: NodeProto, graph: Graph) -> list[np.ndarray] | None:
    """The value of `Shape` and `Size`, which need only their input's type."""
    if node.op_type not in ("Shape", "Size") or node.domain:
        return None
    shape = graph.shape(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.asarray(np.prod(shape, dtype=np.int64))]
    bounds = {a.name: a.i for a in node.attribute}
    return [np.asarray(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)]


def _infer(node: NodeProto, graph: Graph, opset: int) -> AltError | None:
    """Record the types of a node's outputs, as far as they can be known.

    Returns:
        What is wrong with the node, if ONNX says so.
    """
    types, data = {}, {}
    for name in node_reads(node):
        kind = graph.type_of(name)
        if kind is None:
            return None
        types[name] = kind
        value = graph.constants.get(name)
        if value is not None and value.size <= _SHOWN_ELEMENTS:
            data[name] = numpy_helper.from_array(np.asarray(value), name)
    version = opset if node.domain in ("", "ai.onnx") else graph.domains.get(node.domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, v) for d, v in graph.domains.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=opsets
        )
    except Exception as error:  # noqa: BLE001 - its C++ errors share no class
        reason = str(error).strip().splitlines()[0]
        fault = AltError(
            f"the model is not valid: node {node.name} ({node.op_type}): {reason}; "
            f"check the shapes it was given, or export the model again"
        )
        fault.__cause__ = error
        return fault
    if node.op_type in _LIKE_THEIR_INPUT and not node.domain:
        found = {node.output[0]: types[node.input[0]]}
    graph.types.update(found)
    for name in node.output:
        shape, dtype = graph.shape(name), graph.dtype(name)
        if name and shape is not None and dtype is not None and 0 in shape:
            graph.constants[name] = np.zeros(shape, dtype)
    return None
