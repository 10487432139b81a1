"""Cells around an axis that hold no element: pad, and unpad that takes them away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from primitives.errors import LayoutError
from primitives.indexing import Index, Valid, both
from primitives.steps.step import Shape, Step, check_axis


@dataclass(frozen=True)
class Pad:
    """Adds cells that hold no element before and after one axis.

    Rewrite:
        before: x[e]
        after:  x[e + before], and fill where e < before or e >= before + D

    >>> Pad(0, 1, 2).shape((4,)), Pad(0, 1, 2).inverse((5,), (4,))
    ((7,), ([4], False))
    """

    axis: int
    before: int
    after: int
    name: ClassVar[str] = "pad"

    @property
    def arguments(self) -> Shape:
        """The axis, and how many cells before and after."""
        return (self.axis, self.before, self.after)

    def shape(self, shape: Shape) -> Shape:
        """The axis grown by both pads, which may not be negative."""
        check_axis(f"pad axis {self.axis}", self.axis, shape)
        if self.before < 0 or self.after < 0:
            raise LayoutError(
                f"pad axis {self.axis} of {shape} by {self.before} before and {self.after} after: "
                "pads must be 0 or more; to cut a tensor, slice it"
            )
        extent = shape[self.axis] + self.before + self.after
        return (*shape[: self.axis], extent, *shape[self.axis + 1 :])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The index moves by the cells before it."""
        result = list(indices)
        if self.before:
            result[self.axis] = result[self.axis] + self.before
        return result

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The index moves back; it holds an element if that lies inside the axis."""
        result = list(indices)
        stored = result[self.axis]
        if self.before:
            result[self.axis] = stored - self.before
        valid: Valid = True
        if self.before:
            valid = both(valid, stored >= self.before)
        if self.after:
            valid = both(valid, stored < self.before + shape[self.axis])
        return result, valid

    def undo(self, shape: Shape) -> Step:
        """The pads cut off."""
        return Unpad(self.axis, self.before, self.after)

    def is_noop(self, shape: Shape) -> bool:
        """Pads of zero do nothing."""
        return not self.before and not self.after


@dataclass(frozen=True)
class Unpad:
    """Cuts cells that hold no element before and after one axis: the inverse of `Pad`.

    That they hold none is for the `Layout` to check, which knows the steps before.

    Rewrite:
        before: x[e], and fill where e < before or e >= D - after
        after:  x[e - before]

    >>> Unpad(0, 1, 2).shape((7,)), Unpad(0, 1, 2).forward((4,), (7,))
    ((4,), [3])
    """

    axis: int
    before: int
    after: int
    name: ClassVar[str] = "unpad"

    @property
    def arguments(self) -> Shape:
        """The axis, and how many cells before and after."""
        return (self.axis, self.before, self.after)

    def shape(self, shape: Shape) -> Shape:
        """The axis without the cells, of which there must be more."""
        what = f"unpad axis {self.axis} of {shape} by {self.before} before and {self.after} after"
        check_axis(f"unpad axis {self.axis}", self.axis, shape)
        if self.before < 0 or self.after < 0:
            raise LayoutError(f"{what}: must be 0 or more; to add cells, pad")
        extent = shape[self.axis] - self.before - self.after
        if extent < 1:
            raise LayoutError(f"{what}: {extent} cells would be left; keep at least 1")
        return (*shape[: self.axis], extent, *shape[self.axis + 1 :])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The index moves by the cells before it."""
        result = list(indices)
        if self.before:
            result[self.axis] = result[self.axis] - self.before
        return result

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The index moves back; every cell that is left was one before."""
        result = list(indices)
        if self.before:
            result[self.axis] = result[self.axis] + self.before
        return result, True

    def undo(self, shape: Shape) -> Step:
        """As many cells added, which hold no element either."""
        return Pad(self.axis, self.before, self.after)

    def is_noop(self, shape: Shape) -> bool:
        """Cutting nothing does nothing."""
        return not self.before and not self.after
