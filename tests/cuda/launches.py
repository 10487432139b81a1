"""What the emulated driver counts."""

from __future__ import annotations

import ctypes
import os

EMULATED = "ALT_FAKE_SM" in os.environ


def counts() -> dict[str, int]:
    """Launches by the host, recorded, and replayed so far; graphs there are. On a device zeros."""
    names = ("direct", "recorded", "replayed", "graphs")
    if not EMULATED:
        return dict.fromkeys(names, 0)
    count = ctypes.CDLL("libcuda.so.1").fake_count
    return {name: count(k) for k, name in enumerate(names)}


def counts_since(before: dict[str, int]) -> dict[str, int]:
    """What was counted after `counts` said this."""
    return {name: now - before[name] for name, now in counts().items()}
