"""Families of layouts for an operator, and the one recipe that schedules every one of them.

Source: ALT (EuroSys 2023, arXiv 2210.12415): the templates of layouts, and their comparison at the
best loops of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from math import prod
from typing import Any

from alt.target import Machine
from benchmarks.layout_operators import Convolution, Operator, Product
from primitives import Layout
from primitives.loops import schedule
from primitives.lower import rewrite
from primitives.storage import Key, Unpacked
from primitives.store_at import Joint, store_at

CONVOLUTION_FAMILIES = ("NCHW", "NHWC", "NCHWc", "tiled", "unfolded", "stored_at")
"""`NCHWc`: channels in blocks. `tiled`: N H/h W/w O/o h w o, the paper's template, its input as in
NCHWc. `unfolded`: the same, its input cut into the overlapping windows of the tiles. `stored_at`:
NCHWc, the bias beside the weights."""

PRODUCT_FAMILIES = ("rows", "packed_b", "packed_both", "stored_at")
"""`packed_b`: weights as N/n K n. `packed_both`: also M/m K m and the result M/m N/n m n.
`stored_at`: packed weights, the bias as one more row of them."""


@dataclass(frozen=True)
class Decisions:
    """What a candidate decides.

    Attributes:
        vector: elements of the vectorised axis that a register tile spans.
        positions: results along the other axis of a register tile.
        height: rows of a stored tile, for the families that have one.
        channels_first: whether the loop over blocks of output channels is outermost, or innermost.
        taps_inside: whether a channel's taps are summed before the next channel's; otherwise a
            block of channels is summed for each tap.
        serial: how many of the outer loops each thread runs by itself.
    """

    vector: int
    positions: int
    height: int = 1
    channels_first: bool = True
    taps_inside: bool = False
    serial: int = 1


@dataclass(frozen=True)
class Stored:
    """How a family stores an operator's tensors.

    Attributes:
        layouts: by name of the tensor.
        tile: the register tile: sizes along the last stored axes of the output.
        channels: the position, among the stored axes of the output, of that of (blocks of) output
            channels.
        block: how many input channels lie side by side; 0 if they are not in blocks.
        joint: how the bias is stored beside the weights, if it is.
    """

    layouts: Mapping[str, Layout]
    tile: tuple[int, ...]
    channels: int
    block: int = 0
    joint: Joint | None = field(default=None)


def families_of(op: Operator) -> tuple[str, ...]:
    """The families there are for an operator; the first is what others are compared with."""
    return CONVOLUTION_FAMILIES if isinstance(op, Convolution) else PRODUCT_FAMILIES


def stored(op: Operator, family: str, decisions: Decisions) -> Stored:
    """The layouts of a family.

    Raises:
        LayoutError: if the decisions do not fit the shape.

    >>> conv = Convolution(1, 8, 32, (6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)))
    >>> tiled = stored(conv, "unfolded", Decisions(16, 3, 2))
    >>> tiled.layouts["out"].shape, tiled.layouts["x"].shape
    ((1, 3, 2, 2, 2, 3, 16), (1, 3, 2, 1, 4, 5, 8))
    """
    if isinstance(op, Product):
        return _stored_product(op, family, decisions)
    return _stored_convolution(op, family, decisions)


def _stored_product(op: Product, family: str, d: Decisions) -> Stored:
    a, b = Layout.identity((op.rows, op.depth)), Layout.identity((op.depth, op.columns))
    bias, out = Layout.identity((op.columns,)), Layout.identity((op.rows, op.columns))
    tile, channels, joint = (d.positions, d.vector), 1, None
    packed = b.split(1, (-1, d.vector)).reorder((1, 0, 2))
    if family == "stored_at":
        joint = store_at(b, bias, 0).split(1, (-1, d.vector)).reorder((1, 0, 2))
    elif family == "packed_b":
        b = packed
    elif family == "packed_both":
        a, b = a.split(0, (-1, d.positions)).reorder((0, 2, 1)), packed
        out = out.split(0, (-1, d.positions)).split(2, (-1, d.vector)).reorder((0, 2, 1, 3))
    layouts = {"a": a, "b": b, "bias": bias, "out": out, "anchor": out}
    return Stored(layouts, tile, channels, joint=joint)


def _stored_convolution(op: Convolution, family: str, d: Decisions) -> Stored:
    rank = len(op.size)
    spatial, taps = range(2, 2 + rank), range(2, 2 + rank)
    x = Layout.identity((op.batch, op.channels, *op.size))
    for axis, (before, after) in zip(spatial, op.border, strict=True):
        x = x.pad(axis, before, after)
    w = Layout.identity((op.outputs, op.depth, *op.kernel))
    out = Layout.identity((op.batch, op.outputs, *op.out_size))
    bias, joint = Layout.identity((op.outputs,)), None
    block = 0 if family in ("NCHW", "NHWC") else _input_block(op, d)
    if family == "NCHW":
        tile: tuple[int, ...] = (d.positions, *[1] * (rank - 1), d.vector)
        channels = 1
        if op.pointwise:  # an image is one long row, which fills vectors
            x, out, tile = x.fuse(2, rank), out.fuse(2, rank), (d.positions, d.vector)
    elif family == "NHWC":
        last = (0, *spatial, 1)
        x, out, w = x.reorder(last), out.reorder(last), w.reorder((*taps, 1, 0))
        tile, channels = (d.positions, d.vector), 1 + rank
    else:
        blocks_last = (0, 1, *(axis + 1 for axis in spatial), 2)
        x = x.split(1, (-1, block)).reorder(blocks_last)
        out = out.split(1, (-1, d.vector)).reorder(blocks_last)
        # O I i taps o of the weights, then O/o I/i taps i o
        plain, inner = w, 1 if op.depthwise else block
        w = w.split(1, (-1, inner)).split(0, (-1, d.vector))
        w = w.reorder((0, 2, *(axis + 2 for axis in taps), 3, 1))
        tile, channels = (d.positions, d.vector), 1
        if family == "stored_at":
            host = plain.split(1, (-1, inner)).reorder((1, *(a + 1 for a in taps), 2, 0))
            host = host.fuse(0, 2 + rank)
            joint = store_at(host, bias, 0).split(1, (-1, d.vector)).reorder((1, 0, 2))
        if family in ("tiled", "unfolded"):
            sizes = (*[1] * (rank - 2), d.height, d.positions)[-rank:]
            # n O s... o, then n s/t... O t... o
            for axis in reversed(range(rank)):
                out = out.split(2 + axis, (-1, sizes[axis]))
            outer, inside = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
            order = (0, *outer, 1, *inside, 2 + 2 * rank)
            out, channels = out.reorder(order), 1 + rank
            if family == "unfolded":
                for axis in reversed(range(rank)):
                    stride, kernel = op.strides[axis], op.kernel[axis]
                    window = stride * (sizes[axis] - 1) + kernel
                    step = stride * sizes[axis]
                    # A stride may skip cells between two windows: they are kept, unread.
                    x = x.unfold(2 + axis, max(window, step), step)
                x = x.reorder(order)
    layouts = {"x": x, "w": w, "bias": bias, "out": out, "anchor": out}
    return Stored(layouts, tile, channels, block, joint)


def _input_block(op: Convolution, d: Decisions) -> int:
    """Input channels in a block: as many as outputs where they are the same channels."""
    return d.vector if op.depthwise else _divisors(op.channels, 32)[-1]


def scheduled(op: Operator, family: str, decisions: Decisions, threads: int) -> tuple[Any, Stored]:
    """The operator's function, rewritten for a family and scheduled by the recipe.

    Raises:
        LayoutError: if the decisions do not fit the shape.
    """
    how = stored(op, family, decisions)
    layouts: dict[Key, Layout | Unpacked] = {**how.layouts}
    joints: dict[tuple[Key, Key], Joint] = {}
    if how.joint is not None:
        weights = "b" if isinstance(op, Product) else "w"
        del layouts[weights], layouts["bias"]
        joints[weights, "bias"] = how.joint
    func = rewrite(op.function(), layouts, joints=joints)
    channels_read = op.depth > 1
    return recipe(func, how, decisions, threads, channels_read), how


def recipe(func: Any, how: Stored, d: Decisions, threads: int, channels_read: bool) -> Any:
    """A tile of results stays in registers through the reduction and leaves through the epilogue.

    Loops: parallel outer loops, serial outer loops, the reduction, then the tile: positions
    unrolled, the last axis as vectors.
    """
    s = schedule(func)
    s.inline(s.cache_write("anchor"))
    axes = s.loops("out")
    sizes = (*[1] * (len(axes) - len(how.tile)), *how.tile)
    loops = s.tile(axes, sizes)
    outer, tile = list(loops[: len(axes)]), loops[len(axes) :]
    blocks = outer.pop(how.channels)
    outer.insert(0 if d.channels_first else len(outer), blocks)
    s.reorder(*outer)

    s.compute_at("anchor", outer[-1])
    spatial, reduction = s.axes("anchor")
    inner, order = spatial[len(outer) :], list(reduction)
    if channels_read and order and not d.taps_inside:
        blocks, each = s.split(order[0], how.block or order[0].extent or 1)
        order = [blocks, *order[1:], each]
    s.reorder(*order, *inner)

    for block_loops in (tile, inner):
        vectors = block_loops[-1:] if how.tile[-1] > 1 else ()
        for loop in vectors:
            s.vectorize(loop)
        for loop in block_loops[: len(block_loops) - len(vectors)]:
            s.unroll(loop)
    shared = max(1, len(outer) - d.serial)
    while shared < len(outer) and prod(loop.extent or 1 for loop in outer[:shared]) < 4 * threads:
        shared += 1
    s.parallel(s.fuse(*outer[:shared]))
    if order:
        s.decompose_reduction("anchor", order[0])
    return s.func


def candidates(op: Operator, family: str, machine: Machine, limit: int) -> list[Decisions]:
    """Decisions worth trying, the most promising first.

    The estimate is that of `alt.sketches.tiles`: multiply-adds of a register tile against its
    loads, and at least eight of them to hide their latency.
    """
    found = sorted(_tiles(op, family, machine), key=lambda entry: entry[0])
    distinct = [Decisions(v, p, h) for _, v, p, h in found]
    varied = [
        Decisions(d.vector, d.positions, d.height, first, inside, serial)
        for d in distinct
        for first, inside, serial in ((True, False, 1), (False, False, 1), (True, True, 2))
    ]
    # Half for the variations of the best tiles, half for other tiles.
    some = list(islice(varied, 0, (limit + 1) // 2))
    rest = (d for d in distinct if d not in some)
    return [*some, *islice(rest, 0, limit - len(some))]


def _tiles(op: Operator, family: str, machine: Machine) -> Iterator[tuple[float, int, int, int]]:
    """Estimated cycles for each result, and (vector, positions, height) of a tile."""
    lanes = machine.lanes()
    if isinstance(op, Product):
        across, along, heights = op.columns, op.rows, [1]
    elif family == "NCHW":
        row = prod(op.out_size) if op.pointwise else op.out_size[-1]
        across, along, heights = row, op.outputs, [1]
    else:
        across, along, heights = op.outputs, op.out_size[-1], [1]
        if family in ("tiled", "unfolded"):
            down = op.out_size[-2] if len(op.size) > 1 else 1
            heights = _divisors(down, 8)[1:] or [1]
    for vector, positions, height in product(
        _divisors(across, 6 * lanes), _divisors(along, 32), heights
    ):
        vectors = -(-vector // lanes)
        if vectors * (positions + 1) + 1 > machine.registers:
            continue
        cycles = max(positions * vectors, 0.5 * positions + vectors, 8.0)
        # A part of a vector costs as much as all of it. LLVM is many times slower with several
        # vectors of which one is not whole, and with three or five of them.
        whole = vector % lanes == 0 and vectors & (vectors - 1) == 0
        broken = 1.0 if whole or vector < lanes else 6.0
        loads = (0.5 * positions + vectors) / (positions * vectors)
        preference = 1 + 0.05 * loads + 0.001 * height
        yield cycles / (vector * positions) * broken * preference, vector, positions, height


def _divisors(extent: int, limit: int) -> list[int]:
    return [n for n in range(1, min(extent, limit) + 1) if extent % n == 0]
