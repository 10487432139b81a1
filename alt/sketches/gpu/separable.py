"""Tensors whose addresses are sums of one term for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alt.elementary import Expr
from alt.graph import Value
from alt.operators import linear
from alt.sketches.gpu.product import LANES
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import i32
from primitives import Layout
from primitives.steps import Pad, Reorder, Split


@dataclass(frozen=True)
class Separable:
    """Where the elements of a tensor lie: `address(i, j, ...) = a(i) + b(j) + ...`.

    Attributes:
        layout: of the tensor.
    """

    layout: Layout

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.layout.logical_shape)

    def terms(self, axis: int) -> np.ndarray:
        """What each index of an axis adds to the address, all other indices being 0."""
        extent = self.layout.logical_shape[axis]
        zero = np.zeros(extent, np.int64)
        indices = [np.arange(extent) if a == axis else zero for a in range(self.rank)]
        return np.asarray(linear(self.layout.forward(indices), self.layout.shape)) + zero

    def stride(self, axis: int) -> int | None:
        """How far neighbours along an axis are apart; None if that is not the same everywhere."""
        apart = np.unique(np.diff(self.terms(axis)))
        if len(apart) > 1:
            return None
        return int(apart[0]) if len(apart) else 0

    def term(self, scope: GpuScope, axis: int, index: Expr) -> Expr:
        """What an index adds to the address of an element; it may not exist along strided axes."""
        stride = self.stride(axis)
        if stride is not None:
            return index * stride
        indices = [index if a == axis else i32(0) for a in range(self.rank)]
        return scope.address(self.layout, indices) - self.origin

    @property
    def origin(self) -> int:
        """The address of the first element."""
        return int(self.terms(0)[0])

    def lanes(self, axis: int, run: int) -> int:
        """How many neighbours along an axis lie side by side, aligned, from a multiple of that on.

        Args:
            axis: which one.
            run: a number of neighbours; the next ones may be anywhere.
        """
        along = self.terms(axis)
        others = [self.terms(a) - self.origin for a in range(self.rank) if a != axis]
        for lanes in (LANES, 2):
            if run % lanes or any((terms % lanes).any() for terms in others):
                continue
            rows = along.reshape(-1, lanes)
            if (rows[:, 0] % lanes == 0).all() and (np.diff(rows) == 1).all():
                return lanes
        return 1


def separable(layout: Layout, strided: Sequence[int]) -> Separable | None:
    """A tensor's addresses as sums, if they are.

    Args:
        layout: how it is stored.
        strided: axes whose neighbours have to be equally far apart.
    """
    # What these steps make of an index depends on the indices of no other axis.
    if not all(isinstance(step, Split | Reorder | Pad) for step in layout.steps):
        return None
    found = Separable(layout)
    return found if all(found.stride(axis) is not None for axis in strided) else None


def stored(scope: GpuScope, value: Value) -> Separable | None:
    """`separable` for the images of a convolution, whose places have to be equally far apart."""
    return separable(scope.layout(value), range(2, len(value.shape)))
