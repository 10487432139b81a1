"""What is expected of the candidates of a task, each described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from tuner.cost_model import CostModel, Floats
from tuner.task import Candidate, Task

_KEPT = 4096
"""So many candidates are remembered: evolution looks at hundreds for each that is measured."""


class Scores:
    """Ranks candidates by a model; as long as there is none, by the analytic estimate.

    Attributes:
        model: learns elsewhere.
        known: features that need not be computed.
    """

    def __init__(self, task: Task, default: Candidate) -> None:
        """The scores of a task; `default` is the first to be asked about."""
        self.model: CostModel | None = None
        self.known: Mapping[Candidate, Sequence[float]] = {}
        self._task = task
        self._features = lru_cache(_KEPT)(self._described)
        self._estimate = lru_cache(_KEPT)(task.estimate)
        self._least = self._estimate(default)

    def of(self, candidates: Sequence[Candidate]) -> Floats:
        """One number for each, larger for what should be faster."""
        if self.model is None:
            return np.array([-self._estimate(candidate) for candidate in candidates])
        return self.model.predict(self.features(candidates))

    def features(self, candidates: Sequence[Candidate]) -> Floats:
        """See `Task.features`."""
        return np.array([self._features(candidate) for candidate in candidates])

    def hopeless(self, candidate: Candidate, factor: float) -> bool:
        """Whether it should take more than so many times the least of all that were asked about."""
        estimate = self._estimate(candidate)
        self._least = min(self._least, estimate)
        return estimate > factor * self._least

    def _described(self, candidate: Candidate) -> Floats:
        known = self.known.get(candidate)
        return self._task.features([candidate])[0] if known is None else np.array(known)
