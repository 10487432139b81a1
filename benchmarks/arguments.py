"""Values of the benchmarks' command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def names_of(known: Sequence[str], text: str) -> list[str]:
    """Comma-separated names, each among the known ones; none at all for an empty text.

    Example:
        >>> names_of(["a", "b"], "b,a"), names_of(["a", "b"], "")
        (['b', 'a'], [])
    """
    found = [name for name in text.split(",") if name]
    if unknown := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}"
        )
    return found


def some_names_of(known: Sequence[str], text: str) -> list[str]:
    """The same, but at least one."""
    if not (found := names_of(known, text)):
        raise argparse.ArgumentTypeError(f"unknown: {text!r}; choose from {', '.join(known)}")
    return found
