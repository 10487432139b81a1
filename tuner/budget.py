"""How much of a search's budget is gone, and how it is dealt out.

>>> budget = Budget(trials=100, seconds=None, batch=16)
>>> budget.spent(trials=25, elapsed=3.0, rounds=2), budget.over(trials=100, elapsed=12.0)
(0.25, '100 trials were made')
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

ROUNDS = 12
"""Without a budget a task is taken to have this many rounds before it."""

RATE = 10.0
"""Candidates a second, as long as none were measured."""


@dataclass(frozen=True)
class Budget:
    """Bounds of a search; see `tuner.options.Options`."""

    trials: int | None
    seconds: float | None
    batch: int

    def over(self, trials: int, elapsed: float) -> str:
        """Why there is nothing left of it; empty as long as there is."""
        if self.trials is not None and trials >= self.trials:
            return f"{trials} trials were made"
        if self.seconds is not None and elapsed >= self.seconds:
            return f"{self.seconds:g} seconds are over"
        return ""

    def spent(self, trials: int, elapsed: float, rounds: int) -> float:
        """The part of it that is gone.

        Args:
            trials: of all tasks.
            elapsed: seconds.
            rounds: of the task that asks: what counts where nothing is bounded.
        """
        if self.trials is None and self.seconds is None:
            return rounds / ROUNDS
        gone = 0.0 if self.trials is None else trials / self.trials
        return gone if self.seconds is None else max(gone, elapsed / self.seconds)

    def affordable(self, trials: int, elapsed: float, owed: int) -> int:
        """The size of the next batch, at least 1.

        Args:
            trials: measured so far, of all tasks.
            elapsed: seconds so far.
            owed: rounds that every task is to get and has not had yet: they share what is left.
        """
        left = inf if self.trials is None else self.trials - trials
        most = min(self.batch, left)
        if self.seconds is not None:
            rate = trials / elapsed if trials and elapsed > 0 else RATE
            left = min(left, (self.seconds - elapsed) * rate)
        return int(max(1, min(most, left // owed if owed else most)))
