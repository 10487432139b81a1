"""What is known of the stored axes along a chain of steps: where no element lies, whose tiles.

Most steps are legal or not by the shape alone. `Unpad` and `Fold` drop cells, so they need more:
that those cells hold no element, or hold copies of elements that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from primitives.errors import LayoutError
from primitives.indexing import combine
from primitives.steps import (
    Fold,
    Fuse,
    Pad,
    Reorder,
    Shape,
    Split,
    Step,
    Unfold,
    Unpad,
    tiles_of,
)

DROPS_CELLS = (Unpad, Fold)
"""The steps that `check` is for."""


@dataclass(frozen=True)
class Known:
    """What is sure of one stored axis; there may be more empty cells than it says."""

    before: int = 0
    """How many places at its beginning hold no element, whatever the other indices."""
    after: int = 0
    """How many at its end."""
    unfolded: tuple[int, Unfold, int, Known] | None = None
    """If an unfold made this axis: which step of the chain, the unfold itself, the extent it
    unfolded and what was known of it."""
    place: bool = False
    """Whether it is the second of the two axes that the unfold made."""


def check(logical_shape: Shape, steps: Sequence[Step]) -> tuple[Known, ...]:
    """What is known of the stored axes; that no step drops an element is checked on the way.

    The steps' shapes are taken to be legal.

    Raises:
        LayoutError: if an `Unpad` may cut elements off, or a `Fold` may lose some.

    >>> check((4,), (Pad(0, 1, 2), Unpad(0, 0, 1)))[0].after
    1
    >>> check((4,), (Pad(0, 1, 2), Unpad(0, 2, 0)))
    Traceback (most recent call last):
        ...
    primitives.errors.LayoutError: unpad axis 0 of (7,) by 2 before and 0 after: only its first 1
    and last 2 cells are known to hold no element; cut no more than those
    """
    shape, known = logical_shape, (Known(),) * len(logical_shape)
    for number, step in enumerate(steps):
        known = _after(step, number, shape, known)
        shape = step.shape(shape)
    return known


def _after(step: Step, number: int, shape: Shape, known: tuple[Known, ...]) -> tuple[Known, ...]:
    """What is known of the axes after a step, for a tensor of this shape before it."""
    match step:
        case Reorder(perm):
            return tuple(known[p] for p in perm)
        case Pad(axis, before, after):
            was, end = known[axis], axis + 1
            now = (Known(was.before + before, was.after + after),)
        case Unpad(axis, before, after):
            was, end = known[axis], axis + 1
            if before > was.before or after > was.after:
                raise LayoutError(
                    f"unpad axis {axis} of {shape} by {before} before and {after} after: only its "
                    f"first {was.before} and last {was.after} cells are known to hold no element; "
                    "cut no more than those"
                )
            now = (Known(was.before - before, was.after - after),)
        case Split(axis, factors):
            was, end = known[axis], axis + 1
            # What is empty whatever the other digits: whole rows of the first digit there is.
            first = next((k for k, factor in enumerate(factors) if factor > 1), 0)
            row = prod(factors[first + 1 :])
            rows = Known(was.before // row, was.after // row)
            now = (*(Known(),) * first, rows, *(Known(),) * (len(factors) - first - 1))
        case Fuse(axis, count):
            end = axis + count
            parts, extents = known[axis:end], shape[axis:end]
            before = combine([part.before for part in parts], extents)
            now = (Known(before, combine([part.after for part in parts], extents)),)
        case Unfold(axis, size, stride):
            was, end, extent = known[axis], axis + 1, shape[axis]
            before = max(0, (was.before - size) // stride + 1)
            after = tiles_of(extent, size, stride) + (was.after - extent) // stride
            origin = (number, step, extent, was)
            now = (Known(before, max(0, after), origin), Known(0, 0, origin, place=True))
        case Fold(axis):
            end = axis + 2
            now = (_folded(step, shape, *known[axis:end]),)
        case _:
            raise LayoutError(f"layout with step {step}: what it keeps is not known; say so here")
    return (*known[:axis], *now, *known[end:])


def _folded(fold: Fold, shape: Shape, tiles: Known, places: Known) -> Known:
    """What is known of the axis that a fold makes: what was before its unfold."""
    axis, extent, stride = fold.arguments
    what = f"fold axes {axis} and {axis + 1} of {shape} into {extent} with stride {stride}"
    origin = tiles.unfolded
    if origin is None or origin != places.unfolded or tiles.place or not places.place:
        raise LayoutError(
            f"{what}: they are not the tiles and the places that one unfold made, next to each "
            "other and as it left them; undo the steps since the unfold first"
        )
    _, unfold, unfolded, was = origin
    if (unfolded, unfold.stride) != (extent, stride):
        raise LayoutError(
            f"{what}: they were unfolded from {unfolded} with stride {unfold.stride}; "
            "fold with these"
        )
    return was


def border(logical_shape: Shape, steps: Sequence[Step]) -> tuple[tuple[int, int], ...]:
    """For each logical axis, how far outside it an index may lie and still find a cell of fill.

    Counted are the pads of axes that are still whole: a fused or split axis has other indices.

    >>> border((4, 4), (Pad(0, 1, 2), Split(0, (7, 1)), Pad(0, 3, 3), Pad(2, 0, 2), Unpad(2, 0, 1)))
    ((1, 2), (0, 1))
    """
    found = [(0, 0)] * len(logical_shape)
    whole: list[int | None] = list(range(len(found)))  # the logical axis a stored axis still is
    sources = [frozenset((axis,)) for axis in range(len(found))]  # those its index depends on
    for step in steps:
        match step:
            case Reorder(perm):
                whole, sources = [whole[p] for p in perm], [sources[p] for p in perm]
            case Pad(axis, before, after):
                logical = whole[axis]
                if logical is not None:
                    lower, upper = found[logical]
                    found[logical] = lower + before, upper + after
            case Unpad(axis, before, after):
                logical = whole[axis]
                if logical is not None:
                    lower, upper = found[logical]
                    found[logical] = lower - before, upper - after
                else:  # the fill that was cut off may be what the border found
                    for logical in sources[axis]:
                        found[logical] = (0, 0)
            case _:
                axis, removed, made = _replaced(step)
                source = frozenset[int]().union(*sources[axis : axis + removed])
                sources[axis : axis + removed] = [source] * made
                whole[axis : axis + removed] = [None] * made
    return tuple(found)


def _replaced(step: Step) -> tuple[int, int, int]:
    """The first axis that a step replaces, how many axes, and by how many others."""
    match step:
        case Split(axis, factors):
            return axis, 1, len(factors)
        case Fuse(axis, count):
            return axis, count, 1
        case Unfold(axis):
            return axis, 1, 2
        case Fold(axis):
            return axis, 2, 1
        case _:
            raise LayoutError(f"border after step {step}: which axes it makes is not known; say so")
