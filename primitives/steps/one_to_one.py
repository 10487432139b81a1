"""Steps that keep every cell: split, reorder, fuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from primitives.errors import LayoutError
from primitives.indexing import Index, Valid, combine, digits
from primitives.steps.step import Shape, Step, check_axis


@dataclass(frozen=True)
class Split:
    """Splits one axis into several, outermost first.

    Rewrite:
        before: x[e], e < D = F1*F2
        after:  x[e // F2, e % F2]

    >>> Split(1, (2, 4)).shape((3, 8)), Split(1, (2, 4)).forward((2, 7), (3, 8))
    ((3, 2, 4), [2, 1, 3])
    """

    axis: int
    factors: Shape
    name: ClassVar[str] = "split"

    @property
    def arguments(self) -> Shape:
        """The axis, then the factors."""
        return (self.axis, *self.factors)

    def shape(self, shape: Shape) -> Shape:
        """The axis's extent replaced by the factors, whose product it must be."""
        given = self.factors
        by = " by ".join(map(str, given[1:])) or str(given)
        what = f"split axis {self.axis} of {shape} into {given}"
        check_axis(f"split axis {self.axis}", self.axis, shape)
        if not given or any(f < 1 for f in given):
            raise LayoutError(f"{what}: factors must be at least 1; give one or more such factors")
        extent = shape[self.axis]
        if prod(given) != extent:
            inner = prod(given[1:])
            raise LayoutError(
                f"{what}: {extent} is not a multiple of {inner}; pad it by {-extent % inner} first"
                if extent % inner
                else f"{what}: the factors' product is {prod(given)}, not {extent}; "
                f"split by {by} takes {extent // inner} as its first factor"
            )
        return (*shape[: self.axis], *given, *shape[self.axis + 1 :])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The index of the axis becomes its digits."""
        a = self.axis
        return [*indices[:a], *digits(indices[a], self.factors), *indices[a + 1 :]]

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The digits are combined again."""
        a, end = self.axis, self.axis + len(self.factors)
        return [*indices[:a], combine(indices[a:end], self.factors), *indices[end:]], True

    def undo(self, shape: Shape) -> Step:
        """The axes fused again."""
        return Fuse(self.axis, len(self.factors))

    def is_noop(self, shape: Shape) -> bool:
        """One factor splits nothing."""
        return len(self.factors) == 1


@dataclass(frozen=True)
class Reorder:
    """Permutes the axes: stored axis i is axis `perm[i]`.

    Rewrite:
        before: x[a, b, c]
        after:  x[b, c, a]  for perm (1, 2, 0)

    >>> Reorder((1, 2, 0)).shape((5, 6, 7)), Reorder((1, 2, 0)).forward((2, 3, 4), (5, 6, 7))
    ((6, 7, 5), [3, 4, 2])
    """

    perm: Shape
    name: ClassVar[str] = "reorder"

    @property
    def arguments(self) -> Shape:
        """The permutation."""
        return self.perm

    def shape(self, shape: Shape) -> Shape:
        """The extents permuted; the permutation must name every axis once."""
        if sorted(self.perm) != list(range(len(shape))):
            raise LayoutError(
                f"reorder {shape} by {self.perm}: not a permutation of its {len(shape)} axes; "
                f"name each of 0 to {len(shape) - 1} once"
            )
        return tuple(shape[p] for p in self.perm)

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The indices permuted."""
        return [indices[p] for p in self.perm]

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The indices put back."""
        result: list[Index] = [None] * len(self.perm)
        for stored, logical in enumerate(self.perm):
            result[logical] = indices[stored]
        return result, True

    def undo(self, shape: Shape) -> Step:
        """The inverse permutation."""
        places = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        return Reorder(tuple(places))

    def is_noop(self, shape: Shape) -> bool:
        """The identity permutation does nothing."""
        return self.perm == tuple(range(len(self.perm)))


@dataclass(frozen=True)
class Fuse:
    """Fuses `count` neighbouring axes, from `axis` on, into one.

    Rewrite:
        before: x[i, j], j < D
        after:  x[i * D + j]

    >>> Fuse(0, 2).shape((3, 4, 5)), Fuse(0, 2).forward((2, 1, 4), (3, 4, 5))
    ((12, 5), [9, 4])
    """

    axis: int
    count: int
    name: ClassVar[str] = "fuse"

    @property
    def arguments(self) -> Shape:
        """The first axis and how many."""
        return (self.axis, self.count)

    def shape(self, shape: Shape) -> Shape:
        """The product of the extents in their place."""
        what = f"fuse {self.count} axes"
        check_axis(what, self.axis, shape)
        end = self.axis + self.count
        if self.count < 1 or end > len(shape):
            raise LayoutError(
                f"{what} from axis {self.axis} of {shape}: there are {len(shape) - self.axis}; "
                f"fuse 1 to {len(shape) - self.axis}"
            )
        return (*shape[: self.axis], prod(shape[self.axis : end]), *shape[end:])

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """The indices of the fused axes are combined."""
        a, end = self.axis, self.axis + self.count
        return [*indices[:a], combine(indices[a:end], shape[a:end]), *indices[end:]]

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """The fused index is taken apart again."""
        a = self.axis
        return [
            *indices[:a],
            *digits(indices[a], shape[a : a + self.count]),
            *indices[a + 1 :],
        ], True

    def undo(self, shape: Shape) -> Step:
        """The axis split into the extents it had."""
        return Split(self.axis, shape[self.axis : self.axis + self.count])

    def is_noop(self, shape: Shape) -> bool:
        """Fusing one axis does nothing."""
        return self.count == 1
