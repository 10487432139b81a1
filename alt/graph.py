"""The network as ALT sees it: values, the nodes that compute them, and who reads what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the network; two values are the same only if they are the same object."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of logical elements."""
        return prod(self.shape)

    def __repr__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
        op: what kind of computation this is, as fusion and the sketches see it: `map` (one element
            of the output from one element of each input), `view` (a relabelling of one input's
            indices), `gather` (every output element is an expression over elements of the inputs),
            or an anchor: `conv`, `conv_transpose`, `matmul`, `pool`, `softmax`, `layer_norm`,
            `reduce`, `concat`, `stages` (anything else, as TensorIR stages).
        name: the operator's own name, for reports: `relu`, `conv2d`.
        inputs: the tensors read, in the operator's order.
        output: the tensor computed.
        attrs: everything that distinguishes this node from another of the same op and name.
        compute: for `map`, expressions -> expression; for `view`, output indices -> input indices;
            for `gather`, (read, output indices) -> expression with `read(k, indices)`.
    """

    op: str
    name: str
    inputs: tuple[Value, ...]
    output: Value
    attrs: Mapping[str, Any] = field(default_factory=dict)
    compute: Callable[..., Any] | None = None

    def key(self) -> str:
        """A text that is equal for nodes that compute the same function of their inputs."""
        shapes = ";".join(f"{v.dtype}{v.shape}" for v in (*self.inputs, self.output))
        return f"{self.op}.{self.name}{sorted(self.attrs.items())}({shapes})"


@dataclass
class Graph:
    """A network: nodes in an order in which every node follows its producers.

    Attributes:
        inputs: values the caller provides.
        outputs: values the caller gets back, in order; one value may appear twice.
        nodes: the operators.
        constants: contents of the values that are known now.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    constants: dict[Value, np.ndarray]

    def producers(self) -> dict[Value, Node]:
        """The node that computes each value."""
        return {node.output: node for node in self.nodes}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, each listed once."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                readers.setdefault(value, []).append(node)
        return readers

    def without_dead_nodes(self) -> Graph:
        """The same network without nodes and constants that no output depends on."""
        live = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in live:
                kept.append(node)
                live.update(node.inputs)
        constants = {v: array for v, array in self.constants.items() if v in live}
        return Graph(self.inputs, self.outputs, kept[::-1], constants)

    def replaced(self, nodes: Iterable[Node], renamed: Mapping[Value, Value]) -> Graph:
        """The network with new nodes, where every reader of `a` reads `renamed[a]` instead."""

        def final(value: Value) -> Value:
            while value in renamed:
                value = renamed[value]
            return value

        rebuilt = [
            Node(n.op, n.name, tuple(map(final, n.inputs)), n.output, n.attrs, n.compute)
            if any(v in renamed for v in n.inputs)
            else n
            for n in nodes
        ]
        return Graph(self.inputs, [final(v) for v in self.outputs], rebuilt, self.constants)


def fresh_names(prefix: str) -> Iterator[str]:
    """An endless supply of distinct names: `prefix0`, `prefix1`, ..."""
    number = 0
    while True:
        yield f"{prefix}{number}"
        number += 1
