"""Convolutions on tensor cores: products of weights and of patches that are never built.

The blocks are those of matrix products. Places stand across and output channels down, so that what
is written lies in rows; where channels are the innermost stored axis, it is the other way round.

Source:
    CUTLASS, implicit GEMM convolution, forward, analytic and optimized iterators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd, prod

from alt.cuda.gpu import Gpu
from alt.elementary import Expr
from alt.graph import Node
from alt.operators import delinear, linear
from alt.sketches.gpu.block import Block, Memory, Sought, memory_of
from alt.sketches.gpu.block_tile import Work, least_cycles
from alt.sketches.gpu.elementwise import VECTOR_DTYPES
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.packed_weights import packed_weights
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.patches import patches, reading
from alt.sketches.gpu.product import Results
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.separable import Separable, separable, stored
from alt.sketches.gpu.staging import Steps, steps_of
from alt.sketches.gpu.step_table import has_bits
from alt.sketches.gpu.swath import Blocks, decide_blocks
from alt.sketches.gpu.tiling import (
    DEPTHS,
    Precision,
    Problem,
    Tile,
    choose_tile,
    cycles_of,
    decide_tile,
)
from alt.sketches.scope import Stmt, i32, seq
from alt.sketches.windows import Phase, geometry, phases
from primitives.tensorir import tirx

UNITS = ("threads", "tensor cores")
"""What may multiply."""


def goes_to_tensor_cores(scope: GpuScope, precision: Precision) -> bool:
    """Whether a convolution is computed on tensor cores: if it can, by estimate or as asked for.

    Args:
        scope: the kernel.
        precision: what may be multiplied.
    """
    node = scope.kernel.anchor
    assert node is not None
    images = stored(scope, node.inputs[0])
    if precision == "fp32" or images is None:
        return False
    if not any(prod(p.taps) for p in phases(node) if prod(p.count)):
        return False  # nothing is multiplied
    _, channels, _ = geometry(node)
    if not _has_tables(node) and -channels % min(DEPTHS[precision]) > channels:
        return False  # taps have to begin with a stage, of which they would leave most empty
    problem = _problem(scope, node, images, precision)
    groups, _, outputs = geometry(node)
    work = Work(prod(node.output.shape) // outputs // groups, outputs, problem.depth, groups)
    return scope.choose.one_of("units", UNITS, UNITS[_gains(problem, work, scope.gpu)]) == UNITS[1]


def _has_tables(node: Node) -> bool:
    """Whether steps of a stage may have different taps."""
    return all(has_bits(node, p) for p in phases(node) if prod(p.count))


@lru_cache(maxsize=1024)
def _gains(problem: Problem, work: Work, gpu: Gpu) -> bool:
    """Whether tensor cores are estimated to be faster; few channels leave most of them idle."""
    by_cores = cycles_of(choose_tile(problem, gpu), problem, gpu)
    return by_cores <= least_cycles(work, gpu)


GATHERING, LOOKING_UP = 4.0, 8.0
"""Instructions for an element of the input that is read alone, by what nvcc makes of it; and if it
is looked up where, as for few channels."""


def _problem(scope: GpuScope, node: Node, images: Separable, precision: Precision) -> Problem:
    """What decides about the tiles of a convolution: its largest phase, as often as there are."""
    groups, channels, outputs = geometry(node)
    every = [p for p in phases(node) if prod(p.count)]
    largest = max(every, key=lambda p: prod(p.taps))
    places = node.output.shape[0] * max(prod(p.count) for p in every)
    depth = max(1, channels * prod(largest.taps))
    shallow = min(DEPTHS[precision])
    steps = steps_of(node, largest, shallow, padded=False)
    _, lanes = reading(node, largest, images, steps)
    looks_up = prod(largest.taps) > 1 and channels < shallow
    gathering = 0.0 if lanes > 1 else LOOKING_UP if looks_up else GATHERING
    across = _channels_across(scope)
    extents = (places, outputs) if across else (outputs, places)
    instructions = (gathering, 0.0) if across else (0.0, gathering)
    # Words of tf32 are those of memory, and can be copied one by one.
    in_place = precision == "tf32"
    packed = 2 if precision == "fp16" else 4
    each = (4, packed) if across else (packed, 4)
    return Problem(groups * len(every), *extents, depth, precision, in_place, instructions, each)


def _channels_across(scope: GpuScope) -> bool:
    """Whether channels are the innermost stored axis of the output."""
    layout = scope.output_layout
    channels = layout.logical_shape[1]
    first, second = ([0, c, *[0] * (len(layout.logical_shape) - 2)] for c in (0, channels > 1))
    apart = linear(layout.forward(second), layout.shape) - linear(
        layout.forward(first), layout.shape
    )
    return bool(apart == 1)


def warp_convolution(scope: GpuScope, precision: Precision) -> Stmt:
    """A convolution for which `goes_to_tensor_cores`.

    Asks for the tile, the order of blocks, whether stages begin with taps, and for the padding of
    shared memory.

    Args:
        scope: the kernel.
        precision: what is multiplied; not fp32.
    """
    node = scope.kernel.anchor
    assert node is not None
    groups, channels, _ = geometry(node)
    images = stored(scope, node.inputs[0])
    assert images is not None, "the caller asks whether the input is stored such that this works"
    across = _channels_across(scope)
    every = [p for p in phases(node) if prod(p.count)]
    problem = _problem(scope, node, images, precision)
    tile = decide_tile(scope.choose, problem, scope.gpu)
    scope.cycles = cycles_of(tile, problem, scope.gpu)
    aligned = True
    if max(prod(p.taps) for p in every) > 1 and channels % tile.depth and _has_tables(node):
        aligned = scope.choose.one_of("padded", (False, True), -channels % tile.depth <= channels)
    pad = scope.choose.one_of("pad", (True, False), True)
    made = [
        _Phase(scope, node, phase, images, tile, precision, across, aligned, pad) for phase in every
    ]
    blocks = decide_blocks(scope.choose, (groups,), *made[0].tiles)
    scope.notes["tile"] = [tile.rows, tile.columns, tile.depth]
    scope.notes["warp"] = [tile.warp_rows, tile.warp_columns]
    scope.notes["precision"] = precision
    orders = [Blocks((groups,), *m.tiles, gcd(m.tiles[0], blocks.swath)) for m in made]
    starts = [sum(o.count for o in orders[:k]) for k in range(len(orders) + 1)]
    # Phases may keep their panels in different ways: there is room for the largest.
    panels = max((m.panels for m in made if m.steps.count), key=lambda p: p[0].words + p[1].words)
    memory = memory_of(scope, tile, panels, precision)

    def work(number: Expr, thread: Expr) -> Stmt:
        last = len(made) - 1
        found = made[last].body(orders[last], number - starts[last], thread, memory, panels)
        for k in reversed(range(last)):
            here = made[k].body(orders[k], number - starts[k], thread, memory, panels)
            found = tirx.IfThenElse(number < starts[k + 1], here, found)
        return seq(memory.allocated, found)

    return scope.launch((starts[-1],), (tile.threads,), work)


@dataclass(frozen=True, eq=False)
class _Phase:
    """One phase of a convolution."""

    scope: GpuScope
    node: Node
    phase: Phase
    images: Separable
    tile: Tile
    precision: Precision
    across: bool
    aligned: bool
    pad: bool

    @property
    def extents(self) -> tuple[int, int]:
        """Rows and columns of the results of a group."""
        _, _, outputs = geometry(self.node)
        places = self.node.output.shape[0] * prod(self.phase.count)
        return (places, outputs) if self.across else (outputs, places)

    @property
    def tiles(self) -> tuple[int, int]:
        """How many there are of a group, down and across."""
        rows, columns = self.extents
        return -(-rows // self.tile.rows), -(-columns // self.tile.columns)

    @cached_property
    def steps(self) -> Steps:
        """The reduction."""
        aligned = self.aligned or prod(self.phase.taps) == 1
        return steps_of(self.node, self.phase, self.tile.depth, aligned)

    @cached_property
    def panels(self) -> tuple[Panel, Panel]:
        """Of the left and the right factor."""
        tile = self.tile
        places, channels = tile.rows, tile.columns
        if not self.across:
            places, channels = channels, places
        given = self.scope, self.node, self.phase, self.steps
        weights = packed_weights(*given, channels, tile, self.precision, self.pad)
        images = patches(*given, self.images, places, tile, self.precision, self.pad)
        return (images, weights) if self.across else (weights, images)

    def body(
        self,
        blocks: Blocks,
        number: Expr,
        thread: Expr,
        memory: Memory,
        unused: tuple[Panel, Panel],
    ) -> Stmt:
        """What one thread does; `number` counts the blocks of this phase.

        A transposed convolution may have outputs that nothing reaches: their phase has no panels.
        """
        panels = self.panels if self.steps.count else unused
        scope, tile = self.scope, self.tile
        writer = _Writer(scope, self.node, self.phase, self.across)
        sought = Sought(*self.extents, self.steps.count, writer)
        # Weights were rounded when they were packed, the input if it went through registers.
        rounded = (not tile.copies, True) if self.across else (True, not tile.copies)

        def at(*indices: Expr) -> Stmt:
            group, swath, right, left = indices
            top = swath * blocks.swath + left
            here = Block(scope, sought, tile, panels, self.precision, thread, memory, rounded)
            return here.computed([group], top * tile.rows, right * tile.columns)

        return with_indices(scope, number, blocks.extents, at)


@dataclass(frozen=True, eq=False)
class _Writer:
    """Where the results of a phase go; see `alt.sketches.gpu.block.Writer`."""

    scope: GpuScope
    node: Node
    phase: Phase
    across: bool

    @property
    def lanes(self) -> int:
        """How many neighbours in a row can be written at once."""
        layout, output = self.scope.output_layout, self.scope.kernel.output
        found = separable(layout, ())
        if found is None or output.dtype not in VECTOR_DTYPES:
            return 1
        if self.across:
            _, _, outputs = geometry(self.node)
            return found.lanes(1, outputs)
        image = prod(self.phase.count)
        whole = layout.is_identity and set(self.phase.step) == {1}
        return max(n for n in (1, 2, 4) if image % n == 0) if whole else 1

    def write(
        self,
        batch: Sequence[Expr],
        row: Expr,
        column: Expr,
        count: int,
        total: Callable[[Expr], Expr],
    ) -> Stmt:
        """See `Results.write`."""
        scope, phase = self.scope, self.phase
        _, _, outputs = geometry(self.node)
        image = prod(phase.count)
        place, channel = (row, column) if self.across else (column, row)
        run = 1 if self.across else count  # of places, all in one image

        def at_image(n: Expr) -> Stmt:
            q = place // run % (image // run)
            return scope.bound(image // run, q, "q", lambda q: at_place(n, q * run))

        def at_place(n: Expr, q: Expr) -> Stmt:
            def indices(_: Sequence[Expr], outer: Expr, inner: Expr) -> list[Expr]:
                """Of the element some channels and places on."""
                at = delinear(q + inner if not self.across else q, phase.count)
                on = channel + inner if self.across else channel
                spatial = zip(phase.first, phase.step, at, strict=True)
                return [n, batch[0] * outputs + on, *(f + s * i for f, s, i in spatial)]

            results = Results(scope, self.node.output, indices, self.lanes)
            return results.write(batch, row, i32(0), count, total)

        batches = self.node.output.shape[0]
        return scope.bound(batches, place // run // (image // run), "n", at_image)
