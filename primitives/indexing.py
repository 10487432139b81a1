"""Arithmetic on indices that is the same for ints, NumPy arrays and TVM expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

Index = Any
"""An int, a NumPy integer array or a TVM expression."""

Valid = Any
"""True, a NumPy boolean array or a TVM condition: does this cell hold an element?"""


_TRUTHS = (bool, np.bool_, np.ndarray)


def both(a: Valid, b: Valid) -> Valid:
    """The conjunction of two validities of any one kind.

    >>> both(True, False), both(np.array([True, False]), True).tolist()
    (False, [True, False])
    """
    if a is True:
        return b
    if b is True:
        return a
    if isinstance(a, _TRUTHS) and isinstance(b, _TRUTHS):
        return a & b
    from primitives.tensorir import tirx  # only expressions need TVM

    return tirx.all(a, b)


def digits(index: Index, factors: Sequence[int]) -> list[Index]:
    """An index below the product of the factors, as one digit a factor, most significant first.

    >>> digits(23, (2, 3, 4))
    [1, 2, 3]
    """
    result: list[Index] = [0] * len(factors)
    places = [place for place, factor in enumerate(factors) if factor != 1]
    below = 1
    for place in reversed(places):
        digit = index if below == 1 else index // below
        result[place] = digit if place == places[0] else digit % factors[place]
        below *= factors[place]
    return result


def combine(indices: Sequence[Index], extents: Sequence[int]) -> Index:
    """The index that has these digits: the inverse of `digits`.

    >>> combine((1, 2, 3), (2, 3, 4))
    23
    """
    total: Index = None
    below = 1
    for index, extent in zip(reversed(indices), reversed(extents), strict=True):
        if extent == 1 or (isinstance(index, int) and index == 0):
            below *= extent
            continue
        term = index if below == 1 else index * below
        total = term if total is None else term + total
        below *= extent
    return 0 if total is None else total


def at_most(index: Any, bound: int) -> Index:
    """The smaller of an index and a number, for an index of any kind.

    >>> at_most(5, 3), at_most(np.array([1, 5]), 3).tolist()
    (3, [1, 3])
    """
    if isinstance(index, int):
        return min(index, bound)
    if isinstance(index, np.ndarray | np.generic):
        return np.minimum(cast("Any", index), bound)
    from primitives.tensorir import tirx  # only expressions need TVM

    return tirx.min(index, tirx.const(bound, str(index.ty.dtype)))
