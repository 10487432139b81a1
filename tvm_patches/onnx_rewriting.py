"""What every repair of an ONNX node needs: to look around it, and to write other nodes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from onnx import NodeProto, helper


class View(Protocol):
    """What a repair may ask about the graph around a node."""

    def shape(self, name: str) -> tuple[int, ...] | None: ...
    def dtype(self, name: str) -> np.dtype | None: ...
    def constant(self, name: str) -> np.ndarray | None: ...
    def maker(self, name: str) -> NodeProto | None: ...
    def fresh(self, hint: str) -> str: ...
    def add_constant(self, value: np.ndarray, hint: str) -> str: ...


#: Nodes to use instead; why the node cannot be had; or None: the importer gets it right.
Repair = list[NodeProto] | str | None


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values, strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def without(node: NodeProto, *names: str, **values: object) -> NodeProto:
    """A copy of `node` less the attributes `names`, and with `values` set."""
    kept = {k: v for k, v in attributes(node).items() if k not in names}
    return helper.make_node(
        node.op_type, node.input, node.output, node.name, domain=node.domain, **{**kept, **values}
    )


def checked_axis(axis: int, rank: int) -> int | str:
    """An axis counted from the front; what is wrong if there is none of that number."""
    if not -rank <= axis < rank:
        return f"there is no axis {axis} in {rank} dimensions"
    return axis % rank


def optional(node: NodeProto, position: int) -> str:
    """The name of an input, empty if it was left out."""
    return node.input[position] if position < len(node.input) else ""


class Rewrite:
    """Collects the nodes that replace one node, all under its name, for error messages."""

    def __init__(self, node: NodeProto, view: View) -> None:
        self.node, self.view = node, view
        self.nodes: list[NodeProto] = []

    def __call__(self, op: str, *inputs: str, out: str = "", **values: Any) -> str:
        """Add a node with one output; returns the output's name."""
        out = out or self.view.fresh(f"{self.node.output[0]}/{op}")
        self.nodes.append(helper.make_node(op, inputs, [out], self.node.name, **values))
        return out

    def constant(self, value: object, dtype: np.dtype | type | str = "int64") -> str:
        """Add a constant; returns its name."""
        return self.view.add_constant(
            np.asarray(value, np.dtype(dtype)), f"{self.node.output[0]}/constant"
        )
