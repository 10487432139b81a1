"""What a cost model is: features in, scores out; it learns from measurements, within a task only.

Latencies of different tasks are not compared: each group is one task, and its fastest is 1.

>>> group = Group(np.zeros((3, 8)), np.array([0.002, 0.001, np.inf]))
>>> throughputs(group)
array([0.5, 1. , 0. ])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tuner.errors import TuningError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """The measured candidates of one task.

    Args:
        features: One row a candidate.
        seconds: How long each takes; infinite for failures.

    Shape:
        features (candidates, features), seconds (candidates,)

    Raises:
        TuningError: The shapes do not fit, or a time is not positive.
    """

    features: Floats
    seconds: Floats

    def __post_init__(self) -> None:
        """Refuses what would be learnt wrongly."""
        if self.features.ndim != 2 or self.seconds.shape != self.features.shape[:1]:
            raise TuningError(
                f"group of features {self.features.shape} and seconds {self.seconds.shape}:"
                " give a row of features for each time"
            )
        if not (self.seconds > 0).all():
            raise TuningError(
                f"group of {len(self.seconds)} times: the least is {self.seconds.min()};"
                " give positive seconds, infinite ones for failures"
            )


class CostModel(Protocol):
    """Learns from groups, predicts scores; deterministic for a seed."""

    def fit(self, groups: Sequence[Group]) -> None:
        """Learns from these groups alone: to go on with old records, hand them over again."""
        ...

    def predict(self, features: Floats) -> Floats:
        """Scores, larger for faster; comparable within a task. All 0 before it has learnt.

        Shape:
            (candidates, features) -> (candidates,)
        """
        ...

    def save(self, path: Path) -> None:
        """Writes what was learnt."""
        ...


def throughputs(group: Group) -> Floats:
    """The fastest time over each time: 1 for the fastest, 0 for failures."""
    return np.min(group.seconds, initial=np.inf, where=np.isfinite(group.seconds)) / group.seconds


def pairwise_accuracy(scores: Floats, seconds: Floats, noise: float = 0.02) -> float:
    """How many pairs of candidates a model puts in the right order, of those that differ.

    Args:
        scores: Larger for faster; equal ones count half.
        seconds: What was measured.
        noise: Times closer than this part are no pair.

    >>> pairwise_accuracy(np.array([3.0, 2.0, 1.0]), np.array([1.0, 3.0, 2.0]))
    0.6666666666666666
    """
    slower = seconds[None, :] > seconds[:, None] * (1 + noise)
    ahead = np.sign(scores[:, None] - scores[None, :])
    return float((0.5 + 0.5 * ahead[slower]).mean()) if slower.any() else 1.0
