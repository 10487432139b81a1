"""Layouts for every tensor of the network, by rule: anchors decide, everything else inherits.

Convolutions want their input and output channels in blocks of one vector, and their input with a
border of zeros as wide as their padding. Elementwise kernels, pooling and concatenation pass that
on, so that a stretch of convolutions runs without a conversion; one is put where a tensor comes
from or goes to the caller, who sees row-major tensors only.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from alt.blocks import STORED, Blocks
from alt.cuda.gpu import Gpu
from alt.decisions import storage_of, why_not_blocks, with_storage
from alt.gpu_plan import plan_for_gpu
from alt.graph import Graph, Node, Value, fresh_names
from alt.kernels import Kernel, reading, with_anchor
from alt.memory import ALIGNMENT
from alt.plan import Plan, copy_kernel
from alt.policies import JOINT, LayoutPolicy
from alt.sketches.pool import pool_border
from alt.sketches.windows import required_border
from alt.storage import Border, block_of, channels_blocked
from alt.target import Hardware, Machine
from alt.winograd import winograd_border
from primitives import Layout


def plan_layouts(
    graph: Graph,
    kernels: list[Kernel],
    machine: Hardware,
    winograd: bool = True,
    policy: LayoutPolicy = JOINT,
) -> Plan:
    """Choose a layout for every value and insert the conversions that remain.

    Args:
        graph: the network.
        kernels: how it was fused.
        machine: what the code is for.
        winograd: whether convolutions may be computed by Winograd's algorithm.
        policy: which layouts there are and how they spread.
    """
    if isinstance(machine, Gpu):
        return plan_for_gpu(graph, kernels, machine, policy, winograd)
    return _Planner(graph, kernels, machine, winograd, policy).plan()


class _Planner:
    def __init__(
        self,
        graph: Graph,
        kernels: list[Kernel],
        machine: Machine,
        winograd: bool,
        policy: LayoutPolicy,
    ) -> None:
        self.graph = graph
        self.policy = policy
        self.lanes = machine.lanes()
        self.border: dict[Value, list[tuple[int, int]]] = {}
        self.names = fresh_names("stored")
        self.conversions: dict[Kernel, str] = {}
        self.refused: list[str] = []
        self.whole_of: dict[Value, Value] = {}
        self.kernels: list[Kernel] = []
        for kernel in kernels:
            storage = storage_of(kernel, machine, policy, winograd)
            if storage is None:
                self.kernels.append(kernel)
                continue
            anchor = kernel.anchor
            assert anchor is not None
            if refusal := why_not_blocks(anchor, machine, policy):
                self.refused.append(f"{anchor.name} {anchor.output.name} works on rows: {refusal}")
            self.kernels.extend(with_storage(kernel, storage, machine, next(self.names)))
        self.readers: dict[Value, list[Kernel]] = {}
        for kernel in self.kernels:
            for value in kernel.inputs:
                self.readers.setdefault(value, []).append(kernel)

        self.blocks = Blocks(self.kernels, self.readers, policy, self.lanes)
        self.block = self.blocks.of

    def plan(self) -> Plan:
        joined = [k for k in self.kernels if self._joins_in_place(k)]
        kernels: list[Kernel] = []
        copies: dict[tuple[Value, int], Value] = {}
        rows_of: dict[Value, Value] = {}
        for kernel in self.kernels:
            if kernel in joined:
                continue
            kernel = reading(kernel, rows_of)
            kernels.append(self._with_stored_input(kernel, copies, kernels))
            value = kernel.output
            if self.policy.is_alone and self._differs_from_rows(value):
                rows_of[value] = self._to_rows(value, kernels, "layouts do not spread")
        outputs: list[Value] = []
        for value in self.graph.outputs:
            if value in rows_of:
                value = rows_of[value]
            elif self._differs_from_rows(value):
                value = self._to_rows(value, kernels, "the caller gets row-major tensors")
            outputs.append(value)
        stored = dict.fromkeys((*self.block, *self.border, *self.whole_of))
        layouts = {v: self._layout(v) for v in stored}
        inside: dict[Value, tuple[Value, int]] = {}
        for kernel in joined:
            start = 0
            for value in kernel.inputs:
                inside[value] = (kernel.output, start)
                start += self._layout(value).elements
        return Plan(kernels, layouts, outputs, self.conversions, inside, self.refused)

    # --- concatenation in place -----------------------------------------------------------------

    def _joins_in_place(self, kernel: Kernel) -> bool:
        """Whether a concatenation needs no code: its operands are written side by side.

        They lie one after the other if no axis longer than 1 comes before the joined one. An
        operand has to be computed here, not be one of the caller's, and have no other such home.
        """
        anchor = kernel.anchor
        if (
            anchor is None
            or anchor.op != "concat"
            or kernel.nodes != (anchor,)
            or self.policy.is_alone
        ):
            return False
        axis, output = anchor.attrs["axis"], kernel.output
        block = self.block.get(output, 1)
        made = {k.output: k for k in self.kernels}
        if (
            self.policy.is_alone
            or any(extent != 1 for extent in output.shape[:axis])
            or (block > 1 and axis != 1)
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
                or self.block.get(value, 1) != block
                # A slice of rows begins where vectors may be loaded, and has no border.
                or (block == 1 and (cells % ALIGNMENT or self._wants_border(value)))
            ):
                return False
        if block == 1 and self._wants_border(output):
            return False
        self.whole_of.update((value, output) for value in anchor.inputs)
        return True

    def _wants_border(self, value: Value) -> bool:
        """Whether somebody may want a border around a row-major value."""
        return any(
            k.anchor is not None and k.anchor.op in STORED and k.anchor.inputs[0] is value
            for k in self.readers.get(value, ())
        )

    def _home(self, value: Value) -> Value:
        """The value whose border decides: all slices of one tensor have the same."""
        while value in self.whole_of:
            value = self.whole_of[value]
        return value

    # --- borders and conversions ----------------------------------------------------------------

    def _layout(self, value: Value) -> Layout:
        border: Border = tuple(
            self.border.get(self._home(value), [(0, 0)] * (len(value.shape) - 2))
        )
        return channels_blocked(value.shape, self.block.get(value, 1), border)

    def _differs_from_rows(self, value: Value) -> bool:
        stored = value in self.block or value in self.border
        return stored and not _same_order(self._layout(value))

    def _with_stored_input(
        self, kernel: Kernel, copies: dict[tuple[Value, int], Value], kernels: list[Kernel]
    ) -> Kernel:
        anchor = kernel.anchor
        if anchor is None or anchor.op not in STORED:
            return kernel
        value = anchor.inputs[0]
        block = self.blocks.wish(anchor)
        border = wanted_border(anchor, block > 1)
        bordered = any(lo or hi for lo, hi in border)
        made = value not in self.graph.inputs and value not in self.graph.constants
        free = made and (self.policy.upstream or not bordered)
        if (value, block) in copies:
            value = copies[value, block]
            free = True
        if free and self.block.get(value, 1) == block:
            self._widen(value, border)
        elif made or block > 1 or bordered:
            stored = Value(next(self.names), value.shape, value.dtype)
            copy = copy_kernel(value, stored)
            kernels.append(copy)
            what = "channel blocks" if block > 1 else "rows"
            self.conversions[copy] = (
                f"{anchor.name} {anchor.output.name} wants {what} with a border"
            )
            if block > 1:
                self.block[stored] = block
            copies[anchor.inputs[0], block] = stored
            self._widen(stored, border)
            value = stored
        if value is anchor.inputs[0]:
            return kernel
        swapped = replace(anchor, inputs=(value, *anchor.inputs[1:]))
        return with_anchor(kernel, swapped, first=value)

    def _widen(self, value: Value, border: Border) -> None:
        value = self._home(value)
        now = self.border.setdefault(value, [(0, 0)] * len(border))
        self.border[value] = [
            (max(a, c), max(b, d)) for (a, b), (c, d) in zip(now, border, strict=True)
        ]

    def _to_rows(self, value: Value, kernels: list[Kernel], why: str) -> Value:
        rows = Value(next(self.names), value.shape, value.dtype)
        copy = copy_kernel(value, rows)
        kernels.append(copy)
        self.conversions[copy] = why
        return rows


def wanted_border(anchor: Node, blocked: bool) -> Border:
    """The cells of zeros that an anchor wants around its first input."""
    match anchor.op:
        case "winograd_input":
            return winograd_border(anchor)
        case "pool":
            return pool_border(anchor, blocked)
        case _:
            return required_border(anchor)


def _same_order(layout: Layout) -> bool:
    """Whether a stored tensor, read row by row, is the logical one."""
    if layout.is_identity:
        return True
    if layout.has_padding:
        return False
    return block_of(layout) > 1 and int(np.prod(layout.logical_shape[2:])) == 1
