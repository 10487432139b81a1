"""Compiled code may write what is its own, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import alt.arrays
import alt.expected
import alt.module

MARGIN, MARK = 1024, 0xA5


@pytest.fixture(autouse=True)
def _memory_around_tensors_stays_as_it_is(monkeypatch):
    """Outputs and the arena get margins, which are looked at after every test."""
    blocks: list[tuple[np.ndarray, int, int]] = []

    def fenced(size: int) -> np.ndarray:
        raw = np.full(size + 2 * MARGIN + 64, MARK, np.uint8)
        start = MARGIN + -(raw.ctypes.data + MARGIN) % 64
        blocks.append((raw, start, start + size))
        return raw[start : start + size]

    for module in (alt.arrays, alt.module, alt.expected):
        monkeypatch.setattr(module, "aligned_empty", fenced)
    yield
    for raw, start, end in blocks:
        assert (raw[:start] == MARK).all(), f"written before a tensor of {end - start} bytes"
        assert (raw[end:] == MARK).all(), f"written behind a tensor of {end - start} bytes"
