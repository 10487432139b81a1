"""Panels of a convolution's input: what some places read at some steps, gathered by threads."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from alt.elementary import Expr
from alt.graph import Node
from alt.operators import delinear
from alt.sketches.gpu.matrix_panel import bank_pad
from alt.sketches.gpu.panel import Found, Panel, Part
from alt.sketches.gpu.product import LANES, Along
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.separable import Separable
from alt.sketches.gpu.staging import Steps
from alt.sketches.gpu.step_table import table_of
from alt.sketches.gpu.tap_bits import bits_there, leaving
from alt.sketches.gpu.tiling import Precision, Tile
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from alt.sketches.windows import Phase, geometry
from primitives.tensorir import tirx


@dataclass(frozen=True, eq=False)
class Patches(Panel):
    """What the places of a block read at some steps of the reduction, 0 outside the image.

    A thread reads for the same few places at every step: where they lie is worked out once.

    Attributes:
        scope: the kernel.
        node: the convolution.
        phase: which part of it.
        steps: its reduction.
        images: how the input is stored.
        starts: a thread's places: what they add to an address, divided by `lanes`.
        corners: what the first tap reads there, an index for each axis.
        reads: where they read in a part, divided by `lanes`; for `steps` whose parts have one tap.
        there: whether that lies in the image.
        missing: which taps of theirs do not, as bits; where parts have several taps.
        table: where each step reads, see `step_table`; None if all of a part have one tap.
    """

    scope: GpuScope
    node: Node
    phase: Phase
    steps: Steps
    images: Separable
    starts: Any
    corners: Any
    reads: Any
    there: Any
    missing: Any
    table: Any

    @property
    def piece(self) -> tuple[int, int]:
        """See `Panel.piece`: what is turned is read one by one, and written as a vector."""
        if self.along == "outer" and self.contiguous == "depth":
            words = max(1, min(LANES, self.outer * self.deep // self.threads))
            return 1, self.packed * words
        return super().piece

    def before(self, thread: Expr, part: Part) -> Stmt:
        """See `Panel.before`."""
        scope, phase = self.scope, self.phase
        lanes = self.lanes if self.along == "outer" else 1
        image = prod(phase.count) // lanes
        last = self.node.output.shape[0] * image - 1

        def place(slot: Expr) -> Stmt:
            number = slot * self.threads + thread
            outer = number // self.row if self.along == "depth" else number % self.row
            # Places behind the last are computed like it, and not written.
            where = tirx.min(part.outer // lanes + outer, i32(last))
            return scope.bound(last + 1, where, "place", lambda p: of_place(slot, p))

        def of_place(slot: Expr, number: Expr) -> Stmt:
            at = delinear(number % image * lanes, phase.count)
            stored: list[Stmt] = []
            start = self.images.term(scope, 0, number // image) + self.images.origin
            for d, q in enumerate(at):
                corner = tirx.BufferLoad(self.corners, [slot * len(at) + d])
                found = q * phase.stride[d] + phase.offset[d]
                stored.append(tirx.BufferStore(self.corners, found, [slot * len(at) + d]))
                start = start + self.images.term(scope, 2 + d, corner)
            start = scope.analyzer.simplify(start)
            stored.append(tirx.BufferStore(self.starts, _divided(start, self.lanes), [slot]))
            if self.table is not None:
                stored.append(tirx.BufferStore(self.missing, self._missing(slot), [slot]))
            return seq(*stored)

        arrays = (self.starts, self.corners, self.reads, self.there, self.missing)
        made = scope.loop(int(self.starts.shape[0]), place, UNROLLED, "slot")
        return seq(*map(tirx.AllocBuffer, arrays), made)

    def opened(self, part: Part) -> Stmt | None:
        """See `Panel.opened`."""
        if self.table is not None:
            return None
        tap = self.scope.analyzer.simplify(part.term // self.steps.stride)

        def place(slot: Expr) -> Stmt:
            start, guards = self._at(slot, tap)
            if part.tails[1]:
                guards.append(part.term < self.steps.count)
            there = tirx.all(*guards) if guards else tirx.const(True, "bool")
            return seq(
                tirx.BufferStore(self.reads, _divided(start, self.lanes), [slot]),
                tirx.BufferStore(self.there, there, [slot]),
            )

        return self.scope.loop(int(self.starts.shape[0]), place, UNROLLED, "slot")

    def found(self, part: Part, piece: Expr, outer: Expr, term: Expr) -> Found:
        """See `Panel.found`."""
        simplify, steps = self.scope.analyzer.simplify, self.steps
        slots = int(self.starts.shape[0])
        slot = piece if self.along == "depth" else piece % slots
        group = part.batch[0]
        if self.table is None:
            _, channels, _ = geometry(self.node)
            channel = simplify(part.term % steps.stride + term)
            guards = [tirx.BufferLoad(self.there, [slot])]
            if steps.stride != channels:
                guards.append(channel < channels)
            of_channel = self.images.term(self.scope, 1, group * channels + channel)
            address = tirx.BufferLoad(self.reads, [slot]) * self.lanes + simplify(of_channel)
        else:
            address, guards = self._by_table(slot, group, simplify(part.term + term))
        x = self.node.inputs[0]
        source = self.scope.buffer(x, self.scope.layout(x))
        return tirx.all(*guards), lambda lane: tirx.BufferLoad(source, [address + lane])

    def _missing(self, slot: Expr) -> Expr:
        """The bits that a place does not have, by `alt.sketches.gpu.step_table`."""
        axes = range(len(self.phase.count))
        corner = [tirx.BufferLoad(self.corners, [slot * len(axes) + d]) for d in axes]
        leave = leaving(self.node, self.phase)
        there, shift = bits_there(self.node, self.phase, leave, corner)
        return i32((2 << shift) - 1) - there

    def _by_table(self, slot: Expr, group: Expr, step: Expr) -> tuple[Expr, list[Expr]]:
        """Where a place reads at a step, and whether that is in the image."""
        _, steps, width = (int(e) for e in self.table[1].shape)

        def entry(k: int) -> Expr:
            at = (group * steps + step) * width + k
            return tirx.reinterpret("int32", tirx.BufferLoad(self.table[0], [at]))

        missing = tirx.BufferLoad(self.missing, [slot])
        start = tirx.BufferLoad(self.starts, [slot]) + _divided(entry(0), self.lanes)
        return start * self.lanes, [tirx.bitwise_and(entry(1), missing).equal(i32(0))]

    def _at(self, slot: Expr, tap: Expr) -> tuple[Expr, list[Expr]]:
        """Where a place reads with a tap, and what of that may be outside of the image."""
        phase, extents = self.phase, self.node.inputs[0].shape[2:]
        start = tirx.BufferLoad(self.starts, [slot]) * self.lanes
        guards: list[Expr] = []
        for d, t in enumerate(delinear(tap, phase.taps)):
            step = t * phase.dilation[d]
            start = start + self.images.term(self.scope, 2 + d, step)
            at = tirx.BufferLoad(self.corners, [slot * len(extents) + d]) + step
            if d in leaving(self.node, phase):
                guards.append(tirx.Cast("uint32", at) < tirx.const(extents[d], "uint32"))
        return self.scope.analyzer.simplify(start), guards


def patches(
    scope: GpuScope,
    node: Node,
    phase: Phase,
    steps: Steps,
    images: Separable,
    outer: int,
    tile: Tile,
    precision: Precision,
    padded: bool,
) -> Patches:
    """How the input is kept in shared memory.

    Args:
        scope: the kernel.
        node: the convolution.
        phase: which part of it.
        steps: its reduction; `depth` as that of the tile.
        images: how the input is stored.
        outer: places of a block.
        tile: what the block works on.
        precision: what is multiplied.
        padded: whether threads are kept from waiting for the same bank.
    """
    along, lanes = reading(node, phase, images, steps)
    # What passes through registers one by one can be turned there.
    turned = lanes == 1 and not tile.copies
    contiguous: Along = "depth" if turned else along
    pad = bank_pad(contiguous, outer, tile.depth, precision) if padded else 0
    given = along, outer, tile.depth, tile.team, precision, contiguous, pad, lanes, tile.copies
    plain = Patches(*given, scope, node, phase, steps, images, None, None, None, None, None, None)
    slots = plain.each if along == "depth" else max(1, plain.row // tile.team)
    axes = len(phase.count)
    return Patches(
        *given,
        scope,
        node,
        phase,
        steps,
        images,
        scope.local(slots, "int32", "starts"),
        scope.local(slots * axes, "int32", "corners"),
        scope.local(slots, "int32", "reads"),
        scope.local(slots, "bool", "there"),
        scope.local(slots, "int32", "missing"),
        table_of(scope, node, phase, steps, images, tile) if steps.stride % tile.depth else None,
    )


def reading(node: Node, phase: Phase, images: Separable, steps: Steps) -> tuple[Along, int]:
    """Along which axis neighbours are read, and how many at once: channels, or places."""
    x = node.inputs[0]
    _, channels, _ = geometry(node)
    if x.shape[1] > 1 and images.terms(1)[1] - images.origin == 1:
        wide = images.lanes(1, channels) if steps.stride % LANES == 0 else 1
        return "depth", wide if wide == LANES else 1
    ones = (1,) * len(phase.taps)
    flat = (phase.taps, phase.stride) == (ones, ones) and not any(phase.offset)
    image = prod(phase.count)
    strides = [images.stride(2 + d) for d in range(len(phase.count))]
    in_rows = strides == [prod(phase.count[d + 1 :]) for d in range(len(phase.count))]
    if not (flat and in_rows and phase.count == x.shape[2:] and image % LANES == 0):
        return "outer", 1
    others = [images.terms(0), images.terms(1)]
    return "outer", 1 if any((terms % LANES).any() for terms in others) else LANES


def _divided(address: Expr, lanes: int) -> Expr:
    """An address in vectors: a number that is multiplied is seen to be a multiple."""
    return address if lanes == 1 else address // lanes
