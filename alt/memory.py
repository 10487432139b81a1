"""Memory that compiled code may be handed."""

from __future__ import annotations

import numpy as np

ALIGNMENT = 64
"""Bytes; TVM asks for it, and it is the line of every cache we know."""


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
