"""The layouts the compiler hands out, and the questions sketches ask of them."""

from __future__ import annotations

from collections.abc import Sequence

from primitives import Layout, blocked

Border = tuple[tuple[int, int], ...]
"""Cells without data before and after each spatial axis."""


def channels_blocked(shape: Sequence[int], block: int, border: Border) -> Layout:
    """N C spatial... stored as N C/block spatial... block, with a border around the spatial axes.

    >>> print(channels_blocked((1, 24, 7, 7), 16, ((1, 1), (1, 1))))
    1x24x7x7 pad(1,0,8) pad(2,1,1) pad(3,1,1) split(1,2,16) reorder(0,1,3,4,2)
    """
    pads = [(2 + d, lo, hi) for d, (lo, hi) in enumerate(border) if lo or hi]
    return blocked(tuple(shape), 1, block, border=pads)


def block_of(layout: Layout) -> int:
    """How many channels lie next to each other: 1 for a layout without blocks."""
    for step in layout.steps:
        if step.name == "split" and step.arguments[0] == 1:
            return int(step.arguments[-1])
    return 1


def border_of(layout: Layout) -> Border:
    """The border around each spatial axis of a layout made by `channels_blocked`."""
    rank = len(layout.logical_shape)
    border = [(0, 0)] * max(rank - 2, 0)
    for step in layout.steps:
        if step.name == "pad" and step.arguments[0] >= 2:
            axis, lo, hi = step.arguments
            border[axis - 2] = (lo, hi)
    return tuple(border)
