"""Calls of functions, and conditions that are known, replaced by the nodes they stand for."""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx
from onnx import NodeProto, helper, numpy_helper

from alt.onnx_graph import Graph


class Step(NamedTuple):
    """A node still to be simplified, the opset it is written in, and what was done to it."""

    node: NodeProto
    opset: int
    upgraded: bool = False
    repaired: bool = False


def inline_function(
    node: NodeProto, body: onnx.FunctionProto, graph: Graph, opset: int
) -> list[Step]:
    """The nodes of a function's body, its inputs, outputs and attributes filled in."""
    given = {a.name: a for a in node.attribute}
    defaults = {a.name: a for a in body.attribute_proto}
    for entry in body.opset_import:
        if entry.domain in ("", "ai.onnx"):
            opset = entry.version
        else:
            graph.domains.setdefault(entry.domain, entry.version)
    names = dict.fromkeys(body.input, "")
    names.update(zip(body.input, node.input, strict=False))
    names.update((n, out) for n, out in zip(body.output, node.output, strict=False) if out)
    steps = []
    for inner in body.node:
        copy = NodeProto()
        copy.CopyFrom(inner)
        copy.name = graph.fresh(f"{node.name}/{inner.name or inner.op_type}")
        _bind_body(copy, names, {**defaults, **given}, graph, node.name)
        steps.append(Step(copy, opset))
    return steps


def _bind_body(
    node: NodeProto,
    names: dict[str, str],
    attributes: dict[str, onnx.AttributeProto],
    graph: Graph,
    prefix: str,
) -> None:
    """Give one node of a function's body the names and attribute values of the call."""
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for position, name in enumerate(node.output):
        if name and name not in names:
            names[name] = graph.fresh(f"{prefix}/{name}")
        node.output[position] = names.get(name, "")
    for position in range(len(node.attribute) - 1, -1, -1):
        attribute = node.attribute[position]
        if attribute.ref_attr_name:
            own = attribute.name
            value = attributes.get(attribute.ref_attr_name)
            if value is None:
                del node.attribute[position]
            else:
                attribute.CopyFrom(value)
                attribute.name = own
        for inner_graph in (attribute.g, *attribute.graphs):
            for inner in inner_graph.node:
                _bind_body(inner, names, attributes, graph, prefix)
            for out in inner_graph.output:
                out.name = names.get(out.name, out.name)


def inline_branch(node: NodeProto, graph: Graph, opset: int) -> list[Step] | str:
    """The branch of an `If` whose condition is known."""
    condition = graph.constants.get(node.input[0])
    if condition is None:
        return "its condition is not a constant; bind the inputs it depends on with constants={}"
    wanted = "then_branch" if condition.item() else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == wanted)
    names: dict[str, str] = {}
    for tensor in branch.initializer:
        names[tensor.name] = graph.add_constant(
            numpy_helper.to_array(tensor), f"{node.name}/{tensor.name}"
        )
    steps = []
    for inner in branch.node:
        copy = NodeProto()
        copy.CopyFrom(inner)
        copy.name = graph.fresh(f"{node.name}/{inner.name or inner.op_type}")
        _bind_body(copy, names, {}, graph, node.name)
        steps.append(Step(copy, opset))
    for info, out in zip(branch.output, node.output, strict=True):
        value = names.get(info.name, info.name)
        steps.append(Step(helper.make_node("Identity", [value], [out], out), opset))
    return steps


def schema_function(node: NodeProto, graph: Graph, opset: int) -> list[Step] | None:
    """The body that the operator's own schema gives, if it has one."""
    version = opset if node.domain in ("", "ai.onnx") else graph.domains.get(node.domain, 1)
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    raw = None
    if schema.has_function:
        known = [v for v in schema.function_opset_versions if v <= opset]
        raw = schema.get_function_with_opset_version(max(known)) if known else None
    elif schema.has_context_dependent_function:
        known = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        types = [graph.type_of(n) or onnx.TypeProto() for n in node.input]
        if known:
            raw = schema.get_context_dependent_function_with_opset_version(
                max(known), node.SerializeToString(), [t.SerializeToString() for t in types]
            )
    if not raw:
        return None
    body = onnx.FunctionProto.FromString(raw)
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.name]
    body.attribute_proto.extend(defaults)
    return inline_function(node, body, graph, opset)
