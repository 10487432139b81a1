"""How many channels of each tensor lie next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alt.graph import Node, Value
from alt.kernels import Kernel
from alt.policies import LayoutPolicy
from alt.sketches.windows import is_depthwise, wants_blocks

COMPLEX = ("conv", "conv_transpose", "winograd")
"""Anchors whose output has a layout of its own."""

STORED = ("conv", "conv_transpose", "pool", "winograd_input")
"""Anchors that say how their first input is stored."""


class Blocks:
    """Blocks of channels, chosen by the complex operators and handed on as the policy says.

    Attributes:
        of: how many channels lie next to each other, of values that are not stored by rows.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        readers: Mapping[Value, Sequence[Kernel]],
        policy: LayoutPolicy,
        lanes: int,
    ) -> None:
        self.kernels = kernels
        self.readers = readers
        self.policy = policy
        self.lanes = lanes
        self.of: dict[Value, int] = {}
        self._choose()

    def _choose(self) -> None:
        forwards = self.policy.downstream or self.policy.is_alone
        for kernel in self.kernels if forwards else reversed(self.kernels):
            value = kernel.output
            if len(value.shape) < 3 or value.dtype != "float32":
                continue
            block = self._inherited(kernel) if forwards else self._wished(kernel)
            if block > 1:
                self.of[value] = block

    def _own(self, kernel: Kernel) -> int:
        """The block that a complex operator would write; 1 for all others."""
        anchor = kernel.anchor
        if anchor is None or anchor.op not in COMPLEX:
            return 1
        if anchor.op != "winograd" and not wants_blocks(anchor, self.lanes):
            return 1
        return anchor.attrs.get("write") or self.policy.block(kernel.output.shape[1], self.lanes)

    def _inherited(self, kernel: Kernel) -> int:
        """The block a kernel writes, from those that it reads."""
        anchor, output = kernel.anchor, kernel.output
        if self.policy.is_alone or (anchor is not None and anchor.op in COMPLEX):
            return self._own(kernel)
        if anchor is not None and anchor.op == "pool":
            return self.of.get(anchor.inputs[0], 1)
        if anchor is not None and anchor.op == "concat":
            return self._of_joined(anchor)
        if anchor is None and all(n.op == "map" for n in kernel.nodes):
            same = (self.of.get(v, 1) for v in kernel.inputs if v.shape == output.shape)
            return next((block for block in same if block > 1), 1)
        if self.policy.upstream and anchor is None and all(n.op == "view" for n in kernel.nodes):
            # It is a copy in any case: it may as well write what its readers want.
            readers = self.readers.get(output, ())
            wishes = {
                self.wish(k.anchor) if k.anchor is not None and k.anchor.op in STORED else 1
                for k in readers
            }
            return wishes.pop() if len(wishes) == 1 else 1
        return 1

    def _of_joined(self, anchor: Node) -> int:
        """The block of a concatenation: that of its operands, if they fill whole vectors."""
        blocks = {self.of.get(v, 1) for v in anchor.inputs}
        if anchor.attrs["axis"] != 1 or 1 in blocks:
            return 1
        if self.policy.format == "NHWC":
            step, block = self.lanes, self.policy.block(anchor.output.shape[1], self.lanes)
        elif len(blocks) == 1:
            step = block = blocks.pop()
        else:
            return 1
        return block if all(v.shape[1] % step == 0 for v in anchor.inputs[:-1]) else 1

    def _wished(self, kernel: Kernel) -> int:
        """The block a kernel writes, from what its readers, which come first, want."""
        value, anchor = kernel.output, kernel.anchor
        wishes: set[int] = set()
        for reader in self.readers.get(value, ()):
            if reader.anchor is not None and reader.anchor.op in STORED:
                if reader.anchor.inputs[0] is value:
                    wishes.add(self.wish(reader.anchor, self.of.get(reader.output, 1)))
            elif reader.output.shape == value.shape:
                wishes.add(self.of.get(reader.output, 1))
        block = wishes.pop() if len(wishes) == 1 else 1
        kinds = {"map", "view"} if anchor is None else {anchor.op}
        if not kinds <= {"map", "view", "pool", *COMPLEX} or (
            anchor is None and any(n.op not in ("map", "view") for n in kernel.nodes)
        ):
            return 1
        own = self._own(kernel)
        if block == 1 and own > 1 and value.shape[1] % self.lanes:
            return own  # half a vector cannot be written into rows
        return block if own > 1 or anchor is None or anchor.op == "pool" else 1

    def wish(self, anchor: Node, written: int = 1) -> int:
        """The block an anchor wants its first input to have; pooling takes what it writes."""
        value = anchor.inputs[0]
        if anchor.op == "pool":
            return max(self.of.get(value, 1), written)
        # Few channels, as in the first convolution of a network, would leave blocks mostly empty.
        enough = value.shape[1] * 2 > self.lanes or is_depthwise(anchor)
        if anchor.op != "winograd_input" and not (wants_blocks(anchor, self.lanes) and enough):
            return 1
        known = anchor.attrs.get("read") or self.of.get(value)
        return known or self.policy.block(value.shape[1], self.lanes)
