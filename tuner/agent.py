"""A layout agent: an actor for each decision, one critic for all, trained by PPO. Needs torch.

>>> from tuner.choices import Decision
>>> agent = Agent(np.random.default_rng(0))
>>> step = agent.act(Decision("oh", "tile", (1, 2, 4, 8), 4, 4), (), np.random.default_rng(1))
>>> step.actor, step.action.shape
('oh/1', (1,))

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout tuning; PPO, arXiv 1707.06347.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log, pi
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tuner import journal
from tuner.actions import STATE, Floats, state_of, width
from tuner.choices import Decision
from tuner.errors import TuningError

Rng = np.random.Generator

_SCHEMA = 1
_FARTHEST = 20.0
"""A step that is more times likelier than e to this than it was is learnt from no further."""

_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What torch raises for files that it did not write, or that were cut short."""


@dataclass(frozen=True)
class Step:
    """A decision as it was made: which actor, seeing what, did what, and how likely that was."""

    actor: str
    state: Floats
    action: Floats
    log_probability: float


@dataclass(frozen=True)
class Episode:
    """The steps that led to a configuration, and what it was worth."""

    steps: tuple[Step, ...]
    reward: float


@dataclass(frozen=True)
class Settings:
    """The numbers of PPO."""

    hidden: int = 32
    learning_rate: float = 5e-3
    epochs: int = 8
    clip: float = 0.2
    entropy: float = 3e-3
    deviation: float = 1.0
    """With which actions scatter at first, in the units of `tuner.actions`."""


