"""How a block of a convolution brings its operands to shared memory, a stage at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from alt.elementary import Expr, f32
from alt.graph import Node
from alt.operators import delinear
from alt.sketches.gpu.block_tile import VECTOR, Tile
from alt.sketches.gpu.grid import either, or_zero
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, seq
from alt.sketches.windows import Phase, geometry, taps_of_phase
from primitives import Layout
from primitives.tensorir import ir, tirx


@dataclass(frozen=True, eq=False)
class Operand:
    """One of the two operands of a block.

    Attributes:
        before: what a thread works out once.
        load: reads this thread's share of a stage into registers, given the stage's number.
        keep: writes it from there to shared memory, given where the stage begins.
    """

    before: Stmt
    load: Callable[[Expr], Stmt]
    keep: Callable[[Expr], Stmt]


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


def weights(
    scope: GpuScope,
    node: Node,
    phase: Phase,
    tile: Tile,
    steps: Steps,
    thread: Expr,
    shared: Any,
    group: Expr,
    columns: Expr,
) -> Operand:
    """Weights [group][step][output channel], packed when compiled, zeros behind the last of each.

    Neighbouring threads read neighbouring channels, a vector each.
    """
    groups, channels, outputs = geometry(node)

    def steps_first(weight: np.ndarray) -> np.ndarray:
        taken = taps_of_phase(node, phase, weight).transpose(0, 3, 2, 1)
        taken = np.pad(taken, ((0, 0), (0, 0), (0, steps.stride - channels), (0, 0)))
        return np.ascontiguousarray(taken).reshape(groups, steps.count, outputs)

    layout = Layout.identity((groups, steps.count, outputs))
    layout = layout.pad(1, 0, -steps.count % tile.depth).pad(2, 0, -outputs % tile.channels)
    key = phase.kernel_first, phase.kernel_step, phase.taps, steps.stride
    packed = scope.buffer(node.inputs[1], layout, (f"{node.op}{groups},{key} steps", steps_first))
    _, depth, width = layout.shape
    across = tile.channels // VECTOR
    count = tile.depth * across
    kept = scope.local(-(-count // tile.threads) * VECTOR, name="weights")

    def load(stage: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            row = group * depth + stage * tile.depth + position // across
            at = row * width + columns * tile.channels + position % across * VECTOR
            return copy(scope, VECTOR, packed, at, kept, i * VECTOR)

        return shared_out(scope, tile, count, thread, part)

    def keep(begin: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            at = begin + tile.depth * tile.places + position * VECTOR
            return copy(scope, VECTOR, kept, i * VECTOR, shared, at)

        return shared_out(scope, tile, count, thread, part)

    return Operand(tirx.AllocBuffer(kept), load, keep)


def inputs(
    scope: GpuScope,
    node: Node,
    phase: Phase,
    tile: Tile,
    steps: Steps,
    thread: Expr,
    shared: Any,
    group: Expr,
    rows: Expr,
) -> Operand:
    """The input that the places of a tile read, 0 outside the image.

    A thread has the same place at every step, or the same vector of places, and neighbours have
    neighbouring places: what depends on the place alone is worked out once.
    """
    x = node.inputs[0]
    image = prod(phase.count)
    places = node.output.shape[0] * image
    lanes = VECTOR if _reads_vectors(scope, node, phase, tile) else 1
    down = tile.places // lanes
    count = tile.depth * down
    kept = scope.local(-(-count // tile.threads) * lanes, name="inputs")
    _, channels, _ = geometry(node)
    simplify = scope.analyzer.simplify
    row = simplify(rows * down + thread % down)
    n, q = tirx.Var("n", "int32"), tirx.Var("q", "int32")
    before: list[Stmt] = [
        tirx.AllocBuffer(kept),
        tirx.Bind(n, row // (image // lanes)),
        tirx.Bind(q, row % (image // lanes)),
    ]
    scope.analyzer.bind(q, ir.Range(0, image // lanes))
    corner = corner_of(scope, phase, q, before) if lanes == 1 else []

    def element(i: Expr, channel: Expr, tap: Expr, guards: list[Expr]) -> Stmt:
        taps = delinear(tap, phase.taps)
        at = [c + t * d for c, t, d in zip(corner, taps, phase.dilation, strict=True)]
        for p, extent in zip(at, x.shape[2:], strict=True):
            guards += [p >= 0, p < extent]
        value = scope.load(x, [n, group * channels + channel, *map(simplify, at)])
        return tirx.BufferStore(kept, or_zero(scope, tirx.all(*guards), value), [i])

    def vector(i: Expr, channel: Expr, guards: list[Expr]) -> Stmt:
        def lane(k: Expr) -> Stmt:
            at = delinear(q * lanes + k, phase.count)
            value = scope.load(x, [n, group * channels + channel, *at])
            return tirx.BufferStore(kept, value, [i * lanes + k])

        def nothing(k: Expr) -> Stmt:
            return tirx.BufferStore(kept, f32(0.0), [i * lanes + k])

        read, zero = (scope.loop(lanes, f, VECTORIZED) for f in (lane, nothing))
        return either(scope, tirx.all(*guards), read, zero)

    def load(stage: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            step = simplify(stage * tile.depth + position // down)
            channel, tap = simplify(step % steps.stride), simplify(step // steps.stride)
            guards: list[Expr] = []
            if places % tile.places:
                guards.append(row < places // lanes)
            if steps.stride != channels:
                guards.append(channel < channels)
            if steps.count % tile.depth:
                guards.append(step < steps.count)
            guards = guards or [tirx.const(True)]
            if lanes == 1:
                return element(i, channel, tap, guards)
            return vector(i, channel, guards)

        return shared_out(scope, tile, count, thread, part)

    def keep(begin: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            return copy(scope, lanes, kept, i * lanes, shared, begin + position * lanes)

        return shared_out(scope, tile, count, thread, part)

    return Operand(seq(*before), load, keep)


def corner_of(scope: GpuScope, phase: Phase, place: Expr, before: list[Stmt]) -> list[Expr]:
    """Where the window of a place begins along each spatial axis; may be outside the image.

    Args:
        scope: the kernel.
        phase: of the convolution.
        place: of one image, counted by rows.
        before: gets the statements that name what is found.
    """
    corner: list[Expr] = []
    for at, extent, stride, offset in zip(
        delinear(place, phase.count), phase.count, phase.stride, phase.offset, strict=True
    ):
        corner.append(tirx.Var("corner", "int32"))
        before.append(tirx.Bind(corner[-1], scope.analyzer.simplify(at * stride + offset)))
        end = (extent - 1) * stride + offset + 1
        scope.analyzer.bind(corner[-1], ir.Range(offset, end))
    return corner


def _reads_vectors(scope: GpuScope, node: Node, phase: Phase, tile: Tile) -> bool:
    """Whether neighbouring places read neighbours in memory at every step."""
    x = node.inputs[0]
    ones, zeros = (1,) * len(phase.taps), (0,) * len(phase.taps)
    pointwise = (phase.taps, phase.stride, phase.offset) == (ones, ones, zeros)
    flat = pointwise and phase.count == x.shape[2:] and scope.layout(x).is_identity
    # Fewer vectors than threads would leave threads without any.
    enough = tile.depth * tile.places >= VECTOR * tile.threads
    return flat and prod(phase.count) % VECTOR == 0 and enough


def copy(scope: GpuScope, lanes: int, source: Any, at: Expr, target: Any, to: Expr) -> Stmt:
    """Copy some neighbouring elements at once."""

    def lane(k: Expr) -> Stmt:
        return tirx.BufferStore(target, tirx.BufferLoad(source, [at + k]), [to + k])

    return scope.loop(lanes, lane, VECTORIZED)


def shared_out(
    scope: GpuScope, tile: Tile, count: int, thread: Expr, body: Callable[[Expr, Expr], Stmt]
) -> Stmt:
    """A thread's part of what a block stages: (which of its own, which of all)."""

    def one(i: Expr) -> Stmt:
        position = i * tile.threads + thread
        made = body(i, position)
        even = count % tile.threads == 0
        return made if even else tirx.IfThenElse(position < count, made, None)

    return scope.loop(-(-count // tile.threads), one, UNROLLED, "share")
