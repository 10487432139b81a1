"""Panels of constant factors: words that were packed when they were compiled, only copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alt.elementary import Expr
from alt.graph import Node
from alt.sketches.gpu.matrix_panel import bank_pad
from alt.sketches.gpu.panel import Found, Panel, Part
from alt.sketches.gpu.product import LANES, Rows
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import Steps
from alt.sketches.gpu.tiling import Precision, Tile
from alt.sketches.windows import Phase, geometry, taps_of_phase
from primitives import Layout
from primitives.tensorir import tirx


@dataclass(frozen=True, eq=False)
class PackedWeights(Panel):
    """Weights as words of shared memory: [group][tile][stage][channel][word].

    Zeros stand behind the last channel of a group and behind the last step.

    Attributes:
        scope: the kernel.
        source: those words, as float32.
        terms: of the sums, in a stage; `depth` counts words.
        groups: how many there are; one serves a whole batch.
        tiles: along the channels of a group.
        stages: of the reduction.
    """

    scope: GpuScope
    source: Any
    terms: int
    groups: int
    tiles: int
    stages: int

    def found(self, part: Part, piece: Expr, outer: Expr, term: Expr) -> Found:
        """See `Panel.found`."""
        simplify = self.scope.analyzer.simplify
        tile = simplify(part.outer // self.outer)
        if self.groups > 1:
            tile = part.batch[0] * self.tiles + tile
        stage = tile * self.stages + simplify(part.term // self.terms)
        at = (stage * self.outer + outer) * self.depth + term
        return None, lambda lane: tirx.BufferLoad(self.source, [at + lane])


def packed_weights(
    scope: GpuScope,
    node: Node,
    phase: Phase,
    steps: Steps,
    outer: int,
    tile: Tile,
    precision: Precision,
    padded: bool,
) -> PackedWeights:
    """The weights of a phase of a convolution, packed and rounded when compiled.

    Args:
        scope: the kernel.
        node: the convolution.
        phase: which part of it.
        steps: its reduction; not empty.
        outer: channels of a block.
        tile: what the block works on.
        precision: what is multiplied; not fp32.
        padded: whether threads are kept from waiting for the same bank.
    """
    groups, channels, outputs = geometry(node)

    def in_rows(weight: np.ndarray) -> np.ndarray:
        taken = taps_of_phase(node, phase, weight).swapaxes(2, 3)
        taken = np.pad(taken, ((0, 0), (0, 0), (0, 0), (0, steps.stride - channels)))
        return taken.reshape(groups, outputs, steps.count)

    key = phase.kernel_first, phase.kernel_step, phase.taps, steps.stride
    shape = groups, outputs, steps.count
    rows = Rows(node.inputs[1], f"{node.op}{groups},{key}", in_rows, shape)
    return packed_rows(scope, rows, outer, tile, precision, padded)


def packed_rows(
    scope: GpuScope,
    rows: Rows,
    outer: int,
    tile: Tile,
    precision: Precision,
    padded: bool,
) -> PackedWeights:
    """A constant factor, packed and rounded when compiled.

    Args:
        scope: the kernel.
        rows: what is packed.
        outer: rows of a block.
        tile: what the block works on.
        precision: what is multiplied; not fp32.
        padded: whether threads are kept from waiting for the same bank.
    """
    groups, outputs, count = rows.shape
    each = 2 if precision == "fp16" else 1
    deep = tile.depth // each
    stages = -(-count // (tile.depth * tile.slices)) * tile.slices

    def in_words(constant: np.ndarray) -> np.ndarray:
        made = np.pad(rows.make(constant), ((0, 0), (0, 0), (0, -count % each)))
        return words_of(made, precision)

    layout = Layout.identity((groups, outputs, -(-count // each)))
    tiles = -(-outputs // outer)
    layout = layout.pad(1, 0, -outputs % outer)
    layout = layout.pad(2, 0, stages * deep - layout.shape[2])
    layout = layout.split(1, (tiles, outer)).split(3, (stages, deep)).reorder((0, 1, 3, 2, 4))
    packed = scope.buffer(rows.value, layout, (f"{rows.name} {precision}", in_words))
    # Words are what is copied, whatever is in them.
    pad = bank_pad("depth", outer, tile.depth, precision) if padded else 0
    return PackedWeights(
        "depth", outer, deep, tile.team, "fp32", "depth", pad, LANES, True,
        scope, packed, tile.depth, groups, tiles, stages,
    )  # fmt: skip


def words_of(numbers: np.ndarray, precision: Precision) -> np.ndarray:
    """Numbers as tensor cores take them, in words that are called float32.

    Two float16 are a word, the first in its lower half.

    >>> words_of(np.array([1.0, 2.0], np.float32), "fp16").view(np.uint32).tolist() == [0x40003C00]
    True
    >>> words_of(np.array([1 + 2**-11 + 2**-12], np.float32), "tf32").item() == 1 + 2**-10
    True
    """
    if precision == "fp16":
        with np.errstate(over="ignore"):  # as the device does it, which gives infinities
            return np.ascontiguousarray(numbers.astype(np.float16)).view(np.float32)
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    nan = np.uint32(0x7FFFFFFF)  # as the device has it; the last bits of others may be all there is
    others = np.where(np.isnan(numbers), nan, bits)
    finite = np.isfinite(numbers)
    even = (bits >> np.uint32(13)) & np.uint32(1)
    rounded = (bits + np.uint32((1 << 12) - 1) + even) & ~np.uint32((1 << 13) - 1)
    return np.where(finite, rounded, others).view(np.float32)