class Agent:
    """What is learnt; several searches may share it, and it may go on with other tasks.

    Attributes:
        settings: of PPO.
        asleep: whether it notes nothing: what it is told then it knows already.
    """

    def __init__(self, rng: Rng, settings: Settings | None = None) -> None:
        """Starts without knowledge; the generator draws the initial weights."""
        self.settings = settings or Settings()
        self._random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self._critic = self._network(1)
        self.asleep = False
        self._noted: list[Episode] = []
        self._actors: dict[str, torch.nn.Sequential] = {}
        self._deviations: dict[str, torch.nn.Parameter] = {}
        self._optimiser = torch.optim.Adam(
            self._critic.parameters(), lr=self.settings.learning_rate
        )

    def act(self, decision: Decision, past: Sequence[float], rng: Rng) -> Step:
        """Draws an action."""
        name, state = _named(decision), state_of(decision, past)
        mean, deviation = self._policy(name, width(decision), state)
        action = mean + deviation * rng.standard_normal(len(mean))
        return Step(name, state, action, _log_normal(action, mean, deviation))

    def recall(self, decision: Decision, past: Sequence[float], action: Floats) -> Step:
        """An action that somebody else took, as if it had been drawn."""
        name, state = _named(decision), state_of(decision, past)
        mean, deviation = self._policy(name, width(decision), state)
        return Step(name, state, action, _log_normal(action, mean, deviation))

    def learn(self, episodes: Sequence[Episode]) -> None:
        """Makes the steps of episodes that were worth more than the critic expected likelier."""
        with _one_thread():
            self._learn(episodes)

    def note(self, episode: Episode) -> None:
        """Keeps an episode until there are enough to learn from."""
        if not self.asleep:
            self._noted.append(episode)

    def study(self, least: int = 1) -> None:
        """Learns from what was noted since the last time, once it is so many episodes."""
        if len(self._noted) >= least:
            noted, self._noted = self._noted, []
            self.learn(noted)

    def save(self, path: Path) -> None:
        """Writes what was learnt, whole or not at all.

        Raises:
            TuningError: the file cannot be written.
        """
        content = io.BytesIO()
        torch.save(
            {
                "schema": _SCHEMA,
                "hidden": self.settings.hidden,
                "critic": self._critic.state_dict(),
                "actors": {name: actor.state_dict() for name, actor in self._actors.items()},
                "deviations": {name: each.data for name, each in self._deviations.items()},
            },
            content,
        )
        try:
            journal.write(path, content.getvalue())
        except OSError as error:
            raise TuningError(
                f"agent to {path}: {error.strerror}; name a file that can be written"
            ) from error

    @staticmethod
    def load(path: Path, rng: Rng, settings: Settings | None = None) -> Agent:
        """An agent that knows what `save` wrote.

        Raises:
            TuningError: The file cannot be read, is no agent, or one of another schema or size.
        """
        agent = Agent(rng, settings)
        needed = (_SCHEMA, agent.settings.hidden)
        try:
            content = io.BytesIO(path.read_bytes())
            held = dict(cast("dict[str, Any]", torch.load(content, weights_only=True)))
            found = (held["schema"], held["hidden"])
            if found == needed:
                agent._restore(held)
        except OSError as error:
            raise TuningError(f"agent from {path}: {error.strerror}") from error
        except _UNREADABLE as error:
            raise TuningError(
                f"agent from {path}: it is not a saved agent, or was damaged; name another file,"
                " and a new one is trained"
            ) from error
        if found != needed:
            raise TuningError(
                f"agent from {path}: schema and hidden units are {found}, and {needed} are needed;"
                " name another file, and a new one is trained"
            )
        return agent

    def _restore(self, held: dict[str, Any]) -> None:
        self._critic.load_state_dict(held["critic"])
        for name, weights in held["actors"].items():
            self._actor(name, len(held["deviations"][name])).load_state_dict(weights)
            self._deviations[name].data.copy_(held["deviations"][name])
        everything = [p for group in self._optimiser.param_groups for p in group["params"]]
        if not all(bool(torch.isfinite(each).all()) for each in everything):
            raise ValueError("some weights are no numbers")

    def _learn(self, episodes: Sequence[Episode]) -> None:
        steps = [(step, episode.reward) for episode in episodes for step in episode.steps]
        if not steps:
            return
        states = _tensor([step.state for step, _ in steps])
        rewards = _tensor([reward for _, reward in steps])
        with torch.no_grad():
            surprise = rewards - self._critic(states)[:, 0]
            scale = surprise.std(unbiased=False) + 1e-3
            advantage = (surprise - surprise.mean()) / scale
        of_actor: dict[str, list[int]] = {}
        for place, (step, _) in enumerate(steps):
            of_actor.setdefault(step.actor, []).append(place)
        for _ in range(self.settings.epochs):
            loss = ((self._critic(states)[:, 0] - rewards) ** 2).mean()
            for name, places in of_actor.items():
                mine = [steps[place][0] for place in places]
                loss = loss + self._loss(name, mine, advantage[places]) / len(steps)
            self._optimiser.zero_grad()
            loss.backward()
            cast("Any", self._optimiser).step()

    def _loss(self, name: str, steps: Sequence[Step], advantage: torch.Tensor) -> torch.Tensor:
        """The clipped objective of PPO, summed over the steps of one actor."""
        means = self._actors[name](_tensor([step.state for step in steps]))
        spread = self._deviations[name]
        actions = _tensor([step.action for step in steps])
        apart = (actions - means) / spread.exp()
        now = -(0.5 * apart**2 + spread + 0.5 * log(2 * pi)).sum(dim=1)
        change = now - _tensor([step.log_probability for step in steps])
        # Bounded, for a step may be old by the time its result is there: e to 89 is infinite.
        ratio = change.clamp(max=_FARTHEST).exp()
        clip = self.settings.clip
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
        return -gain.sum() - self.settings.entropy * len(steps) * spread.sum()

    def _policy(self, name: str, actions: int, state: Floats) -> tuple[Floats, Floats]:
        actor = self._actor(name, actions)
        with _one_thread(), torch.no_grad():
            mean = cast("torch.Tensor", actor(_tensor([state])))[0]
            deviation = self._deviations[name].exp()
        return _array(mean), _array(deviation)

    def _actor(self, name: str, actions: int) -> torch.nn.Sequential:
        if name not in self._actors:
            actor = self._network(actions)
            spread = torch.nn.Parameter(torch.full((actions,), log(self.settings.deviation)))
            self._actors[name] = actor
            self._deviations[name] = spread
            self._optimiser.add_param_group({"params": [*actor.parameters(), spread]})
        return self._actors[name]

    def _network(self, outputs: int) -> torch.nn.Sequential:
        hidden = self.settings.hidden
        network = torch.nn.Sequential(
            torch.nn.Linear(STATE, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, outputs)
        )
        # Outputs begin near 0, which is the default of a decision and the reward of the defaults.
        for weights, scale in ((network[0], STATE**-0.5), (network[2], 0.01 * hidden**-0.5)):
            layer = cast("torch.nn.Linear", weights)
            torch.nn.init.normal_(layer.weight, std=scale, generator=self._random)
            torch.nn.init.zeros_(layer.bias)
        return network


@contextmanager
def _one_thread() -> Generator[None]:
    """Networks this small take 20 times as long with threads, which spin while they wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _named(decision: Decision) -> str:
    return f"{decision.name}/{width(decision)}"


def _log_normal(action: Floats, mean: Floats, deviation: Floats) -> float:
    apart = (action - mean) / deviation
    return float(-(0.5 * apart**2 + np.log(deviation) + 0.5 * log(2 * pi)).sum())


def _tensor(values: Sequence[float] | Sequence[Floats]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))  # pyright: ignore[reportUnknownMemberType]


def _array(tensor: torch.Tensor) -> Floats:
    return tensor.numpy().astype(np.float64)
