"""Overlapping tiles of an axis: unfold, and fold that lays them over each other again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from primitives.errors import LayoutError
from primitives.indexing import Index, Valid, at_most
from primitives.steps.step import Shape, Step, check_axis


@dataclass(frozen=True)
class Unfold:
    """Cuts one axis into tiles of `size` that begin every `stride` elements, so that they overlap.

    Elements in more than one tile are stored more than once. Cells of the last tile that lie
    behind the axis hold no element.

    Rewrite:
        before: x[e], e < D
        after:  x[i, r] with e = stride*i + r, i < ceil((D - size) / stride) + 1, r < size

    >>> Unfold(0, 4, 2).shape((8,)), Unfold(0, 4, 2).forward((5,), (8,))
    ((3, 4), [2, 1])
    """

    axis: int
    size: int
    stride: int
    name: ClassVar[str] = "unfold"

    @property
    def arguments(self) -> Shape:
        """The axis, the tiles' size and stride."""
        return (self.axis, self.size, self.stride)

    def shape(self, shape: Shape) -> Shape:
        """The axis replaced by the number of tiles and their size."""
        a, size, stride = self.arguments
        what = f"unfold axis {a} of {shape} into tiles of {size} every {stride}"
        check_axis(f"unfold axis {a}", a, shape)
        if not 1 <= stride <= size:
            raise LayoutError(
                f"{what}: elements between tiles would be lost; use a stride of 1 to {size}"
                if size >= 1
                else f"{what}: tiles must hold at least 1 element"
            )
        if size > shape[a]:
            raise LayoutError(
                f"{what}: the axis is shorter than a tile; pad it by {size - shape[a]} first"
            )
        return (*shape[:a], tiles_of(shape[a], size, stride), size, *shape[a + 1 :])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """One of the places of an element: in the last tile that begins at or before it."""
        a = self.axis
        last = tiles_of(shape[a], self.size, self.stride) - 1
        tile = at_most(indices[a] // self.stride, last)
        return [*indices[:a], tile, indices[a] - tile * self.stride, *indices[a + 1 :]]

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The element at that place in that tile, if the axis reaches as far."""
        a = self.axis
        element = indices[a] * self.stride + indices[a + 1]
        tiles = tiles_of(shape[a], self.size, self.stride)
        reaches = (tiles - 1) * self.stride + self.size
        valid: Valid = True if reaches == shape[a] else element < shape[a]
        return [*indices[:a], element, *indices[a + 2 :]], valid

    def undo(self, shape: Shape) -> Step:
        """The tiles laid over each other."""
        return Fold(self.axis, shape[self.axis], self.stride)

    def is_noop(self, shape: Shape) -> bool:
        """It always adds an axis."""
        return False


@dataclass(frozen=True)
class Fold:
    """Lays overlapping tiles over each other again: the inverse of `Unfold`.

    Of each element one copy is kept. That the tiles do overlap like this is for the `Layout` to
    check, which knows the steps before.

    Rewrite:
        before: x[i, r], elements stride*i + r < extent
        after:  x[e] with i = min(e // stride, tiles - 1), r = e - stride*i

    >>> Fold(0, 8, 2).shape((3, 4)), Fold(0, 8, 2).forward((2, 1), (3, 4))
    ((8,), [5])
    """

    axis: int
    extent: int
    stride: int
    name: ClassVar[str] = "fold"

    @property
    def arguments(self) -> Shape:
        """The axis of the tiles, the extent of the axis they make and their stride."""
        return (self.axis, self.extent, self.stride)

    def shape(self, shape: Shape) -> Shape:
        """The axes of the tiles and of places in a tile replaced by one."""
        a, extent, stride = self.arguments
        what = f"fold axes {a} and {a + 1} of {shape} into {extent} with stride {stride}"
        check_axis(f"fold axis {a}", a, shape)
        check_axis(f"fold axis {a} with the next", a + 1, shape)
        tiles, size = shape[a : a + 2]
        if not 1 <= stride <= size or extent < size:
            raise LayoutError(
                f"{what}: tiles of {size} have a stride of 1 to {size} and make at least {size}"
            )
        if tiles_of(extent, size, stride) != tiles:
            raise LayoutError(
                f"{what}: that would be {tiles_of(extent, size, stride)} tiles, not {tiles}; "
                f"use an extent of {max((tiles - 2) * stride + size + 1, size)} to "
                f"{(tiles - 1) * stride + size}"
            )
        return (*shape[:a], extent, *shape[a + 2 :])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The element that is stored there, wherever that tile begins."""
        a = self.axis
        return [*indices[:a], indices[a] * self.stride + indices[a + 1], *indices[a + 2 :]]

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The place whose copy is kept."""
        unfold = Unfold(self.axis, shape[self.axis + 1], self.stride)
        a = self.axis
        return unfold.forward(indices, (*shape[:a], self.extent, *shape[a + 2 :])), True

    def undo(self, shape: Shape) -> Step:
        """The axis cut into such tiles."""
        return Unfold(self.axis, shape[self.axis + 1], self.stride)

    def is_noop(self, shape: Shape) -> bool:
        """It always removes an axis."""
        return False


def tiles_of(extent: int, size: int, stride: int) -> int:
    """How many tiles of this size, one every `stride`, cover an axis."""
    return -(-(extent - size) // stride) + 1
