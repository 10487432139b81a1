"""Fusion: which nodes become one kernel.

Every kernel computes one value. It has at most one anchor (a convolution, a matrix product, a
reduction, ...), an epilogue of elementwise nodes applied to the anchor's result while it is in
registers, and a prologue of nodes computed on the fly where they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from alt.graph import Graph, Node, Value

ON_THE_FLY = frozenset({"map", "view", "gather"})
"""Kinds that can be computed where they are read."""

READS_ONCE = frozenset({"softmax", "layer_norm", "reduce", "concat"})
"""Anchors that read an input element a few times at most, so a prologue costs nothing."""

STORED_INPUT = frozenset({"conv", "conv_transpose", "pool"})
"""Anchors whose first input must lie in memory, because its layout matters or it is read often."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A fused group of nodes.

    Attributes:
        anchor: the node that decides how the kernel is scheduled, or None.
        nodes: all nodes, producers first.
        inputs: values read from memory, constants included, in order of first use.
        output: the value written.
    """

    anchor: Node | None
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    output: Value

    @property
    def producers(self) -> dict[Value, Node]:
        """The node of this kernel that computes each value."""
        return {n.output: n for n in self.nodes}

    @property
    def name(self) -> str:
        """A readable name: the anchor and what is fused around it."""
        parts = [n.name for n in self.nodes if n.op != "view"]
        short = parts[:5] + (["etc"] if len(parts) > 5 else [])
        return "_".join(short) or "copy"


def operations(node: Node) -> int | None:
    """Additions and multiplications of a convolution or matrix product; None for other nodes.

    Winograd's algorithm is credited with the products it computes, not with those it saves.
    """
    if node.op == "matmul":
        return 2 * node.output.size * node.inputs[0].shape[-1]
    if node.op == "attention":
        return 2 * node.inputs[0].size * (node.attrs["depth"] + node.output.shape[-1])
    if node.op == "winograd":
        batch, _, chunks, points, _, chunk, _ = node.inputs[0].shape
        *outer, _, _ = node.output.shape[2:]
        tiles = batch * prod(outer) * chunks * chunk
        depth = prod(node.attrs["kernel"][:-2])
        return 2 * tiles * points * node.attrs["channels"] * node.output.shape[1] * depth
    if node.op == "winograd_product":
        windows, weight = node.inputs
        return 2 * node.output.size * windows.shape[1] * prod(weight.shape[2:-2])
    if node.op not in ("conv", "conv_transpose"):
        return None
    weight = node.inputs[1].shape
    if node.op == "conv":
        return 2 * node.output.size * prod(weight[1:])
    return 2 * node.inputs[0].size * prod(weight[1:])


def with_anchor(kernel: Kernel, anchor: Node, first: Value | None = None) -> Kernel:
    """The kernel with another node in place of its anchor.

    Args:
        kernel: one with an anchor.
        anchor: a node that computes the same value.
        first: what the new anchor reads in place of the old one's first input, if it does.
    """
    assert kernel.anchor is not None
    nodes = tuple(anchor if n is kernel.anchor else n for n in kernel.nodes)
    inputs = kernel.inputs
    if first is not None:
        before = kernel.anchor.inputs[0]
        still = any(before in n.inputs for n in nodes)
        inputs = (first, *(v for v in inputs if v is not before or still))
    return Kernel(anchor, nodes, inputs, kernel.output)


def reading(kernel: Kernel, instead: Mapping[Value, Value]) -> Kernel:
    """The kernel with some of the values it reads replaced."""
    if not any(v in instead for v in kernel.inputs):
        return kernel
    nodes: dict[Node, Node] = {}
    for node in kernel.nodes:
        inputs = tuple(instead.get(v, v) for v in node.inputs)
        nodes[node] = node if inputs == node.inputs else replace(node, inputs=inputs)
    anchor = None if kernel.anchor is None else nodes[kernel.anchor]
    return Kernel(
        anchor,
        tuple(nodes.values()),
        tuple(instead.get(v, v) for v in kernel.inputs),
        kernel.output,
    )


def fuse(graph: Graph) -> list[Kernel]:
    """Partition the network into kernels, in an order in which they can run."""
    return _Fusion(graph).kernels()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.producers = graph.producers()
        self.readers = graph.consumers()
        self.outputs = set(graph.outputs)
        self.ancestors: dict[Node, int] = {}
        for node in graph.nodes:
            mask = 0
            for value in node.inputs:
                before = self.producers.get(value)
                if before is not None:
                    mask |= self.ancestors[before] | (1 << self.position[before])
            self.ancestors[node] = mask
        self.group_of: dict[Node, int] = {}
        self.groups: list[list[Node]] = []
        self.anchors: list[Node | None] = []

    def kernels(self) -> list[Kernel]:
        for node in self.graph.nodes:
            if node.op not in ON_THE_FLY:
                self._grow(node, node)
        for node in self.graph.nodes:
            if node.op == "map" and node not in self.group_of:
                self._grow(node, None)
        for node in self.graph.nodes:
            if node.op == "gather" and node not in self.group_of and not self._inlinable(node):
                self._grow(node, None)
        for node in self.graph.nodes:
            if node.op == "view" and self._must_store(node):
                self._new_group([node], None)
        made = [self._kernel(i) for i in range(len(self.groups)) if not self._absorbed(i)]
        return _in_order(made)

    def _new_group(self, nodes: list[Node], anchor: Node | None) -> None:
        for node in nodes:
            self.group_of[node] = len(self.groups)
        self.groups.append(nodes)
        self.anchors.append(anchor)

    def _grow(self, start: Node, anchor: Node | None) -> None:
        """Extend from `start` over elementwise successors, as far as one value leaves the group."""
        if start in self.group_of:
            return
        members = [start]
        mask = 1 << self.position[start]
        inside = {start.output}
        best = 1
        frontier = {start.output}
        for node in self.graph.nodes[self.position[start] + 1 :]:
            if not frontier:
                break
            touches = any(v in inside for v in node.inputs)
            if not touches:
                continue
            if (
                node.op != "map"
                or node in self.group_of
                or node.output.shape != start.output.shape
                or any(v not in inside and self._depends(v, mask) for v in node.inputs)
            ):
                continue
            members.append(node)
            mask |= 1 << self.position[node]
            inside.add(node.output)
            if len(self._leaving(members, inside)) == 1 and self._leaving(members, inside) == [
                node.output
            ]:
                best = len(members)
        self._new_group(members[:best], anchor)

    def _depends(self, value: Value, mask: int) -> bool:
        producer = self.producers.get(value)
        if producer is None:
            return False
        return bool((self.ancestors[producer] | (1 << self.position[producer])) & mask)

    def _leaving(self, members: Iterable[Node], inside: set[Value]) -> list[Value]:
        group = set(members)
        return [
            v
            for v in inside
            if v in self.outputs or any(r not in group for r in self.readers.get(v, []))
        ]

    def _inlinable(self, node: Node) -> bool:
        """Whether every reader of a gather can compute it on the fly, and just once."""
        if node.output in self.outputs:
            return False
        readers = self.readers.get(node.output, [])
        return len(readers) == 1 and (
            readers[0].op in ("map", "gather") or readers[0].op in READS_ONCE
        )

    def _must_store(self, view: Node) -> bool:
        if view.output in self.outputs:
            return True
        return any(
            (r.op in STORED_INPUT and r.inputs[0] is view.output) or r.op == "stages"
            for r in self.readers.get(view.output, [])
        )

    def _absorbed(self, group: int) -> bool:
        """Whether an anchorless group is better computed on the fly by its one reader."""
        nodes = self.groups[group]
        if self.anchors[group] is not None or nodes[-1].op == "view":
            return False
        value = nodes[-1].output
        if value in self.outputs:
            return False
        target = self._only_reading_group(value)
        if target is None:
            return False
        anchor = self.anchors[target]
        if anchor is None:
            # Recomputing a small value for every element it is broadcast to is a loss.
            return self.groups[target][-1].output.size <= value.size
        first_input = value in anchor.inputs or any(
            v in anchor.inputs for v in self._views_of(value)
        )
        return anchor.op in READS_ONCE and first_input

    def _views_of(self, value: Value) -> list[Value]:
        found: list[Value] = []
        for reader in self.readers.get(value, []):
            if reader.op == "view":
                found.append(reader.output)
                found.extend(self._views_of(reader.output))
        return found

    def _only_reading_group(self, value: Value) -> int | None:
        targets: set[int] = set()
        for v in (value, *self._views_of(value)):
            if v in self.outputs:
                return None
            for reader in self.readers.get(v, []):
                if reader.op == "view":
                    if reader in self.group_of:
                        return None
                    continue
                if reader not in self.group_of:
                    return None
                targets.add(self.group_of[reader])
        return next(iter(targets)) if len(targets) == 1 else None

    def _kernel(self, group: int) -> Kernel:
        members = self.groups[group]
        output = members[-1].output
        nodes: dict[Node, None] = {}
        inputs: dict[Value, None] = {}

        def visit(value: Value, origin: Node) -> None:
            producer = self.producers.get(value)
            if producer is None or not self._joins(producer, group, origin):
                inputs[value] = None
                return
            if producer in nodes:
                return
            for v in producer.inputs:
                visit(v, producer)
            nodes[producer] = None

        for member in members:
            for value in member.inputs:
                visit(value, member)
            nodes[member] = None
        anchor = self.anchors[group]
        ordered = tuple(sorted(nodes, key=self.position.__getitem__))
        return Kernel(anchor, ordered, tuple(inputs), output)

    def _joins(self, producer: Node, group: int, reader: Node) -> bool:
        """Whether `producer` is computed inside `group` where `reader` reads it."""
        home = self.group_of.get(producer)
        if home == group:
            return True
        if reader.op in STORED_INPUT or reader.op == "stages":
            return False
        if home is None:
            return producer.op in ON_THE_FLY
        return (
            self._absorbed(home)
            and self._only_reading_group(self.groups[home][-1].output) is not None
        )


def _in_order(kernels: list[Kernel]) -> list[Kernel]:
    """Sort so that every kernel follows those it reads from; stable otherwise."""
    maker = {k.output: k for k in kernels}
    done: dict[Kernel, None] = {}

    def place(kernel: Kernel) -> None:
        stack = [kernel]
        while stack:
            top = stack[-1]
            if top in done:
                stack.pop()
                continue
            waiting = [maker[v] for v in top.inputs if v in maker and maker[v] not in done]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                done[stack.pop()] = None

    for kernel in kernels:
        place(kernel)
    return list(done)
