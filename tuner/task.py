"""What is tuned and what came out: `Task`, `Candidate`, `Measurement`, and who measures.

>>> good = Measurement(Status.ok, seconds=(0.004, 0.002, 0.003), error=1e-6)
>>> good.ok, good.best, round(good.spread, 2)
(True, 0.003, 0.33)
>>> Measurement(Status.timeout, message="ran for 10 s").best
inf
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from statistics import median, quantiles
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tuner.choices import Config
from tuner.errors import TuningError
from tuner.space import Space

Floats = npt.NDArray[np.float64]


class Status(str, Enum):
    """How measuring a candidate ended."""

    ok = "ok"
    build = "build"
    """The schedule or the code generator refused it."""
    run = "run"
    """It raised while it ran."""
    timeout = "timeout"
    memory = "memory"
    wrong = "wrong"
    """It ran, and its result is not the reference's."""
    crash = "crash"
    """It took its process with it."""


@dataclass(frozen=True)
class Measurement:
    """What measuring a candidate gave. Failure is data: nothing is raised for it.

    Args:
        status: How it ended.
        seconds: The time of a run, one entry a sample; empty unless the status is ok.
        error: The largest relative error against the reference, where one was computed.
        message: For people: why it failed, in a line.
        build_seconds: How long building took.

    Raises:
        TuningError: An ok without samples.
    """

    status: Status
    seconds: tuple[float, ...] = ()
    error: float | None = None
    message: str = ""
    build_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuses an ok that has no time."""
        if self.status is Status.ok and not self.seconds:
            raise TuningError("measurement that is ok: there are no samples; give seconds")

    @property
    def ok(self) -> bool:
        """Whether it was built, ran, gave the right result, and was timed."""
        return self.status is Status.ok

    @property
    def best(self) -> float:
        """The median of the samples, in seconds; infinite for a failure.

        The median and not the minimum: a minimum rewards the candidate with the most lucky run.
        """
        return median(self.seconds) if self.ok else inf

    @property
    def spread(self) -> float:
        """The distance between the quartiles as a part of the median; 0 for fewer than two."""
        if not self.ok or len(self.seconds) < 2 or self.best == 0:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.best


@dataclass(frozen=True)
class Candidate:
    """A way to compute a task: how its tensors are stored, and how its loops run."""

    layout: Config
    loops: Config


class Task(Protocol):
    """A distinct function of a network that is to be tuned."""

    @property
    def key(self) -> str:
        """The canonical name of the computation: equal keys may share records."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def weight(self) -> int:
        """How often it occurs in the network."""
        ...

    @property
    def operations(self) -> float:
        """The arithmetic operations of a run."""
        ...

    @property
    def layouts(self) -> Space:
        """The layouts of its tensors."""
        ...

    def loops(self, layout: Config) -> Space:
        """The loop schedules, which depend on the layout."""
        ...

    def features(self, candidates: Sequence[Candidate]) -> Floats:
        """What a cost model sees.

        Shape:
            (candidates, features); the same number of features for every task of a kind.
        """
        ...

    def estimate(self, candidate: Candidate) -> float:
        """An analytic guess, in seconds, that throws away hopeless candidates unbuilt."""
        ...


class Measurer(Protocol):
    """Builds, checks and times candidates; never raises for a bad one."""

    def measure(self, task: Task, candidates: Sequence[Candidate]) -> list[Measurement]:
        """A measurement for each candidate, in their order.

        Raises:
            Unmeasurable: nothing can be measured of this task, whatever the candidate.
        """
        ...
