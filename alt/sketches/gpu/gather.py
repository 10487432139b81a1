"""How a block of a convolution brings the input to shared memory: what some places read.

Where a step of the reduction reads is a sum: where the window of a place begins, and how far from
there its tap and its channel are. Which taps of a place are inside the image is known from the
start, as bits; a table has where each tap reads, and which bits it needs.

Source:
    CUTLASS, implicit GEMM convolution, forward, optimized and few-channels iterators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alt.elementary import Expr
from alt.operators import delinear
from alt.sketches.gpu.grid import either
from alt.sketches.gpu.place import Place, Read, Reads, place_of, reading
from alt.sketches.gpu.separable import separable
from alt.sketches.gpu.staging import Operand, Staging, copy
from alt.sketches.gpu.tap_bits import MOST_BITS, bits_needed, bits_there, leaving
from alt.sketches.scope import Stmt, i32, seq
from alt.sketches.windows import geometry
from primitives import Layout
from primitives.tensorir import tirx

Opened = Callable[[Reads], Stmt]


def inputs(staging: Staging, group: Expr, rows: Expr) -> Operand:
    """The input that the places of a tile read, 0 outside the image.

    A thread has the same place at every step, or the same vector of places, and neighbours have
    neighbouring places.

    Args:
        staging: who does it.
        group: of the convolution.
        rows: which tile of places it is.
    """
    place, steps = place_of(staging, rows), staging.steps
    images = strides_of(staging)
    window = Window(staging, place, images, group) if images else None
    if window is None or window.bits > MOST_BITS:
        return _anywhere(staging, place, group)
    if steps.taps == 1 or steps.stride % steps.depth == 0:
        return _tap_by_tap(window)
    return _step_by_step(window)


def strides_of(staging: Staging) -> tuple[int, ...] | None:
    """How far neighbours along each axis of the input are apart, and behind that where it begins.

    None if that is not the same everywhere.
    """
    x = staging.node.inputs[0]
    rank = len(x.shape)
    found = separable(staging.scope.layout(x), range(rank))
    if found is None:
        return None
    strides = (found.stride(axis) for axis in range(rank))
    return (*(s for s in strides if s is not None), found.origin)


@dataclass(frozen=True, eq=False)
class Window:
    """What a thread reads for its place, where addresses are sums.

    Attributes:
        staging: who does it.
        place: for which it reads.
        images: the input, by `strides_of`.
        group: of the convolution.
    """

    staging: Staging
    place: Place
    images: tuple[int, ...]
    group: Expr

    @property
    def channels(self) -> int:
        """Of a group."""
        _, channels, _ = geometry(self.staging.node)
        return channels

    @property
    def channel_stride(self) -> int:
        """From one channel to the next, in vectors."""
        return self.images[1] // self.place.lanes

    @property
    def axes(self) -> list[int]:
        """The spatial axes along which some tap of some place is outside the image."""
        return leaving(self.staging.node, self.staging.phase) if self.place.corner else []

    @property
    def bits(self) -> int:
        """Of a mask: one for every tap along `axes`, one for the place, one that no place has."""
        return sum(self.staging.phase.taps[d] for d in self.axes) + 2

    def start(self, channel: Expr) -> Expr:
        """Where the first tap of the place reads a channel, in vectors."""
        lanes = self.place.lanes
        batch, each, *spatial, origin = self.images
        assert batch % lanes == 0 and each % lanes == 0 and origin % lanes == 0, self.images
        found = origin // lanes + self.place.image * (batch // lanes)
        found = found + (self.group * self.channels + channel) * self.channel_stride
        if not self.place.corner:
            return found + self.place.number
        for corner, stride in zip(self.place.corner, spatial, strict=True):
            found = found + corner * stride
        return self.staging.scope.analyzer.simplify(found)

    def missing(self) -> Expr:
        """The bits that the place does not have."""
        staging = self.staging
        there, shift = bits_there(staging.node, staging.phase, self.axes, self.place.corner)
        here = i32(1 << shift)
        if self.place.exists is not None:
            here = tirx.Select(self.place.exists, here, i32(0))
        return staging.scope.analyzer.simplify(i32((4 << shift) - 1) - there - here)

    def reads_of(self, tap: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """What some channels of taps read: how far from the first of both, and the bits they need.

        Channels that do not exist need a bit that no place has.

        Shape:
            (as many; 2), int32.
        """
        phase = self.staging.phase
        made = np.zeros((len(tap), 2), np.int64)
        made[:, 0] = channel * self.images[1]
        taps = np.unravel_index(tap, phase.taps)
        for d, t in enumerate(taps):
            made[:, 0] += t * phase.dilation[d] * self.images[2 + d]
        made[:, 1], shift = bits_needed(phase, self.axes, taps)
        made[:, 1] += (1 << shift) + (channel >= self.channels) * (2 << shift)
        return made.astype(np.int32)

    def table(self, kind: str, made: np.ndarray) -> Any:
        """Numbers by which this window reads, as a constant of the kernel."""
        s, phase = self.staging, self.staging.phase
        key = phase.taps, phase.dilation, self.axes, self.images, s.steps.stride, s.steps.depth
        name = f"reads of {kind} {key}"
        layout = Layout.identity(made.shape)
        return s.scope.buffer(
            s.node.inputs[1], layout, (name, lambda _: made.astype(np.int32).view(np.float32))
        )


def _tap_by_tap(window: Window) -> Operand:
    """All steps of a stage have the same tap.

    What a thread reads of a stage is a number of channels apart, and exists or not at all; but for
    the channels that fill the last stage of a tap.
    """
    s, tile = window.staging, window.staging.tile
    scope, stages = s.scope, s.steps.stages
    place, own = window.place, window.place.first_step
    taps, channels = s.steps.taps, window.channels
    start, missing = tirx.Var("start", "int32"), tirx.Var("missing", "int32")
    first = np.arange(stages + 1) % (stages // taps) * tile.depth
    tap = np.minimum(np.arange(stages + 1) // (stages // taps), taps - 1)
    entries = np.zeros((stages + 1, 4), np.int32)
    entries[:, :2] = window.reads_of(tap, first)
    entries[:, 2] = channels - first
    rounded = bool((entries[:, 2] < tile.depth).any())
    width = 4 if rounded else 2
    before = [tirx.Bind(start, window.start(own)), tirx.Bind(missing, window.missing())]
    entry = scope.local(width, name="entry")
    if taps > 1:
        table = window.table("taps", entries[:, :width])
        # The next entry is read while this one is used.
        before += [tirx.AllocBuffer(entry), copy(scope, width, table, i32(0), entry, i32(0))]

    def opened(stage: Expr, every: Opened) -> Stmt:
        if taps > 1:
            offset, bits, *left = (
                tirx.reinterpret("int32", tirx.BufferLoad(entry, [i32(k)])) for k in range(width)
            )
            after = copy(scope, width, table, (stage + 1) * width, entry, i32(0))
        else:
            offset, bits = stage * (tile.depth * window.channel_stride), i32(int(entries[0, 1]))
            left, after = [channels - stage * tile.depth], None
        here, there = tirx.Var("here", "int32"), tirx.Var("there", "bool")
        named = [
            tirx.Bind(here, start + offset),
            tirx.Bind(there, tirx.bitwise_and(bits, missing).equal(i32(0))),
        ]

        def whole(i: Expr) -> Read:
            return Read(here, i * (place.apart * window.channel_stride), there)

        def some(i: Expr) -> Read:
            exists = own + i * place.apart < left[0]
            return Read(here, whole(i).further, tirx.all(exists, there))

        made = either(scope, left[0] >= tile.depth, every(whole), every(some)) if rounded else None
        return seq(*named, made or every(whole), after)

    return reading(s, place, before, opened)


def _step_by_step(window: Window) -> Operand:
    """Steps of a stage have different taps."""
    s, place = window.staging, window.place
    tile, steps = s.tile, s.steps
    count = tile.depth * place.down
    number = np.arange(steps.stages * steps.depth)
    tap = np.minimum(number // steps.stride, steps.taps - 1)
    channel = np.where(number < steps.count, number % steps.stride, window.channels)
    table = window.table("steps", window.reads_of(tap, channel))
    start, missing = tirx.Var("start", "int32"), tirx.Var("missing", "int32")
    entries = s.scope.local(2 * -(-count // tile.threads), name="entries")
    before = [
        tirx.Bind(start, window.start(i32(0))),
        tirx.Bind(missing, window.missing()),
        tirx.AllocBuffer(entries),
    ]

    def opened(stage: Expr, every: Opened) -> Stmt:
        first = s.scope.analyzer.simplify(stage * tile.depth + place.first_step)

        def entry(i: Expr, position: Expr) -> Stmt:
            return copy(s.scope, 2, table, (first + i * place.apart) * 2, entries, i * 2)

        def read(i: Expr) -> Read:
            offset, bits = (
                tirx.reinterpret("int32", tirx.BufferLoad(entries, [i * 2 + k])) for k in range(2)
            )
            there = tirx.bitwise_and(bits, missing).equal(i32(0))
            return Read(start + offset, i32(0), there)

        return seq(s.each(count, entry), every(read))

    return reading(s, place, before, opened)


def _anywhere(staging: Staging, place: Place, group: Expr) -> Operand:
    """Each element is found by itself, however the input is stored."""
    s, scope, steps = staging, staging.scope, staging.steps
    assert place.lanes == 1, "neighbours are not known to lie side by side"
    x = s.node.inputs[0]
    _, channels, _ = geometry(s.node)
    simplify = scope.analyzer.simplify

    def opened(stage: Expr, every: Opened) -> Stmt:
        def read(i: Expr) -> Read:
            step = simplify(stage * steps.depth + place.first_step + i * place.apart)
            channel, tap = simplify(step % steps.stride), simplify(step // steps.stride)
            guards = [place.exists] if place.exists is not None else []
            if steps.stride != channels:
                guards.append(channel < channels)
            if steps.count % steps.depth:
                guards.append(step < steps.count)
            taps = delinear(tap, s.phase.taps)
            at = [c + t * d for c, t, d in zip(place.corner, taps, s.phase.dilation, strict=True)]
            for p, extent in zip(at, x.shape[2:], strict=True):
                guards += [p >= 0, p < extent]
            indices = [place.image, group * channels + channel, *map(simplify, at)]
            return Read(scope.address(scope.layout(x), indices), i32(0), tirx.all(*guards))

        return every(read)

    return reading(s, place, [], opened)
