from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from landscapes import BOWL, KERNEL
from test_searchers import BeatsRandom, run

from tuner.actions import STATE, action_of, answer_of, state_of, width
from tuner.actor_critic import ActorCritic, drawn, new_agent, pretrain, recalled, reward
from tuner.agent import Agent, Episode, Settings
from tuner.errors import TuningError


class TestActorCritic(BeatsRandom):
    budget = 60

    def make(self, landscape, seed):
        return ActorCritic(landscape.space, np.random.default_rng(seed))


@given(st.sampled_from([BOWL, KERNEL]), st.integers(0, 2**32 - 1))
def test_actions_and_answers_are_each_others_inverse(landscape, seed):
    config = landscape.space.sample(np.random.default_rng(seed))
    for decision in landscape.space.decisions(config):
        action = action_of(decision, decision.answer)
        assert action.shape == (width(decision),)
        assert answer_of(decision, action) == decision.answer
        assert answer_of(decision, np.zeros(width(decision))) == decision.default
        assert state_of(decision, [0.1, -3.0] * 5).shape == (STATE,)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 100.0]))
def test_any_action_is_a_legal_answer(seed, scale):
    rng = np.random.default_rng(seed)
    for decision in KERNEL.space.decisions(KERNEL.space.sample(rng)):
        action = scale * rng.standard_normal(width(decision))
        assert decision.allows(answer_of(decision, action))


def value(agent, landscape, draws=64):
    """The mean reward of what an agent draws."""
    rng = np.random.default_rng(0)
    unit = landscape.seconds(landscape.space.default())
    configs = [drawn(landscape.space, agent, rng)[0] for _ in range(draws)]
    return mean(
        reward(None if config is None else landscape.seconds(config), unit) for config in configs
    )


def test_training_makes_good_draws_likelier():
    agent = new_agent(np.random.default_rng(0))
    before = value(agent, BOWL)
    pretrain(agent, [(BOWL.space, BOWL.seconds)], np.random.default_rng(1), turns=12)
    assert value(agent, BOWL) > before + 0.5


def test_training_the_wrong_way_round_makes_them_rarer():
    """That rewards are maximised, not minimised, and that it is they that are learnt from."""
    agent = new_agent(np.random.default_rng(0))
    before = value(agent, BOWL)
    pretrain(
        agent, [(BOWL.space, lambda c: 1 / BOWL.seconds(c))], np.random.default_rng(1), turns=12
    )
    assert value(agent, BOWL) < before - 0.1


def test_learning_from_results_makes_good_draws_likelier():
    searcher = ActorCritic(BOWL.space, np.random.default_rng(0))
    before = value(searcher.agent, BOWL)
    run(searcher, BOWL.seconds, 150)
    assert value(searcher.agent, BOWL) > before + 0.3


def test_it_learns_from_a_log():
    """What another searcher found is worth imitating, though the actors would not have drawn it."""
    good = BOWL.space.project({"a": 24, "b": 6, "c": 48, "d": 2, "e": 12})
    rng = np.random.default_rng(0)
    searcher = ActorCritic(BOWL.space, rng)
    before = recalled(BOWL.space, searcher.agent, good)
    near = [good, *BOWL.space.neighbours(good)]
    log = [*near, *(BOWL.space.sample(rng) for _ in range(20)), BOWL.space.default()]
    searcher.tell([(config, BOWL.seconds(config)) for config in log])
    after = recalled(BOWL.space, searcher.agent, good)
    assert sum(s.log_probability for s in after) > sum(s.log_probability for s in before)


def test_a_pretrained_agent_finds_more_with_few_measurements():
    agent = new_agent(np.random.default_rng(0))
    pretrain(agent, [(BOWL.space, BOWL.seconds)], np.random.default_rng(1), turns=12)
    knowing = ActorCritic(BOWL.space, np.random.default_rng(2), agent)
    naive = ActorCritic(BOWL.space, np.random.default_rng(2))
    few = [min(map(BOWL.seconds, run(each, BOWL.seconds, 16))) for each in (knowing, naive)]
    assert few[0] < few[1]


def test_a_saved_agent_is_the_same_agent(tmp_path):
    agent = new_agent(np.random.default_rng(0))
    pretrain(agent, [(KERNEL.space, KERNEL.seconds)], np.random.default_rng(1), turns=3)
    agent.save(tmp_path / "agent.pt")
    again = Agent.load(tmp_path / "agent.pt", np.random.default_rng(5))
    draws = [
        [drawn(KERNEL.space, each, np.random.default_rng(seed))[0] for seed in range(20)]
        for each in (agent, again)
    ]
    assert draws[0] == draws[1]
    untrained = new_agent(np.random.default_rng(0))
    assert draws[0] != [
        drawn(KERNEL.space, untrained, np.random.default_rng(seed))[0] for seed in range(20)
    ]


def held(path, **changes):
    """What the file of an agent holds, with changes."""
    agent = new_agent(np.random.default_rng(0))
    pretrain(agent, [(BOWL.space, BOWL.seconds)], np.random.default_rng(1), turns=1)
    agent.save(path)
    return torch.load(path) | changes


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_agent_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "agent.pt"
    with pytest.raises(TuningError, match="No such file"):
        Agent.load(path, rng)
    torch.save(held(path), path)
    whole = path.read_bytes()
    Agent.load(path, rng)
    pieces = [whole[:length] for length in range(0, len(whole), 999)]
    noise = [rng.bytes(length) for length in range(1, 60)]
    pickles = [pickle.dumps(each) for each in (1, [2], {"schema": 1}, whole)]
    for content in (b"", b"nonsense" * 100, b"PK\x03\x04", *pieces, *noise, *pickles):
        path.write_bytes(content)
        with pytest.raises(TuningError, match="not a saved agent") as error:
            Agent.load(path, rng)
        assert "\n" not in str(error.value)
    critic = held(path)["critic"]
    narrow = {name: weights[..., :1] for name, weights in critic.items()}
    lost = {name: weights * float("nan") for name, weights in critic.items()}
    for changes in (
        {"critic": narrow}, {"critic": lost}, {"critic": 3}, {"critic": {}}, {"actors": [1]},
        {"deviations": {}}, {"actors": {"oh/1": critic}},
    ):  # fmt: skip
        torch.save(held(path, **changes), path)
        with pytest.raises(TuningError, match="not a saved agent"):
            Agent.load(path, rng)
    for other in (torch.zeros(3), torch.zeros(()), [held(path)]):
        torch.save(other, path)
        with pytest.raises(TuningError, match="not a saved agent"):
            Agent.load(path, rng)
    Agent(rng, Settings(hidden=8)).save(path)
    with pytest.raises(TuningError, match=r"hidden units are \(1, 8\), and \(1, 32\) are needed"):
        Agent.load(path, rng)


def test_a_step_that_has_become_much_likelier_since_leaves_numbers():
    agent = new_agent(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    episodes = []
    for worth in (0.5, -0.5, 0.1):
        _, steps = drawn(BOWL.space, agent, rng)
        old = tuple(replace(step, log_probability=-500.0) for step in steps)
        episodes.append(Episode(old, worth))
    agent.learn(episodes)
    for draw in range(8):
        assert drawn(BOWL.space, agent, np.random.default_rng(draw))[0] is not None


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "tuner.agent")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TuningError, match=r"alt-compiler\[tune\]"):
        ActorCritic(BOWL.space, np.random.default_rng(0))
