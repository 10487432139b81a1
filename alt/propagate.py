"""Layouts for every tensor of the network, by rule: anchors decide, everything else inherits.

Convolutions want their input and output channels in blocks of one vector, and their input with a
border of zeros as wide as their padding. Elementwise kernels, pooling and concatenation pass that
on, so that a stretch of convolutions runs without a conversion; one is put where a tensor comes
from or goes to the caller, who sees row-major tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from alt import operators as ops
from alt.graph import Graph, Node, Value, fresh_names
from alt.kernels import Kernel
from alt.memory import ALIGNMENT
from alt.sketches.pool import pool_border
from alt.sketches.windows import is_depthwise, required_border, wants_blocks
from alt.storage import Border, block_of, channels_blocked
from alt.target import Machine
from alt.winograd import choose_winograd, winograd_border, winograd_kernels
from primitives import Layout


@dataclass
class Plan:
    """What will be built.

    Attributes:
        kernels: in execution order, conversions included.
        layouts: how each value is stored; row by row where it is not listed.
        outputs: the values handed to the caller, stored row by row.
        conversions: the kernels that only change a layout, with the reason.
        inside: values that are a slice of another one's memory: (whole, cells before the slice).
    """

    kernels: list[Kernel]
    layouts: dict[Value, Layout]
    outputs: list[Value]
    conversions: dict[Kernel, str] = field(default_factory=dict)
    inside: dict[Value, tuple[Value, int]] = field(default_factory=dict)


_STORED = ("conv", "conv_transpose", "pool", "winograd_input")
"""Anchors that say how their first input is stored."""


def plan_layouts(
    graph: Graph, kernels: list[Kernel], machine: Machine, winograd: bool = True
) -> Plan:
    """Choose a layout for every value and insert the conversions that remain.

    Args:
        graph: the network.
        kernels: how it was fused.
        machine: what the code is for.
        winograd: whether convolutions may be computed by Winograd's algorithm.
    """
    return _Planner(graph, kernels, machine, winograd).plan()


class _Planner:
    def __init__(
        self, graph: Graph, kernels: list[Kernel], machine: Machine, winograd: bool
    ) -> None:
        self.graph = graph
        self.lanes = machine.lanes()
        self.blocked: set[Value] = set()
        self.border: dict[Value, list[tuple[int, int]]] = {}
        self.names = fresh_names("stored")
        self.conversions: dict[Kernel, str] = {}
        self.whole_of: dict[Value, Value] = {}
        self.kernels: list[Kernel] = []
        for kernel in kernels:
            anchor = kernel.anchor
            m = choose_winograd(anchor, machine) if winograd and anchor is not None else 0
            if m:
                self.kernels.extend(winograd_kernels(kernel, m, machine, next(self.names)))
            else:
                self.kernels.append(kernel)

    def plan(self) -> Plan:
        for kernel in self.kernels:
            if self._output_blocked(kernel):
                self.blocked.add(kernel.output)
        joined = [k for k in self.kernels if self._joins_in_place(k)]
        kernels: list[Kernel] = []
        copies: dict[Value, Value] = {}
        for kernel in self.kernels:
            if kernel not in joined:
                kernels.append(self._with_stored_input(kernel, copies, kernels))
        outputs: list[Value] = []
        for value in self.graph.outputs:
            if self._differs_from_rows(value):
                rows = Value(next(self.names), value.shape, value.dtype)
                copy = self._copy(value, rows)
                kernels.append(copy)
                self.conversions[copy] = "the caller gets row-major tensors"
                value = rows
            outputs.append(value)
        layouts = {
            v: self._layout(v) for v in dict.fromkeys((*self.blocked, *self.border, *self.whole_of))
        }
        inside: dict[Value, tuple[Value, int]] = {}
        for kernel in joined:
            start = 0
            for value in kernel.inputs:
                inside[value] = (kernel.output, start)
                start += self._layout(value).elements
        return Plan(kernels, layouts, outputs, self.conversions, inside)

    def _joins_in_place(self, kernel: Kernel) -> bool:
        """Whether a concatenation needs no code: its operands are written side by side.

        They lie one after the other if no axis longer than 1 comes before the joined one. An
        operand has to be computed here, not be one of the caller's, and have no other such home.
        """
        anchor = kernel.anchor
        if anchor is None or anchor.op != "concat" or kernel.nodes != (anchor,):
            return False
        axis, output = anchor.attrs["axis"], kernel.output
        blocked = output in self.blocked
        made = {k.output: k for k in self.kernels}
        if (
            any(extent != 1 for extent in output.shape[:axis])
            or (blocked and axis != 1)
            or output in self.graph.outputs
            or len(set(anchor.inputs)) != len(anchor.inputs)
        ):
            return False
        for value in anchor.inputs:
            cells = prod(value.shape) * np.dtype(value.dtype).itemsize
            if (
                value not in made
                or value in self.graph.outputs
                or value in self.whole_of
                or (value in self.blocked) != blocked
                # A slice of rows begins where vectors may be loaded, and has no border.
                or (not blocked and (cells % ALIGNMENT or self._wants_border(value)))
            ):
                return False
        if not blocked and self._wants_border(output):
            return False
        self.whole_of.update((value, output) for value in anchor.inputs)
        return True

    def _wants_border(self, value: Value) -> bool:
        """Whether somebody may want a border around a row-major value."""
        return any(
            k.anchor is not None and k.anchor.op in _STORED and k.anchor.inputs[0] is value
            for k in self.kernels
        )

    def _home(self, value: Value) -> Value:
        """The value whose border decides: all slices of one tensor have the same."""
        while value in self.whole_of:
            value = self.whole_of[value]
        return value

    def _layout(self, value: Value) -> Layout:
        border: Border = tuple(
            self.border.get(self._home(value), [(0, 0)] * (len(value.shape) - 2))
        )
        block = self.lanes if value in self.blocked else 1
        return channels_blocked(value.shape, block, border)

    def _differs_from_rows(self, value: Value) -> bool:
        stored = value in self.blocked or value in self.border
        return stored and not _same_order(self._layout(value))

    def _output_blocked(self, kernel: Kernel) -> bool:
        anchor = kernel.anchor
        output = kernel.output
        if len(output.shape) < 3 or output.dtype != "float32":
            return False
        if anchor is not None and anchor.op == "conv":
            return wants_blocks(anchor, self.lanes)
        if anchor is not None and anchor.op == "conv_transpose":
            return wants_blocks(anchor, self.lanes)
        if anchor is not None and anchor.op in ("winograd", "winograd_input"):
            return anchor.op == "winograd"
        if anchor is not None and anchor.op == "pool":
            return anchor.inputs[0] in self.blocked
        if anchor is not None and anchor.op == "concat":
            return (
                anchor.attrs["axis"] == 1
                and all(v in self.blocked for v in anchor.inputs)
                and all(v.shape[1] % self.lanes == 0 for v in anchor.inputs[:-1])
            )
        if anchor is None and all(n.op == "map" for n in kernel.nodes):
            return any(v in self.blocked and v.shape == output.shape for v in kernel.inputs)
        if anchor is None and all(n.op == "view" for n in kernel.nodes):
            # It is a copy in any case: it may as well write what its readers want.
            readers = [k.anchor for k in self.kernels if output in k.inputs]
            return bool(readers) and all(
                r is not None and r.op in _STORED and self._wants_blocks(r) for r in readers
            )
        return False

    def _wants_blocks(self, anchor: Node) -> bool:
        """Whether an anchor wants its first input in channel blocks."""
        value = anchor.inputs[0]
        if anchor.op == "winograd_input":
            return True
        if anchor.op == "pool":
            return value in self.blocked
        # Few channels, as in the first convolution of a network, would leave blocks mostly empty.
        enough = value.shape[1] * 2 > self.lanes or is_depthwise(anchor)
        return wants_blocks(anchor, self.lanes) and enough

    def _with_stored_input(
        self, kernel: Kernel, copies: dict[Value, Value], kernels: list[Kernel]
    ) -> Kernel:
        anchor = kernel.anchor
        if anchor is None or anchor.op not in _STORED:
            return kernel
        value = anchor.inputs[0]
        blocks = self._wants_blocks(anchor)
        if anchor.op == "winograd_input":
            border = winograd_border(anchor)
        elif anchor.op == "pool":
            border = pool_border(anchor, blocks)
        else:
            border = required_border(anchor)
        free = value not in self.graph.inputs and value not in self.graph.constants
        if value in copies:
            value = copies[value]
            free = True
        if free and (value in self.blocked) == blocks:
            self._widen(value, border)
        elif free or blocks or any(lo or hi for lo, hi in border):
            stored = Value(next(self.names), value.shape, value.dtype)
            copy = self._copy(value, stored)
            kernels.append(copy)
            what = "channel blocks" if blocks else "rows"
            self.conversions[copy] = (
                f"{anchor.name} {anchor.output.name} wants {what} with a border"
            )
            if blocks:
                self.blocked.add(stored)
            copies[anchor.inputs[0]] = stored
            self._widen(stored, border)
            value = stored
        if value is anchor.inputs[0]:
            return kernel
        return _reading(kernel, anchor, value)

    def _widen(self, value: Value, border: Border) -> None:
        value = self._home(value)
        now = self.border.setdefault(value, [(0, 0)] * len(border))
        self.border[value] = [
            (max(a, c), max(b, d)) for (a, b), (c, d) in zip(now, border, strict=True)
        ]

    def _copy(self, source: Value, target: Value) -> Kernel:
        relabel = ops.reshape(source.shape, target.shape)
        node = Node("view", "reshape", (source,), target, {"target": target.shape}, relabel)
        return Kernel(None, (node,), (source,), target)


def _same_order(layout: Layout) -> bool:
    """Whether a stored tensor, read row by row, is the logical one."""
    if layout.is_identity:
        return True
    if layout.has_padding:
        return False
    return block_of(layout) > 1 and int(np.prod(layout.logical_shape[2:])) == 1


def _reading(kernel: Kernel, anchor: Node, value: Value) -> Kernel:
    """The kernel with its anchor reading `value` in place of its first input."""
    before = anchor.inputs[0]
    swapped = Node(
        anchor.op,
        anchor.name,
        (value, *anchor.inputs[1:]),
        anchor.output,
        anchor.attrs,
        anchor.compute,
    )
    nodes = tuple(swapped if n is anchor else n for n in kernel.nodes)
    still = any(before in n.inputs for n in nodes)
    inputs = [v for v in kernel.inputs if v is not before or still]
    return Kernel(swapped, nodes, (value, *inputs), kernel.output)
