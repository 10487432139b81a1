"""Where a thread reads the input of a convolution: its place, and what it reads for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from alt.elementary import Expr, f32
from alt.graph import Node
from alt.operators import delinear
from alt.sketches.gpu import copies
from alt.sketches.gpu.block_tile import VECTOR
from alt.sketches.gpu.grid import either
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import Operand, Staging
from alt.sketches.scope import VECTORIZED, Stmt, seq
from alt.sketches.windows import Phase
from primitives.tensorir import ir, tirx


@dataclass(frozen=True, eq=False)
class Place:
    """The place of a thread, or its vector of neighbouring places.

    Attributes:
        lanes: how many places.
        down: how many vectors of them a tile has.
        image: in which image they lie.
        corner: where the window of the first begins; nothing if its only tap is there itself.
        number: of the vector, in its image.
        exists: whether they do; None if all do.
        before: names all that.
        first_step: which step of a stage a thread reads first.
        apart: how many steps further it reads next.
        kept: where in a stage it writes what it reads first.
    """

    lanes: int
    down: int
    image: Expr
    corner: list[Expr]
    number: Expr
    exists: Expr | None
    before: list[Stmt]
    first_step: Expr
    apart: int
    kept: Expr


def place_of(staging: Staging, rows: Expr) -> Place:
    """The place of a thread in a tile of places, given which tile it is."""
    scope, node, phase, tile = staging.scope, staging.node, staging.phase, staging.tile
    lanes = VECTOR if _reads_vectors(staging) else 1
    image = prod(phase.count) // lanes
    places = node.output.shape[0] * image
    down = tile.places // lanes
    row = scope.analyzer.simplify(rows * down + staging.thread % down)
    n, q = tirx.Var("n", "int32"), tirx.Var("q", "int32")
    before: list[Stmt] = [tirx.Bind(n, row // image), tirx.Bind(q, row % image)]
    scope.analyzer.bind(q, ir.Range(0, image))
    corner = corner_of(scope, phase, q, before) if lanes == 1 else []
    exists = row < places if places % down else None
    # What a thread reads is close together, so that instructions can have the distance in them; and
    # threads of a warp write side by side.
    thread, each = staging.thread, -(-tile.depth * down // tile.threads)
    apart = max(1, 32 // down)
    rows_first = thread // (apart * down) * (apart * each) + thread // down % apart
    first = scope.analyzer.simplify(rows_first)
    kept = scope.analyzer.simplify(first * tile.places + thread % down * lanes)
    return Place(lanes, down, n, corner, q, exists, before, first, apart, kept)


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


def reads_flat(scope: GpuScope, node: Node, phase: Phase) -> bool:
    """Whether neighbouring places read neighbours in memory at every step, in aligned vectors."""
    x = node.inputs[0]
    ones, zeros = (1,) * len(phase.taps), (0,) * len(phase.taps)
    pointwise = (phase.taps, phase.stride, phase.offset) == (ones, ones, zeros)
    flat = pointwise and phase.count == x.shape[2:] and scope.layout(x).is_identity
    return flat and prod(phase.count) % VECTOR == 0


def _reads_vectors(staging: Staging) -> bool:
    """Whether a thread reads vectors: fewer of them than threads would leave some without any."""
    tile = staging.tile
    enough = tile.depth * tile.places >= VECTOR * tile.threads
    return enough and reads_flat(staging.scope, staging.node, staging.phase)


@dataclass(frozen=True, eq=False)
class Read:
    """A vector of the input.

    Attributes:
        at: where one is, counted in vectors, that is read in any case.
        further: how far from there this one is.
        there: whether it exists.
    """

    at: Expr
    further: Expr
    there: Expr


Reads = Callable[[Expr], Read]
"""What a thread reads, given which of its reads this is."""


def reading(
    staging: Staging,
    place: Place,
    before: list[Stmt],
    opened: Callable[[Expr, Callable[[Reads], Stmt]], Stmt],
) -> Operand:
    """The operand that a thread reads.

    Args:
        staging: who does it.
        place: for which it reads.
        before: what is worked out once, when that of the place is known.
        opened: a statement for a stage: finds what is read of it, and hands it on.
    """
    s, lanes = staging, place.lanes
    scope, x = s.scope, s.node.inputs[0]
    source = scope.buffer(x, scope.layout(x))
    count = s.tile.depth * place.down
    given = seq(*place.before, *before)

    def where(i: Expr) -> Expr:
        """In a stage, what a thread reads."""
        return place.kept + i * (place.apart * s.tile.places)

    if s.copied:

        def start(stage: Expr, begin: Expr) -> Stmt:
            def every(reads: Reads) -> Stmt:
                def part(i: Expr, _: Expr) -> Stmt:
                    read = reads(i)
                    load = tirx.BufferLoad(source, [read.at * lanes])
                    to = s.shared, begin + where(i)
                    return copies.copy(to, load, read.there, lanes, read.further * lanes)

                return s.each(count, part)

            return opened(stage, every)

        return Operand(given, start, None)

    kept = scope.local(-(-count // s.tile.threads) * lanes, name="inputs")

    def load(stage: Expr, begin: Expr) -> Stmt:
        def every(reads: Reads) -> Stmt:
            def part(i: Expr, position: Expr) -> Stmt:
                read = reads(i)

                def lane(k: Expr) -> Stmt:
                    value = tirx.BufferLoad(source, [(read.at + read.further) * lanes + k])
                    return tirx.BufferStore(kept, value, [i * lanes + k])

                def nothing(k: Expr) -> Stmt:
                    return tirx.BufferStore(kept, f32(0.0), [i * lanes + k])

                found, zero = (scope.loop(lanes, f, VECTORIZED) for f in (lane, nothing))
                return either(scope, read.there, found, zero)

            return s.each(count, part)

        return opened(stage, every)

    given = seq(tirx.AllocBuffer(kept), given)
    return Operand(given, load, s.keep(kept, count, lanes, lambda i, _: where(i)))
