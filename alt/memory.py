"""Memory that compiled code may be handed."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

ALIGNMENT = 64
"""Bytes; TVM asks for it, and it is the line of every cache we know."""

SLACK_BYTES = 256
"""Vectors may read, never use, this far behind the last element of a tensor."""


def aligned(size: int) -> int:
    """The next size that keeps what follows aligned.

    >>> aligned(1), aligned(64)
    (64, 64)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned_empty(size: int) -> np.ndarray:
    """Uninitialised bytes whose address is a multiple of the alignment.

    Example:
        >>> block = aligned_empty(100)
        >>> block.size, block.ctypes.data % ALIGNMENT
        (100, 0)
    """
    raw = np.empty(size + ALIGNMENT, "uint8")
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + size]


class RecentArrays:
    """Arrays by key: those used last, up to so many bytes.

    >>> recent = RecentArrays(most_bytes=100)
    >>> recent.keep("a", np.zeros(60, "uint8"))
    >>> recent.keep("b", np.zeros(60, "uint8"))
    >>> recent.find("a") is None, recent.find("b").nbytes
    (True, 60)
    """

    def __init__(self, most_bytes: int) -> None:
        """Nothing is kept yet."""
        self.most_bytes = most_bytes
        self.bytes = 0
        self._arrays: OrderedDict[object, np.ndarray] = OrderedDict()

    def find(self, key: object) -> np.ndarray | None:
        """The array kept under a key; others may read it, too."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def keep(self, key: object, array: np.ndarray) -> None:
        """Keep an array, and forget those not used for longest."""
        before = self._arrays.pop(key, None)
        self.bytes += array.nbytes - (0 if before is None else before.nbytes)
        self._arrays[key] = array
        while self.bytes > self.most_bytes:
            self.bytes -= self._arrays.popitem(last=False)[1].nbytes
