"""The paper's search of layouts: an agent proposes, and learns from what was measured.

>>> import numpy as np
>>> from tuner.choices import Choose
>>> def program(choose: Choose) -> None:
...     choose.tile("oh", 64, default=8)
...     choose.one_of("order", ("nchw", "nhwc"), default="nchw")
>>> searcher = ActorCritic(Space(program), np.random.default_rng(0))
>>> batch = searcher.ask(4)
>>> searcher.tell([(config, 1e-3) for config in batch])
>>> batch[0], len(set(batch))
(Config(oh=8, order='nchw'), 4)

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.actions import action_of, answer_of, summary
from tuner.choices import Answer, Chooser, Config, Decision
from tuner.errors import TuningError
from tuner.search import Rng, Search
from tuner.space import Space

if TYPE_CHECKING:
    from tuner.agent import Agent, Episode, Step

_FAILED = -1.0
"""The reward of what fails or is refused, and the least there is."""


class ActorCritic(Search):
    """PPO over the decisions of a space, one episode a configuration.

    The reward is U - latency, with the latency of the default as the unit and as U: 0 is as fast as
    the default, 0.5 twice as fast.
    """

    def __init__(
        self, space: Space, rng: Rng, agent: Agent | None = None, *, batch: int = 8
    ) -> None:
        """The searcher of a space.

        Args:
            space: What is searched.
            rng: Decides.
            agent: What was learnt before, by `pretrain` or from other tasks; it goes on learning,
                also from the other searchers that have it.
            batch: How many results the agent waits for before it learns.

        Raises:
            TuningError: torch is not installed.
        """
        super().__init__(space, rng)
        self.agent = new_agent(rng) if agent is None else agent
        self._batch = batch
        self._steps: dict[Config, tuple[Step, ...]] = {}

    def propose(self, count: int) -> Iterator[Config]:
        """What the actors draw; when that repeats itself, what is near the best, then anything."""
        for _ in range(8 * count):
            config, steps = drawn(self.space, self.agent, self.rng)
            if config is None:
                self.agent.note(_episode(steps, _FAILED))
            else:
                self._steps.setdefault(config, steps)
                yield config
        if self.best is not None:
            yield from self.shuffled(self.space.neighbours(self.best))
        yield from self.fresh(count)

    def tell(self, results: Sequence[tuple[Config, float | None]]) -> None:
        """See `Searcher.tell`. What others asked for is learnt from too."""
        super().tell(results)
        unit = self._unit()
        for config in dict.fromkeys(config for config, _ in results):
            if config in self.results:
                steps = self._steps.get(config) or recalled(self.space, self.agent, config)
                self.agent.note(_episode(steps, reward(self.results[config], unit)))
        self.agent.study(self._batch)

    def _unit(self) -> float:
        """The default's latency; where the default fails, that of the first that does not."""
        default = self.results.get(self.space.default())
        good = (cost for cost in self.results.values() if cost is not None)
        return (next(good, 1.0) if default is None else default) or 1.0


def pretrain(
    agent: Agent,
    tasks: Sequence[tuple[Space, Callable[[Config], float]]],
    rng: Rng,
    *,
    turns: int = 64,
    batch: int = 16,
) -> None:
    """Trains an agent on costs that need no measuring, such as an analytic estimate.

    Args:
        agent: Learns; the same decision of all tasks has the same actor.
        tasks: Spaces, each with its cost; smaller is better.
        rng: Decides.
        turns: How many there are of all tasks together, one after the other.
        batch: How many episodes a turn has.
    """
    units = [cost(space.default()) or 1.0 for space, cost in tasks]
    for turn in range(turns if tasks else 0):
        space, cost = tasks[turn % len(tasks)]
        unit = units[turn % len(tasks)]
        episodes = [drawn(space, agent, rng) for _ in range(batch)]
        agent.learn(
            [
                _episode(steps, _FAILED if config is None else reward(cost(config), unit))
                for config, steps in episodes
            ]
        )


def reward(cost: float | None, unit: float) -> float:
    """U - latency in units of U; failures, and what is more than twice as slow, are worth -1.

    >>> reward(0.5, 1.0), reward(9.0, 1.0), reward(None, 1.0)
    (0.5, -1.0, -1.0)
    """
    return _FAILED if cost is None else max(_FAILED, 1.0 - cost / unit)


def drawn(space: Space, agent: Agent, rng: Rng) -> tuple[Config | None, tuple[Step, ...]]:
    """A configuration that the actors draw, none where the program refuses it, and the steps."""
    acting = _Acting(agent, rng)
    return space.run(acting), tuple(acting.steps)


def recalled(space: Space, agent: Agent, config: Config) -> tuple[Step, ...]:
    """The steps that would have led to a configuration."""
    steps: list[Step] = []
    past: list[float] = []
    for decision in space.decisions(config):
        steps.append(agent.recall(decision, past, action_of(decision, decision.answer)))
        past.append(summary(decision))
    return tuple(steps)


def new_agent(rng: Rng) -> Agent:
    """An agent that knows nothing.

    Raises:
        TuningError: torch is not installed.
    """
    return _agent_class()(rng)


def saved_agent(path: Path, rng: Rng) -> Agent:
    """An agent that knows what was saved.

    Raises:
        TuningError: torch is not installed, or the file is no agent.
    """
    return _agent_class().load(path, rng)


def _agent_class() -> type[Agent]:
    try:
        # Here and not above: torch takes a second to import, and is optional.
        from tuner.agent import Agent
    except ModuleNotFoundError as error:
        raise TuningError(
            f"search with an agent: {error}; install 'alt-compiler[tune]', or use another search"
        ) from error
    return Agent


def _episode(steps: tuple[Step, ...], worth: float) -> Episode:
    from tuner.agent import Episode

    return Episode(steps, worth)


class _Acting(Chooser):
    """Answers as the actors of an agent do, and records the steps."""

    def __init__(self, agent: Agent, rng: Rng) -> None:
        super().__init__()
        self._agent = agent
        self._rng = rng
        self.steps: list[Step] = []

    def decide(self, question: Decision) -> Answer:
        past = [summary(decision) for decision in self.decisions.values()]
        step = self._agent.act(question, past, self._rng)
        self.steps.append(step)
        return answer_of(question, step.action)
