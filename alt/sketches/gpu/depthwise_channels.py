"""Depthwise convolutions whose channels are neighbours in memory: a thread has a vector of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from alt.elementary import Expr, f32
from alt.graph import Node
from alt.sketches.gpu.block_tile import VECTOR
from alt.sketches.gpu.channels import finish_channels
from alt.sketches.gpu.depthwise import WINDOW_REGISTERS, Depthwise
from alt.sketches.gpu.grid import Region, either, over_elements
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import copy
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32
from alt.sketches.windows import geometry
from alt.storage import block_of
from primitives import Layout
from primitives.tensorir import tirx


def depthwise(scope: GpuScope) -> Stmt:
    """A depthwise convolution of any rank; a channel may have several results."""
    return depthwise_of(scope).sketch()


def depthwise_of(scope: GpuScope) -> Depthwise:
    """How a depthwise convolution is shared out among threads, by how its tensors are stored."""
    node = scope.kernel.anchor
    assert node is not None
    return (_ByChannels if _has_channels(scope, node) else Depthwise)(scope, node)


def _has_channels(scope: GpuScope, node: Node) -> bool:
    """Whether blocks of channels are read and written, each channel for itself."""
    _, _, multiplier = geometry(node)
    layouts = scope.layout(node.inputs[0]), scope.output_layout
    padded = any(layout.has_padding for layout in layouts)
    return multiplier == 1 and min(map(block_of, layouts)) > 1 and not padded


class _ByChannels(Depthwise):
    """As its base, for some channels at a time; neighbouring threads have neighbouring channels."""

    most_taps = WINDOW_REGISTERS // VECTOR

    def _decide_lanes(self) -> int:
        blocks = map(block_of, (self.scope.layout(self.node.inputs[0]), self.scope.output_layout))
        narrow = min(blocks)
        fitting = [
            v
            for v in (1, 2, VECTOR)
            if narrow % v == 0
            and self.outputs % narrow == 0
            and (v == 1 or v * prod(self.taps) <= WINDOW_REGISTERS)
        ]
        return self.scope.choose.one_of("channels", fitting, fitting[-1])

    def sketch(self) -> Stmt:
        """The whole kernel."""
        self.scope.notes["tile"] = [self.rows, self.columns, self.lanes]
        block = block_of(self.scope.output_layout)
        strips = -(-self.height // self.rows)
        places = *self.phase.count[: self.outer], strips, self.width // self.columns
        extents = self.batch, self.outputs // block, *places, block // self.lanes

        def body(n: Expr, number: Expr, *place: Expr) -> Stmt:
            *outside, inside = place
            return self._body(n, number * block + inside * self.lanes, *outside)

        return over_elements(self.scope, Region(extents, body))

    def _load_weights(self, weights: object, channel: Expr, outer_taps: Sequence[Expr]) -> Stmt:
        """The taps of a window for every channel: [outer taps][taps][channel]."""
        scope, taps = self.scope, prod(self.taps)
        shape = prod(self.phase.taps), self.outputs
        named = (f"depthwise{shape}", lambda w: w.reshape(shape[::-1]).T.copy())
        packed = scope.buffer(self.node.inputs[1], Layout.identity(shape), named)
        at: Expr = i32(0)
        for tap, count in zip(outer_taps, self.phase.taps, strict=False):
            at = at * count + tap

        def tap_of(t: Expr) -> Stmt:
            begin = (at * taps + t) * self.outputs + channel
            return copy(scope, self.lanes, packed, begin, weights, t * self.lanes)

        return scope.loop(taps, tap_of, UNROLLED)

    def _load_window(
        self,
        window: object,
        n: Expr,
        channel: Expr,
        above: Sequence[Expr],
        outer_taps: Sequence[Expr],
        first: Sequence[Expr],
    ) -> list[Stmt]:
        """A vector of channels at every place."""
        scope, x = self.scope, self.node.inputs[0]
        source = scope.buffer(x, scope.layout(x))
        parts: list[Stmt] = []
        for number, (at, guard) in enumerate(self._inputs(above, outer_taps, first)):
            begin = scope.address(scope.layout(x), [n, channel, *at])
            to = i32(number * self.lanes)
            read = copy(scope, self.lanes, source, begin, window, to)

            def nothing(k: Expr, to: Expr = to) -> Stmt:
                return tirx.BufferStore(window, f32(0.0), [to + k])

            zero = scope.loop(self.lanes, nothing, VECTORIZED)
            parts.append(either(scope, guard, read, zero))
        return parts

    def _write(
        self,
        acc: object,
        row: Expr,
        n: Expr,
        channel: Expr,
        above: Sequence[Expr],
        first: Sequence[Expr],
    ) -> Stmt:
        """The results of a row, through the epilogue."""

        def column(c: Expr) -> Stmt:
            def indices(k: Expr) -> list[Expr]:
                place = [first[1] + c] if self.flat else [first[0] + row, first[1] + c]
                parts = (n, channel + k, *above, *place)
                return [self.scope.analyzer.simplify(i) for i in parts]

            def total(k: Expr) -> Expr:
                where = (row * self.columns + c) * self.lanes + k
                return tirx.BufferLoad(acc, [where])

            return finish_channels(self.scope, self.node, indices, self.lanes, total)

        return self.scope.loop(self.columns, column, UNROLLED, "column")
