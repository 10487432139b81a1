"""Which taps of a place are inside the image, as bits: one for every tap along the axes it leaves.

What is read with some taps needs their bits, and exists where a place has them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alt.elementary import Expr
from alt.graph import Node
from alt.sketches.scope import i32
from alt.sketches.windows import Phase
from primitives.tensorir import tirx

MOST_BITS = 31
"""Of a mask: as many as are not the sign."""


def leaving(node: Node, phase: Phase) -> list[int]:
    """The spatial axes along which some tap of some place is outside of the image."""
    found: list[int] = []
    for d, extent in enumerate(node.inputs[0].shape[2:]):
        reach = (phase.count[d] - 1) * phase.stride[d] + (phase.taps[d] - 1) * phase.dilation[d]
        if phase.offset[d] < 0 or reach + phase.offset[d] >= extent:
            found.append(d)
    return found


def bits_needed(
    phase: Phase, axes: Sequence[int], taps: Sequence[np.ndarray]
) -> tuple[np.ndarray, int]:
    """The bits of some taps, given along every axis, and the first bit that is none of theirs.

    Args:
        phase: of the convolution.
        axes: by `leaving`.
        taps: a number of them, as indices along each axis.
    """
    made = np.zeros(taps[0].shape, np.int64)
    shift = 0
    for d in axes:
        made += 1 << (shift + taps[d])
        shift += phase.taps[d]
    return made, shift


def bits_there(
    node: Node, phase: Phase, axes: Sequence[int], corner: Sequence[Expr]
) -> tuple[Expr, int]:
    """The bits that a place has, whose window begins at a corner; and the next one, as above."""
    extents = node.inputs[0].shape[2:]
    there: Expr = i32(0)
    shift = 0
    for d in axes:
        run = _bits_inside(corner[d], extents[d], phase.taps[d], phase.dilation[d])
        there = there + run * (1 << shift)
        shift += phase.taps[d]
    return there, shift


def _bits_inside(corner: Expr, extent: int, taps: int, dilation: int) -> Expr:
    """A bit for every tap along an axis, set for those inside the image."""

    def before(end: Expr) -> Expr:
        """How many taps are before a place, seen from the first."""
        reach = tirx.max(i32(0), tirx.min(end, i32(taps * dilation)))
        return (reach + (dilation - 1)) // dilation

    last, first = before(extent - corner), before(0 - corner)
    one = i32(1)
    return tirx.shift_left(one, last) - tirx.shift_left(one, tirx.min(first, last))
