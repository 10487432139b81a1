"""The exceptions of this package."""

from __future__ import annotations


class TuningError(Exception):
    """Something that was asked of the tuner is not possible.

    The message is one line: what was asked, what is wrong with values, what to do. A candidate that
    fails to build or to run is no error: it is a `Measurement` with a status.
    """


class Unmeasurable(TuningError):
    """Nothing can be measured of a task, whatever the candidate, so none of them is to blame.

    The message is the reason; who catches it knows the task.
    """


class Infeasible(TuningError):
    """A program says that this combination of answers is illegal: its space leaves it out."""
