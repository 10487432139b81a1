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

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from alt.elementary import Expr
from alt.graph import Node
from alt.sketches.gpu.block_tile import (
    ALONE,
    SIDE_BY_SIDE,
    VECTOR,
    Tile,
    Work,
    decide_ahead,
    decide_tile,
    estimate_cycles,
    most_ahead,
)
from alt.sketches.gpu.channels import channel_inputs, reads_channels
from alt.sketches.gpu.copies import await_groups, close_group
from alt.sketches.gpu.gather import inputs
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.place import reads_flat
from alt.sketches.gpu.results import Results
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import Operand, Staging, Steps, steps_of, weights
from alt.sketches.gpu.warp_conv import goes_to_tensor_cores, warp_convolution
from alt.sketches.scope import Stmt, i32, seq
from alt.sketches.windows import Phase, geometry, has_packed_weights, phases
from primitives.tensorir import tirx

ORDERS = ("channels", "places")
"""Which tiles neighbouring blocks work on: those of other channels, or of other places."""

Operands = tuple[Operand, Operand]

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
    """A convolution of any rank, groups, strides and dilations, whose weights are constants.

    On tensor cores, where the precision allows them and they gain something; else thread by thread.
    """
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
        found=SIDE_BY_SIDE if reads_flat(scope, node, first) else ALONE,
    )
    tile = decide_tile(scope.choose, work, scope.gpu)
    scope.cycles = estimate_cycles(tile, work, scope.gpu)
    padded = False
    if prod(first.taps) > 1 and channels % tile.depth:
        padded = scope.choose.one_of("padded", (False, True), _pads_little(channels, tile.depth))
    # Blocks that run at the same time should share the larger operand.
    order = ORDERS[outputs * work.steps * groups > node.inputs[0].size]
    order = scope.choose.one_of("order", ORDERS, order)
    reduced = [steps_of(node, phase, tile.depth, padded) for phase in every]
    ahead = _decide_ahead(scope, tile, work, reduced)
    scope.notes["tile"] = tile.numbers
    products = [
        _Product(scope, node, phase, tile, steps, order, ahead)
        for phase, steps in zip(every, reduced, strict=True)
    ]
    shared = scope.shared(tile.shared_floats(max(2, ahead + 1)))

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
    """Whether whole stages of every tap waste less than looking up each element costs."""
    return -channels % depth * 16 <= channels


def _decide_ahead(scope: GpuScope, tile: Tile, work: Work, reduced: Sequence[Steps]) -> int:
    """How many stages are copied ahead of the one that is multiplied; 0 if registers hold the next.

    What a thread reads of the input as vectors of channels is turned in registers.
    """
    node = scope.kernel.anchor
    assert node is not None
    turned = any(reads_channels(scope, node, steps) for steps in reduced)
    most = 0 if turned else most_ahead(tile, scope.gpu)
    default = min(most, decide_ahead(tile, work, scope.gpu))
    return scope.choose.one_of("ahead", range(most + 1), default)


@dataclass(frozen=True, eq=False)
class _Product:
    """One phase of a convolution."""

    scope: GpuScope
    node: Node
    phase: Phase
    tile: Tile
    steps: Steps
    order: str
    ahead: int

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
        staging = Staging(
            scope, self.node, self.phase, tile, self.steps, thread, shared, self.ahead > 0
        )
        vectors = reads_channels(scope, self.node, self.steps)
        read = channel_inputs if vectors else inputs
        operands = read(staging, group, rows), weights(staging, group, columns)
        every = self._copied if self.ahead else self._through_registers
        return seq(*(o.before for o in operands), results.start(), every(operands, results), write)

    def _through_registers(self, operands: Operands, results: Results) -> Stmt:
        """All stages: one is multiplied while the next is on its way into registers."""
        scope, stages = self.scope, self.steps.stages

        def begin(stage: Expr) -> Expr:
            return stage % 2 * self.tile.stage

        def load(stage: Expr) -> Stmt:
            return seq(*(o.load(stage, begin(stage)) for o in operands))

        def keep(stage: Expr) -> Stmt:
            return seq(*(o.keep(begin(stage)) for o in operands if o.keep is not None))

        def one(stage: Expr) -> Stmt:
            def more(body: Any) -> Stmt | None:
                made = scope.bound(stages, stage + 1, "next", body)
                return scope.when(stage + 1 < stages, made)

            return seq(more(load), results.multiply(begin(stage)), more(keep), scope.sync())

        first = i32(0)
        return seq(load(first), keep(first), scope.sync(), scope.loop(stages, one, name="stage"))

    def _copied(self, operands: Operands, results: Results) -> Stmt:
        """All stages: one is multiplied while the next ones are copied."""
        scope, stages, ahead, size = self.scope, self.steps.stages, self.ahead, self.tile.stage
        begins = scope.local(2, "int32", "begins")

        def start(stage: Expr, begin: Expr) -> Stmt:
            return seq(*(o.load(stage, begin) for o in operands))

        def one(stage: Expr, here: Expr, there: Expr) -> Stmt:
            # Groups are closed even where they are empty, so that counting them tells which.
            made = scope.bound(stages, stage + ahead, "next", lambda s: start(s, there))
            return seq(
                await_groups(ahead - 1),
                scope.sync(),
                scope.when(stage + ahead < stages, made),
                close_group(),
                results.multiply(here),
            )

        def by_remainder(stage: Expr) -> Stmt:
            here, there = (s % (ahead + 1) * size for s in (stage, stage + ahead))
            return one(stage, here, there)

        def in_turn(stage: Expr) -> Stmt:
            # In vectors, so that TVM sees that they are aligned.
            here, there = tirx.Var("here", "int32"), tirx.Var("there", "int32")
            vectors = size // VECTOR
            last = here.equal(i32(ahead * vectors))
            return seq(
                tirx.Bind(here, tirx.BufferLoad(begins, [0])),
                tirx.Bind(there, tirx.BufferLoad(begins, [1])),
                one(stage, here * VECTOR, there * VECTOR),
                tirx.BufferStore(begins, tirx.Select(last, i32(0), here + vectors), [0]),
                tirx.BufferStore(begins, here, [1]),
            )

        first = [
            seq(start(i32(s), i32(s * size)) if s < stages else None, close_group())
            for s in range(ahead)
        ]
        if ahead + 1 in (2, 4):
            made = scope.loop(stages, by_remainder, name="stage")
        else:  # a division would take longer
            made = seq(
                tirx.AllocBuffer(begins),
                tirx.BufferStore(begins, i32(0), [0]),
                tirx.BufferStore(begins, i32(ahead * size // VECTOR), [1]),
                scope.loop(stages, in_turn, name="stage"),
            )
        # What parts tell each other lies where the last stages are.
        return seq(*first, made, scope.sync() if self.tile.parts > 1 else None)
