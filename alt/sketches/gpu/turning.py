"""Conversions between rows and blocks of channels: a batch of matrices, turned round.

A matrix has the channels of a block and the places of an image. Where blocks are short, a thread
has all channels of a place, and neighbouring threads have neighbouring places: in both layouts they
read and write neighbours. Otherwise tiles go through shared memory.

Source:
    M. Harris, An efficient matrix transpose in CUDA C/C++, NVIDIA developer blog (2013).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from alt.elementary import Expr
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.gpu.grid import Region, over_elements, with_indices
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, allocate, seq
from alt.storage import block_of
from primitives import Layout
from primitives.tensorir import tirx

TILE = 32
"""Rows and columns of a tile: a warp reads one row of it and writes one column."""

ROWS = 8
"""Of the tile that a block of threads reads at a time."""

SHORT = 8
"""Blocks of up to so many channels are kept by one thread: whole sectors of memory, or half."""


def turns(scope: GpuScope) -> Value | None:
    """What a kernel copies, if it is a conversion between rows and blocks of channels."""
    (node, *others) = scope.kernel.nodes
    if others or node.op != "view" or node.inputs[0].shape != node.output.shape:
        return None
    source = node.inputs[0]
    layouts = scope.layout(source), scope.output_layout
    blocks = [block_of(layout) for layout in layouts]
    if node.attrs.get("target") != source.shape or source in scope.constants or 1 not in blocks:
        return None
    plain = any(layout.is_identity for layout in layouts)
    return source if max(blocks) > 1 and plain and not layouts[0].has_padding else None


def turn(scope: GpuScope, source: Value) -> Stmt:
    """Copy a tensor that `turns` found."""
    block = max(block_of(scope.layout(source)), block_of(scope.output_layout))
    return _by_place(scope, source, block) if block <= SHORT else _by_tile(scope, source, block)


def _cell(scope: GpuScope, layout: Layout, block: int) -> Callable[[Expr, Expr, Expr, Expr], Expr]:
    """Where an element lies, by its image, its block, its number there and its place."""
    spatial = layout.logical_shape[2:]

    def at(n: Expr, b: Expr, k: Expr, place: Expr) -> Expr:
        return scope.address(layout, [n, b * block + k, *delinear(place, spatial)])

    return at


def _by_place(scope: GpuScope, source: Value, block: int) -> Stmt:
    """A thread has the channels of a block at one place."""
    batch, channels, *spatial = source.shape
    layout, output = scope.layout(source), scope.output
    read, written = _cell(scope, layout, block), _cell(scope, scope.output_layout, block)
    buffer = scope.buffer(source, layout)
    lanes = scope.gpu.lanes(source.dtype)

    def body(n: Expr, b: Expr, place: Expr) -> Stmt:
        kept = scope.local(block, source.dtype, "channels")

        def load(k: Expr) -> Stmt:
            return tirx.BufferStore(kept, tirx.BufferLoad(buffer, [from_(k)]), [k])

        def store(k: Expr) -> Stmt:
            return tirx.BufferStore(output, tirx.BufferLoad(kept, [k]), [to(k)])

        def each(layout: Layout, body: Callable[[Expr], Stmt]) -> Stmt:
            """For all channels, as vectors where they are neighbours."""
            if layout.is_identity or block % lanes:
                return scope.loop(block, body, UNROLLED)
            return scope.loop(
                block // lanes,
                lambda j: scope.loop(lanes, lambda k: body(j * lanes + k), VECTORIZED),
                UNROLLED,
            )

        def along(layout: Layout, cell: Callable[..., Expr]) -> Callable[[Expr], Expr]:
            if layout.is_identity:
                return lambda k: cell(n, b, k, place)
            first = cell(n, b, 0, place)
            return lambda k: first + k

        from_, to = along(layout, read), along(scope.output_layout, written)
        return allocate(kept, each(layout, load), each(scope.output_layout, store))

    return over_elements(scope, Region((batch, channels // block, prod(spatial)), body))


def _by_tile(scope: GpuScope, source: Value, block: int) -> Stmt:
    """A block of threads reads a tile along one layout and writes it along the other."""
    batch, channels, *spatial = source.shape
    places = prod(spatial)
    layout, output = scope.layout(source), scope.output
    read, written = _cell(scope, layout, block), _cell(scope, scope.output_layout, block)
    buffer = scope.buffer(source, layout)
    rows_first = layout.is_identity
    # One column more, so that what a warp reads of a column lies in different banks.
    shared = scope.shared(TILE * (TILE + 1), source.dtype, "tile")
    tiles = batch, channels // block, -(-block // TILE), -(-places // TILE)

    def work(number: Expr, x: Expr, y: Expr) -> Stmt:
        def inside(n: Expr, b: Expr, down: Expr, across: Expr) -> Stmt:
            def part(reads: bool) -> Callable[[Expr], Stmt]:
                # Neighbouring threads go along the places where those are neighbours.
                by_places = rows_first if reads else not rows_first

                def row(j: Expr) -> Stmt:
                    slow = j * ROWS + y
                    c, p = (slow, x) if by_places else (x, slow)
                    channel, place = down * TILE + c, across * TILE + p
                    cell = [c * (TILE + 1) + p]
                    if reads:
                        found = tirx.BufferLoad(buffer, [read(n, b, channel, place)])
                        made = tirx.BufferStore(shared, found, cell)
                    else:
                        where = [written(n, b, channel, place)]
                        made = tirx.BufferStore(output, tirx.BufferLoad(shared, cell), where)
                    guard = tirx.all(channel < block, place < places)
                    return scope.when(guard, made) or seq()

                return row

            loops = [scope.loop(TILE // ROWS, part(reads), UNROLLED) for reads in (True, False)]
            return seq(loops[0], scope.sync(), loops[1])

        return seq(tirx.AllocBuffer(shared), with_indices(scope, number, tiles, inside))

    return scope.launch((prod(tiles),), (TILE, ROWS), work)
