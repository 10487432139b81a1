"""The layout primitives, each defined once, for ints, NumPy arrays and TVM expressions alike.

A step takes a tensor of one shape to a tensor of another. `forward` says where an element goes;
`inverse` says which element a cell holds, and whether it holds one at all. The definitions use
only operators that Python ints, NumPy integer arrays and TVM expressions share, so the same code
is the reference, the packer's oracle and what compiled programs compute.

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout primitives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Protocol, runtime_checkable

from primitives.errors import LayoutError
from primitives.indexing import Index, Valid, at_most, both, combine, digits

Shape = tuple[int, ...]


@runtime_checkable
class Step(Protocol):
    """One primitive: `shape` raises `LayoutError` where it is illegal, the others rely on that."""

    name: ClassVar[str]
    """The primitive's name in the text form of layouts."""

    @property
    def arguments(self) -> Shape:
        """The ints of the text form, from which `from_arguments` builds the step again."""
        ...

    def shape(self, shape: Shape) -> Shape:
        """The stored shape, for a tensor of this shape."""
        ...

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """Where the element at these indices of a tensor of this shape is stored."""
        ...

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """Which element of a tensor of this shape the cell at these stored indices holds."""
        ...

    def undo(self, shape: Shape) -> Step:
        """The step that gives a tensor of this shape back from its stored form."""
        ...

    def is_noop(self, shape: Shape) -> bool:
        """Whether the step leaves a tensor of this shape as it is."""
        ...


def _check_axis(what: str, axis: int, shape: Shape) -> None:
    if not 0 <= axis < len(shape):
        raise LayoutError(
            f"{what} of {shape}: there is no axis {axis}; axes are 0 to {len(shape) - 1}"
        )


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
        _check_axis(f"split axis {self.axis}", self.axis, shape)
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
        _check_axis(what, self.axis, shape)
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
        _check_axis(f"pad axis {self.axis}", self.axis, shape)
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
        _check_axis(f"unpad axis {self.axis}", self.axis, shape)
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
        _check_axis(f"unfold axis {a}", a, shape)
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
        _check_axis(f"fold axis {a}", a, shape)
        _check_axis(f"fold axis {a} with the next", a + 1, shape)
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


def merged(first: Step, second: Step, shape: Shape) -> tuple[Step, ...] | None:
    """Simpler steps for two in a row on a tensor of this shape; None if there are none.

    A step and what undoes it become nothing, two reorders one; a pad and an unpad lose what the
    second takes back of the first.

    >>> merged(Pad(0, 1, 2), Unpad(0, 1, 1), (4,))
    (Pad(axis=0, before=0, after=1), Unpad(axis=0, before=0, after=0))
    >>> merged(Split(0, (2, 3)), Fuse(0, 2), (6,)), merged(Split(0, (2, 3)), Pad(0, 0, 1), (6,))
    ((), None)
    """
    match first, second:
        case Reorder(p), Reorder(q):
            return (Reorder(tuple(p[axis] for axis in q)),)
        case (Pad(), Unpad()) | (Unpad(), Pad()) if first.axis == second.axis:
            before, after = min(first.before, second.before), min(first.after, second.after)
            if not before and not after:
                return () if second == first.undo(shape) else None
            a, b = (
                replace(step, before=step.before - before, after=step.after - after)
                for step in (first, second)
            )
            return a, b
        case (Split(), Fuse()) | (Fuse(), Split()) | (Unfold(), Fold()) | (Fold(), Unfold()):
            return () if second == first.undo(shape) else None
        case _:
            return None


def from_arguments(name: str, arguments: Shape) -> Step:
    """The step with this name and these arguments, as `Step.name` and `Step.arguments` give them.

    >>> from_arguments("split", (1, 2, 4))
    Split(axis=1, factors=(2, 4))
    """
    match name, arguments:
        case "split", (axis, *factors) if factors:
            return Split(axis, tuple(factors))
        case "reorder", _:
            return Reorder(arguments)
        case "fuse", (axis, count):
            return Fuse(axis, count)
        case "pad", (axis, before, after):
            return Pad(axis, before, after)
        case "unpad", (axis, before, after):
            return Unpad(axis, before, after)
        case "unfold", (axis, size, stride):
            return Unfold(axis, size, stride)
        case "fold", (axis, extent, stride):
            return Fold(axis, extent, stride)
        case _:
            raise LayoutError(
                f"step {name}{arguments}: no such step; "
                "write split(axis, factors...), reorder(perm...), fuse(axis, count), "
                "pad(axis, before, after), unfold(axis, size, stride), or to undo them "
                "unpad(axis, before, after), fold(axis, extent, stride)"
            )
