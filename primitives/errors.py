"""The exceptions of this package."""

from __future__ import annotations


class LayoutError(Exception):
    """A layout, or a rewrite for one, that was asked for is not possible.

    The message is one line: what was asked, what is wrong with values, what to do.
    """


class Opaque(LayoutError):
    """A function does something that cannot be read as stages: sorts, scatters, calls, loops."""


class ScheduleError(LayoutError):
    """A loop primitive that was asked for is not possible, or would change the results."""
