"""How a network is tuned: budgets, their shares, and who proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tuner.actor_critic import ActorCritic
from tuner.errors import TuningError
from tuner.evolution import Evolution
from tuner.exhaustive import Exhaustive
from tuner.search import RandomSearch, Score, Search
from tuner.space import Space

if TYPE_CHECKING:
    from tuner.agent import Agent

Rng = np.random.Generator
SearcherName = Literal["exhaustive", "evolution", "ppo", "random"]

_SEARCHERS: dict[str, Callable[[Space, Rng, Score | None, Agent | None], Search]] = {
    "exhaustive": lambda space, rng, score, _: Exhaustive(space, score, rng),
    # Small generations: proposing may not take longer than measuring.
    "evolution": lambda space, rng, score, _: Evolution(
        space, rng, score, population=32, generations=2
    ),
    "ppo": lambda space, rng, _, agent: ActorCritic(space, rng, agent),
    "random": lambda space, rng, _score, _agent: RandomSearch(space, rng),
}

SEARCHERS = tuple(_SEARCHERS)
"""Who may propose layouts or loops."""


def searcher(
    name: str, space: Space, rng: Rng, score: Score | None = None, agent: Agent | None = None
) -> Search:
    """The searcher of this name.

    Args:
        name: one of `SEARCHERS`.
        space: what is searched.
        rng: decides.
        score: what those that rank candidates rank them by.
        agent: what `ppo` learns with, and may share; by default one that knows nothing.

    Raises:
        TuningError: if there is none.
    """
    if name not in _SEARCHERS:
        raise TuningError(f"searcher {name!r}: use one of {', '.join(_SEARCHERS)}")
    return _SEARCHERS[name](space, rng, score, agent)


@dataclass(frozen=True)
class Options:
    """How a network is tuned.

    Attributes:
        trials: candidates to measure, of all tasks together; None for no bound. The few fastest are
            measured again in the end, on top of that.
        seconds: wall time; None for no bound. Whichever ends first ends the search.
        batch: candidates that are built and measured together.
        joint_share: the part of the budget that goes to layouts; the rest goes to loops. 0 leaves
            layouts at their default: loop-only tuning.
        layout_rounds: rounds of loop search that a proposed layout gets before it is judged.
        layouts: who proposes layouts.
        loops: who proposes loops, before coordinate descent finishes.
        patience: a task goes on to its loops, and is done, after so many rounds without an
            improvement of 1 %.
        hopeless: candidates that the analytic model expects to take so many times the best
            expected are not built.
        seed: of all random decisions.
        agent: a file with the agent that all `ppo` searchers share. It is loaded if it is there,
            and written in the end, so that it goes on learning from run to run.

    Raises:
        TuningError: if a number makes no sense, or there is an agent that nobody asks.
    """

    trials: int | None = None
    seconds: float | None = None
    batch: int = 16
    joint_share: float = 0.25
    layout_rounds: int = 1
    layouts: SearcherName = "exhaustive"
    loops: SearcherName = "evolution"
    patience: int = 5
    hopeless: float = 6.0
    seed: int = 0
    agent: str | Path | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        least = {"trials": 1, "batch": 1, "layout_rounds": 1, "patience": 1, "hopeless": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise TuningError(f"option {name}={value}: give at least {bound}")
        if self.seconds is not None and self.seconds <= 0:
            raise TuningError(f"option seconds={self.seconds}: give more than 0")
        if not 0 <= self.joint_share <= 1:
            raise TuningError(f"option joint_share={self.joint_share}: give 0 to 1")
        for name in (self.layouts, self.loops):
            if name not in _SEARCHERS:
                raise TuningError(f"searcher {name!r}: use one of {', '.join(_SEARCHERS)}")
        if self.agent is not None and not self.has_agent:
            raise TuningError(
                f"option agent={self.agent}: only ppo has an agent, and {self.layouts} proposes"
                f" layouts, {self.loops} loops; choose ppo for one of them, or leave the agent out"
            )

    @property
    def has_agent(self) -> bool:
        """Whether a searcher learns with an agent."""
        return "ppo" in (self.layouts, self.loops)
