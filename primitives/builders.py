"""One method for each step, for all that steps can be applied to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import prod
from typing import TypeVar

from primitives.errors import LayoutError
from primitives.steps import Fold, Fuse, Pad, Reorder, Shape, Split, Step, Unfold, Unpad

Built = TypeVar("Built", bound="Builders")


class Builders(ABC):
    """What is stored in some shape and can be stored by one more step."""

    shape: Shape
    """The stored shape."""

    @abstractmethod
    def apply(self: Built, step: Step) -> Built:
        """The same, followed by one more step."""

    def split(self: Built, axis: int, factors: Iterable[int]) -> Built:
        """Split a stored axis; one factor may be -1, which stands for what the others leave."""
        given = tuple(factors)
        if given.count(-1) == 1 and 0 <= axis < len(self.shape):
            rest = prod(f for f in given if f != -1)
            extent = self.shape[axis]
            if rest < 1 or extent % rest:
                raise LayoutError(
                    f"split axis {axis} of {self.shape} into {given}: {extent} is not a multiple "
                    f"of {rest}; "
                    + (f"pad it by {-extent % rest} first" if rest > 0 else "use factors >= 1")
                )
            given = tuple(extent // rest if f == -1 else f for f in given)
        return self.apply(Split(axis, given))

    def reorder(self: Built, perm: Iterable[int]) -> Built:
        """Permute the stored axes: the new axis i is the old axis `perm[i]`."""
        return self.apply(Reorder(tuple(perm)))

    def fuse(self: Built, axis: int, count: int) -> Built:
        """Fuse `count` stored axes from `axis` on."""
        return self.apply(Fuse(axis, count))

    def pad(self: Built, axis: int, before: int, after: int) -> Built:
        """Add cells without an element before and after a stored axis."""
        return self.apply(Pad(axis, before, after))

    def unpad(self: Built, axis: int, before: int, after: int) -> Built:
        """Cut cells off before and after a stored axis, which must hold no element."""
        return self.apply(Unpad(axis, before, after))

    def unfold(self: Built, axis: int, size: int, stride: int) -> Built:
        """Cut a stored axis into overlapping tiles of `size` that begin every `stride` cells."""
        return self.apply(Unfold(axis, size, stride))

    def fold(self: Built, axis: int, extent: int, stride: int) -> Built:
        """Lay the tiles of an unfold, stored axes `axis` and `axis + 1`, over each other again."""
        return self.apply(Fold(axis, extent, stride))
