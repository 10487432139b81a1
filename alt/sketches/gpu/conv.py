"""Convolutions on a GPU as products of matrices that are never built (implicit GEMM).

Rows are the output places of all images, columns the output channels of a group, and the reduction
runs over taps and input channels. A block gathers a tile of the input through the bounds of the
image, and reads a tile of weights that were packed at compile time, both into shared memory; while
it multiplies them, the next ones are already on their way into registers. A transposed convolution
is such a product for every phase, in blocks of its own.

Source:
    CUTLASS, implicit GEMM convolution; DeepBench kernels described in arXiv 1410.0759 (cuDNN).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from alt.elementary import Expr
from alt.graph import Node
from alt.sketches.gpu.block_tile import Tile, Work, decide_tile
from alt.sketches.gpu.channels import channel_inputs, reads_channels
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.results import Results
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import Steps, inputs, steps_of, weights
from alt.sketches.gpu.warp_conv import goes_to_tensor_cores, warp_convolution
from alt.sketches.scope import Stmt, i32, seq
from alt.sketches.windows import Phase, geometry, has_packed_weights, phases
from primitives.tensorir import tirx

ORDERS = ("channels", "places")
"""Which tiles neighbouring blocks work on: those of other channels, or of other places."""

MOST_PHASES = 4
"""Transposed convolutions of more have code for every one of them."""


def tiles_well(node: Node) -> bool:
    """Whether a convolution is one that this sketch is for."""
    floats = node.inputs[0].dtype == node.output.dtype == "float32"
    return (
        has_packed_weights(node)
        and floats
        and bool(node.output.size)
        and len(phases(node)) <= MOST_PHASES
    )


def convolution(scope: GpuScope) -> Stmt:
    """A convolution of any rank, groups, strides and dilations, whose weights are constants."""
    node = scope.kernel.anchor
    assert node is not None
    precision = scope.gpu.precision
    if goes_to_tensor_cores(scope, precision):
        return warp_convolution(scope, precision)
    groups, channels, outputs = geometry(node)
    every = [p for p in phases(node) if prod(p.count)]
    first = every[0]
    work = Work(
        places=node.output.shape[0] * prod(first.count),
        channels=outputs,
        steps=max(1, channels * prod(first.taps)),
        groups=groups * len(every),
    )
    tile = decide_tile(scope.choose, work, scope.gpu)
    padded = False
    if prod(first.taps) > 1 and channels % tile.depth:
        padded = scope.choose.one_of("padded", (False, True), _pads_little(channels, tile.depth))
    # Blocks that run at the same time should share the larger operand.
    order = ORDERS[outputs * work.steps * groups > node.inputs[0].size]
    order = scope.choose.one_of("order", ORDERS, order)
    scope.notes["tile"] = tile.numbers
    products = [
        _Product(scope, node, phase, tile, steps_of(node, phase, tile.depth, padded), order)
        for phase in every
    ]
    shared = scope.shared(tile.shared_floats)

    def block(number: Expr, thread: Expr) -> Stmt:
        last = len(products) - 1
        starts = [sum(p.blocks for p in products[:k]) for k in range(last + 1)]
        made = products[last].body(number - starts[last], thread, shared)
        for k in reversed(range(last)):
            here = products[k].body(number - starts[k], thread, shared)
            made = tirx.IfThenElse(number < starts[k + 1], here, made)
        return seq(tirx.AllocBuffer(shared), made)

    return scope.launch((sum(p.blocks for p in products),), (tile.threads,), block)


def _pads_little(channels: int, depth: int) -> bool:
    """Whether whole stages of every tap waste less than a division for each element costs."""
    return -channels % depth * 16 <= channels


@dataclass(frozen=True, eq=False)
class _Product:
    """One phase of a convolution."""

    scope: GpuScope
    node: Node
    phase: Phase
    tile: Tile
    steps: Steps
    order: str

    @property
    def tiles(self) -> tuple[int, int, int]:
        """How many there are: groups, along the places, along the channels of a group."""
        groups, _, outputs = geometry(self.node)
        places = self.node.output.shape[0] * prod(self.phase.count)
        return groups, -(-places // self.tile.places), -(-outputs // self.tile.channels)

    @property
    def blocks(self) -> int:
        """As many as there are tiles."""
        return prod(self.tiles)

    def body(self, number: Expr, thread: Expr, shared: Any) -> Stmt:
        """What one thread does; `number` counts the blocks of this phase."""
        groups, rows, columns = self.tiles
        if self.order == "channels":
            return with_indices(
                self.scope,
                number,
                (groups, rows, columns),
                lambda g, r, c: self._tile(g, r, c, thread, shared),
            )
        return with_indices(
            self.scope,
            number,
            (groups, columns, rows),
            lambda g, c, r: self._tile(g, r, c, thread, shared),
        )

    def _tile(self, group: Expr, rows: Expr, columns: Expr, thread: Expr, shared: Any) -> Stmt:
        """A tile of results: a stage is multiplied while the next one is on its way."""
        scope, tile, stages = self.scope, self.tile, self.steps.stages
        results = Results(scope, self.node, self.phase, tile, thread, shared)
        write = results.write(group, rows, columns)
        if not stages:  # a transposed convolution may have outputs that nothing reaches
            return seq(results.start(), write)
        what = scope, self.node, self.phase, tile, self.steps, thread, shared, group
        read = channel_inputs if reads_channels(scope, self.node, self.steps) else inputs
        left, right = read(*what, rows), weights(*what, columns)

        def begin(stage: Expr) -> Expr:
            return stage % 2 * tile.stage

        def load(stage: Expr) -> Stmt:
            return seq(left.load(stage), right.load(stage))

        def keep(stage: Expr) -> Stmt:
            return seq(left.keep(begin(stage)), right.keep(begin(stage)))

        def one(stage: Expr) -> Stmt:
            def more(body: Any) -> Stmt | None:
                made = scope.bound(stages, stage + 1, "next", body)
                return scope.when(stage + 1 < stages, made)

            return seq(more(load), results.multiply(begin(stage)), more(keep), scope.sync())

        return seq(
            left.before,
            right.before,
            results.start(),
            load(i32(0)),
            keep(i32(0)),
            scope.sync(),
            scope.loop(stages, one, name="stage"),
            write,
        )
