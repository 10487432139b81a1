"""How a block of a convolution brings its operands to shared memory, a stage at a time.

The weights are here; the input is in `alt.sketches.gpu.gather` and `alt.sketches.gpu.channels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from alt.elementary import Expr
from alt.graph import Node
from alt.sketches.gpu import copies
from alt.sketches.gpu.block_tile import VECTOR, Tile
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, seq
from alt.sketches.windows import Phase, geometry, taps_of_phase
from primitives import Layout
from primitives.tensorir import tirx


@dataclass(frozen=True, eq=False)
class Operand:
    """One of the two operands of a block.

    Attributes:
        before: what a thread works out once.
        load: reads this thread's share of a stage into registers, given the stage's number and
            where it will begin in shared memory; or starts to copy it to there.
        keep: writes it from registers to shared memory, given where the stage begins; None if it
            is copied.
    """

    before: Stmt
    load: Callable[[Expr, Expr], Stmt]
    keep: Callable[[Expr], Stmt] | None


@dataclass(frozen=True)
class Steps:
    """The reduction of a phase: taps, and the channels of each, rounded up or not.

    Attributes:
        taps: of the phase.
        channels: input channels of a group.
        stride: steps from one tap to the next.
        depth: steps of a stage.
    """

    taps: int
    channels: int
    stride: int
    depth: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.taps * self.stride

    @property
    def stages(self) -> int:
        """In how many stages."""
        return -(-self.count // self.depth)


def steps_of(node: Node, phase: Phase, depth: int, padded: bool) -> Steps:
    """The reduction of a phase; `padded` lets every tap begin with a stage."""
    _, channels, _ = geometry(node)
    more = -channels % depth if padded else 0
    return Steps(prod(phase.taps), channels, channels + more, depth)


@dataclass(frozen=True, eq=False)
class Staging:
    """What a thread of a block works with when it stages operands.

    Attributes:
        scope: the kernel.
        node: the convolution.
        phase: which part of it.
        tile: what the block computes.
        steps: the reduction.
        thread: which of the block this is.
        shared: the array that holds the stages.
        copied: whether elements go there without passing through registers.
    """

    scope: GpuScope
    node: Node
    phase: Phase
    tile: Tile
    steps: Steps
    thread: Expr
    shared: Any
    copied: bool

    def each(self, count: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """This thread's part of what the block stages: (which of its own, which of all)."""
        threads = self.tile.threads

        def one(i: Expr) -> Stmt:
            position = i * threads + self.thread
            made = body(i, position)
            even = count % threads == 0
            return made if even else tirx.IfThenElse(position < count, made, None)

        return self.scope.loop(-(-count // threads), one, UNROLLED, "share")

    def keep(
        self, kept: Any, count: int, lanes: int, where: Callable[[Expr, Expr], Expr]
    ) -> Callable[[Expr], Stmt]:
        """Writes this thread's part of `count` vectors to shared memory.

        Args:
            kept: the registers that hold it.
            count: of all threads.
            lanes: elements of a vector.
            where: in a stage one is written, given what `each` gives.
        """

        def keep(begin: Expr) -> Stmt:
            def part(i: Expr, position: Expr) -> Stmt:
                at = begin + where(i, position)
                return copy(self.scope, lanes, kept, i * lanes, self.shared, at)

            return self.each(count, part)

        return keep


def weights(staging: Staging, group: Expr, columns: Expr) -> Operand:
    """Weights, packed when compiled such that a stage is contiguous, zeros behind the last of each.

    Neighbouring threads read neighbours, a vector each.

    Shape:
        [group][tile of output channels][step][output channel].
    """
    scope, tile, steps = staging.scope, staging.tile, staging.steps
    node, phase = staging.node, staging.phase
    groups, channels, outputs = geometry(node)

    def steps_first(weight: np.ndarray) -> np.ndarray:
        taken = taps_of_phase(node, phase, weight).transpose(0, 3, 2, 1)
        taken = np.pad(taken, ((0, 0), (0, 0), (0, steps.stride - channels), (0, 0)))
        return np.ascontiguousarray(taken).reshape(groups, steps.count, outputs)

    layout = Layout.identity((groups, steps.count, outputs))
    layout = layout.pad(1, 0, -steps.count % tile.depth).pad(2, 0, -outputs % tile.channels)
    layout = layout.split(2, (-1, tile.channels)).reorder((0, 2, 1, 3))
    key = phase.kernel_first, phase.kernel_step, phase.taps, steps.stride
    packed = scope.buffer(node.inputs[1], layout, (f"{node.op}{groups},{key} steps", steps_first))
    _, tiles, depth, _ = layout.shape
    across = tile.channels // VECTOR
    count = tile.depth * across
    first = tile.depth * tile.places

    def at(stage: Expr, position: Expr) -> Expr:
        """In vectors, so that TVM sees that they are aligned."""
        step = (group * tiles + columns) * depth + stage * tile.depth
        return (step * across + position) * VECTOR

    def where(_: Expr, position: Expr) -> Expr:
        """In a stage."""
        return first + position * VECTOR

    if staging.copied:

        def start(stage: Expr, begin: Expr) -> Stmt:
            def part(i: Expr, position: Expr) -> Stmt:
                to = staging.shared, begin + where(i, position)
                load = tirx.BufferLoad(packed, [at(stage, staging.thread)])
                further = i * (tile.threads * VECTOR)
                return copies.copy(to, load, tirx.const(True, "bool"), VECTOR, further)

            return staging.each(count, part)

        return Operand(seq(), start, None)

    kept = scope.local(-(-count // tile.threads) * VECTOR, name="weights")

    def load(stage: Expr, begin: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            return copy(scope, VECTOR, packed, at(stage, position), kept, i * VECTOR)

        return staging.each(count, part)

    return Operand(tirx.AllocBuffer(kept), load, staging.keep(kept, count, VECTOR, where))


def copy(scope: GpuScope, lanes: int, source: Any, at: Expr, target: Any, to: Expr) -> Stmt:
    """Copy some neighbouring elements at once."""

    def lane(k: Expr) -> Stmt:
        return tirx.BufferStore(target, tirx.BufferLoad(source, [at + k]), [to + k])

    return scope.loop(lanes, lane, VECTORIZED)
