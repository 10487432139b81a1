"""An ONNX graph taken apart: nodes as protobufs, every tensor as NumPy, types by name.

Protobuf copies a weight whenever it is moved, and the C++ side of the `onnx` package wants the
whole model serialised. So weights leave the protobuf once, here, and rewriting works on what
is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, helper, numpy_helper

from alt.errors import AltError

#: The opset every node is rewritten to, unless the model asks for a later one.
OPSET = 23

#: Operators whose outputs after the first may be left out.
_OPTIONAL_OUTPUTS = {"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"}


def tensor_type(dtype: np.dtype, shape: Iterable[int]) -> TypeProto:
    """The ONNX type of a tensor.

    >>> tensor_type(np.dtype("float32"), (1, 3)).tensor_type.shape.dim[1].dim_value
    3
    """
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), tuple(shape))


def static_shape(proto: TypeProto | None) -> tuple[int, ...] | None:
    """The shape, if the type is a tensor whose dimensions are all numbers."""
    if proto is None or not proto.HasField("tensor_type"):
        return None
    if not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if not all(d.HasField("dim_value") for d in dims):
        return None
    return tuple(d.dim_value for d in dims)


@dataclass
class Graph:
    """A model being rewritten. Mutable, and owned by whoever made it.

    Attributes:
        opset: Version of the default domain that `nodes` are written in.
        domains: Versions of the other domains.
        nodes: In an order in which every value is made before it is used.
        constants: Initializers and folded values.
        types: Type of every value whose type is known, constants excepted.
        inputs: Names of the real inputs, constants excepted.
        outputs: Public name of each output and the value that it is.
        functions: Model-local functions by (domain, name).
        taken: Every name in use.
        makers: The node that makes a value, for values already simplified.
    """

    opset: int
    domains: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, TypeProto] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    functions: dict[tuple[str, str], onnx.FunctionProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    makers: dict[str, NodeProto] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        """A name that no value or node has, close to `hint`."""
        name, count = hint, 0
        while name in self.taken or not name:
            count += 1
            name = f"{hint}_{count}"
        self.taken.add(name)
        return name

    def constant(self, name: str) -> np.ndarray | None:
        """The value of `name` if it is known, else None."""
        return self.constants.get(name)

    def add_constant(self, value: np.ndarray, hint: str) -> str:
        """Add a constant; returns its name."""
        name = self.fresh(hint)
        self.constants[name] = value
        return name

    def maker(self, name: str) -> NodeProto | None:
        """The node that makes `name`, if it comes earlier than the node being rewritten."""
        return self.makers.get(name)

    def type_of(self, name: str) -> TypeProto | None:
        """The type of `name` as far as it is known."""
        if name in self.constants:
            return tensor_type(self.constants[name].dtype, self.constants[name].shape)
        return self.types.get(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of `name` if all of it is known."""
        if name in self.constants:
            return self.constants[name].shape
        return static_shape(self.types.get(name))

    def dtype(self, name: str) -> np.dtype | None:
        """The element type of `name` if it is known."""
        if name in self.constants:
            return self.constants[name].dtype
        proto = self.types.get(name)
        if proto is None or not proto.tensor_type.elem_type:
            return None
        return np.dtype(helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))


def from_proto(proto: onnx.ModelProto) -> Graph:
    """Take a model apart. The model is not changed; weights are copied out of it once."""
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = max(opsets.pop("", 0), opsets.pop("ai.onnx", 0)) or 1
    source = proto.graph
    graph = Graph(opset=opset, domains=opsets)
    for tensor in source.initializer:
        graph.constants[tensor.name] = numpy_helper.to_array(tensor)
    for sparse in source.sparse_initializer:
        graph.constants[sparse.values.name] = _dense(sparse)
    for info in source.input:
        if info.name not in graph.constants:
            graph.inputs.append(info.name)
            graph.types[info.name] = _copy(info.type)
    graph.outputs = [(info.name, info.name) for info in source.output]
    graph.functions = {(f.domain, f.name): _copy(f) for f in proto.functions}
    graph.taken = {*graph.constants, *graph.types, *(name for name, _ in graph.outputs)}
    for node in source.node:
        graph.taken.update(node.output)
    named = {node.name for node in source.node}
    for node in sorted_nodes(source.node, {*graph.constants, *graph.inputs}):
        node = _copy(node)
        if not node.name:
            node.name = _fresh_node_name(node, named)
        graph.nodes.append(node)
    return graph


def to_proto(graph: Graph, *, name: str = "main") -> onnx.ModelProto:
    """Put a graph together again, weights included."""
    inputs = [onnx.ValueInfoProto(name=n, type=graph.types[n]) for n in graph.inputs]
    nodes = list(graph.nodes)
    outputs = []
    for public, value in graph.outputs:
        if public != value:
            nodes.append(helper.make_node("Identity", [value], [public], name=public))
        kind = graph.type_of(value)
        outputs.append(onnx.ValueInfoProto(name=public, type=kind))
    body = helper.make_graph(nodes, name, inputs, outputs)
    for key, value in graph.constants.items():
        body.initializer.add().CopyFrom(numpy_helper.from_array(np.asarray(value), key))
    opsets = [helper.make_opsetid("", graph.opset)]
    opsets += [helper.make_opsetid(d, v) for d, v in graph.domains.items()]
    model = helper.make_model(body, opset_imports=opsets)
    model.functions.extend(graph.functions.values())
    return model


def remove_dead(graph: Graph) -> None:
    """Drop nodes and constants that no output needs. Inputs stay: they are the signature."""
    needed = {value for _, value in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            needed.update(node_reads(node))
            kept.append(node)
            while node.op_type in _OPTIONAL_OUTPUTS and node.output[-1] not in needed:
                del node.output[-1]
    graph.nodes = kept[::-1]
    graph.constants = {k: v for k, v in graph.constants.items() if k in needed}


def node_reads(node: NodeProto) -> set[str]:
    """Every value that a node reads, those of its subgraphs included."""
    reads = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            made = {i.name for i in body.input} | {t.name for t in body.initializer}
            for inner in body.node:
                reads |= node_reads(inner) - made
                made.update(inner.output)
            reads |= {o.name for o in body.output} - made
    return reads


def sorted_nodes(nodes: Iterable[NodeProto], known: set[str]) -> list[NodeProto]:
    """Nodes in an order in which every value is made before it is used.

    Raises:
        AltError: A node reads a value that nothing makes, or nodes form a cycle.
    """
    known, pending, done = set(known), list(nodes), []
    while pending:
        later = []
        for node in pending:
            if node_reads(node) <= known:
                known.update(node.output)
                done.append(node)
            else:
                later.append(node)
        if len(later) == len(pending):
            node = later[0]
            missing = sorted(node_reads(node) - known)[0]
            made = any(missing in other.output for other in later)
            why = "which is part of a cycle" if made else "which nothing makes"
            raise AltError(
                f"the model is not valid: node {node.name or node.output[0]} ({node.op_type}) "
                f"reads {missing}, {why}; export the model again"
            )
        pending = later
    return done


def _fresh_node_name(node: NodeProto, named: set[str]) -> str:
    first = next((out for out in node.output if out), node.op_type)
    name, count = f"{node.op_type}:{first}", 0
    while name in named:
        count += 1
        name = f"{node.op_type}:{first}_{count}"
    named.add(name)
    return name


def _copy(proto):  # noqa: ANN001, ANN202 - any protobuf
    other = type(proto)()
    other.CopyFrom(proto)
    return other


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense
