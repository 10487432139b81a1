"""What the tuner, the zygote and its workers say to each other; all of it can be pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from alt.errors import AltError
from alt.policies import LayoutPolicy
from tuner.config import Answer, Config
from tuner.task import Candidate, Measurement

Answers = Mapping[str, Answer]

_MOST_FLUSHED = (1 << 31) - 1
"""TVM counts these bytes in 32 bits."""


@dataclass(frozen=True)
class Job:
    """The network whose kernels are measured, and where; see `alt.compile`.

    Attributes:
        model: a path, or the bytes of a model.
        target: as text, as the dictionary that was given, or what became of it.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        schedule_threads: threads that kernels are scheduled for, None for one a physical core.
        threads: threads that kernels run on.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
        seed: makes the inputs.
        memory_bytes: that building or running one candidate may take.
        setup: `module:function`, called with the tasks by key; what it returns is used instead.
        precision: what a GPU may multiply.
    """

    model: str | bytes
    target: Any
    shapes: Mapping[str, Sequence[int]] | None
    constants: Mapping[str, np.ndarray] | None
    schedule_threads: int | None
    threads: int
    policy: LayoutPolicy
    winograd: bool
    seed: int
    memory_bytes: int
    setup: str
    precision: str


@dataclass(frozen=True)
class Timing:
    """How long and how often a candidate is run.

    Attributes:
        repeats: samples of a candidate.
        min_seconds: a sample is the mean of as many calls as take this long, on a GPU at least 100
            microseconds.
        flush_bytes: so much memory is read and as much written before a sample, which then is a
            single call with cold caches; 0 for warm ones.
        hopeless: a candidate that takes so many times the best known time gets a single sample.
        cold_weights: use weights that were last used as long ago as in the network, see
            `alt.timing`; on this machine only.

    Raises:
        AltError: if a number makes no sense.

    Example:
        >>> Timing(repeats=9).caches, Timing(flush_bytes=32 << 20).caches
        ({}, {'flush_bytes': 33554432})
    """

    repeats: int = 3
    min_seconds: float = 0.004
    flush_bytes: int = 0
    hopeless: float = 1.5
    cold_weights: bool = True

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.repeats < 1:
            raise AltError(f"timing with repeats={self.repeats}: give at least 1")
        if not 0 <= self.min_seconds < inf:
            raise AltError(f"timing with min_seconds={self.min_seconds}: give 0 or more")
        if not 0 <= self.flush_bytes <= _MOST_FLUSHED:
            raise AltError(
                f"timing with flush_bytes={self.flush_bytes}: give 0 to {_MOST_FLUSHED}; the size "
                "of the last cache is enough"
            )
        if not self.hopeless >= 1:
            raise AltError(f"timing with hopeless={self.hopeless}: give at least 1")

    @property
    def caches(self) -> dict[str, Any]:
        """The state of caches that candidates find, by what is not as usual."""
        if self.flush_bytes:
            return {"flush_bytes": self.flush_bytes}
        return {} if self.cold_weights else {"cold_weights": False}


@dataclass(frozen=True)
class Limits:
    """What a candidate may take.

    Attributes:
        build_seconds: for building it.
        run_seconds: for running and timing it.
        memory_bytes: for either; by default an equal share of half of the memory for each worker.
    """

    build_seconds: float = 10.0
    run_seconds: float = 10.0
    memory_bytes: int | None = None

    def allowing(self, timing: Timing) -> Limits:
        """These, with more time for running where there are more or longer samples than usual.

        Example:
            >>> Limits().allowing(Timing()) == Limits()
            True
            >>> Limits().allowing(Timing(repeats=30, min_seconds=1.004)).run_seconds
            160.0
        """
        often = max(1.0, timing.repeats / Timing.repeats)
        longer = 2 * Timing.repeats * max(0.0, timing.min_seconds - Timing.min_seconds)
        return replace(self, run_seconds=often * (self.run_seconds + longer))


@dataclass(frozen=True)
class Named:
    """A candidate of a task, by the key of the task and its answers."""

    key: str
    layout: Answers
    loops: Answers

    @staticmethod
    def of(key: str, candidate: Candidate) -> Named:
        """The name of a candidate."""
        return Named(key, dict(candidate.layout), dict(candidate.loops))

    @property
    def candidate(self) -> Candidate:
        """The candidate."""
        return Candidate(Config(self.layout), Config(self.loops))


# --- to a worker; one answer follows each -------------------------------------------------------


@dataclass(frozen=True)
class Refer:
    """Compute the reference of a task; answered by an array, or a failure.

    Attributes:
        key: of the task.
        seed: makes the inputs; None for those that candidates are run on.
    """

    key: str
    seed: int | None = None


@dataclass(frozen=True)
class Build:
    """Build candidates of a task and keep each under its number.

    Answered by `Built`, or one failure for all.
    """

    numbers: tuple[int, ...]
    named: tuple[Named, ...]


@dataclass(frozen=True)
class Run:
    """Run what was built, compare, time; answered by a measurement.

    Attributes:
        number: that it was built under.
        timing: how to time.
        reference: of the task; None where the worker was given it before.
        best: the best time known of the task, in seconds.
        last: whether it is needed no more.
        checked: whether its results were compared before.
    """

    number: int
    timing: Timing
    reference: np.ndarray | None
    best: float
    last: bool
    checked: bool = False


@dataclass(frozen=True)
class Check:
    """Build, compare on inputs made from another seed, and time."""

    named: Named
    seed: int
    timing: Timing
    reference: np.ndarray


@dataclass(frozen=True)
class Convert:
    """Time the kernel that copies a tensor from one layout to another; layouts are texts."""

    shape: tuple[int, ...]
    dtype: str
    stored: str
    wanted: str
    timing: Timing


Request = Refer | Build | Run | Check | Convert


# --- from a worker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """Candidates were built, in so many seconds each."""

    seconds: float


Reply = Built | Measurement | np.ndarray
