"""The agent of a tuning run: shared by all tasks, trained on estimates, kept from run to run."""

from __future__ import annotations

import logging
from itertools import count
from math import log2
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from synthetic import Measured, Synthetic, memory, tuned

import tuner.driver
import tuner.pretraining
from tuner import journal
from tuner.actor_critic import drawn, new_agent
from tuner.agent import Agent
from tuner.errors import TuningError
from tuner.options import Options
from tuner.pretraining import agent_of
from tuner.task import Candidate

THREE = [Synthetic("a"), Synthetic("b", scale=10.0), Synthetic("c", scale=0.1, weight=3)]
BOTH = {"layouts": "ppo", "loops": "ppo"}


def weights(path):
    """All that a file of an agent holds, by name."""
    held = torch.load(path)
    found = {f"critic {name}": each for name, each in held["critic"].items()}
    for actor, state in held["actors"].items():
        found |= {f"{actor} {name}": each for name, each in state.items()}
        found[f"{actor} deviation"] = held["deviations"][actor]
    return found


def differ(one, other):
    """Names of what is not the same in two agents."""
    names = one.keys() | other.keys()
    return {n for n in names if n not in one or n not in other or not torch.equal(one[n], other[n])}


class Detailed(Synthetic):
    """Its estimate is best for blocks of 8, and for tiles of 64; the default is estimated at 7."""

    def estimate(self, candidate):
        layout, loops = candidate.layout, candidate.loops
        rows = layout["order"] == "rows"
        return (4 if rows else 1 + abs(log2(layout["block"] / 8))) + abs(log2(loops["tile"] / 64))


# --- one agent for all tasks --------------------------------------------------------------------


class Spy(Agent):
    """Keeps what it was taught."""

    def __init__(self):
        super().__init__(np.random.default_rng(0))
        self.taught = []

    def learn(self, episodes):
        self.taught.append([{step.actor for step in each.steps} for each in episodes])
        super().learn(episodes)


def test_few_layouts_of_each_task_are_enough_to_learn_from_together(monkeypatch):
    """A task here has six layouts, and eight results are waited for."""
    spy = Spy()
    monkeypatch.setattr(tuner.driver, "agent_of", lambda *_: spy)
    tuned([Synthetic()], memory(), trials=150, layouts="ppo")
    assert not spy.taught
    tuned(THREE, memory(), trials=150, layouts="ppo")
    assert spy.taught and all(len(each) >= 8 for each in spy.taught)
    assert {actor for batch in spy.taught for each in batch for actor in each} == {
        "order/2",
        "block/1",
    }


def test_layouts_and_loops_share_it(monkeypatch):
    spy = Spy()
    monkeypatch.setattr(tuner.driver, "agent_of", lambda *_: spy)
    tuned(THREE, memory(), trials=150, **BOTH)
    actors = {actor for batch in spy.taught for each in batch for actor in each}
    assert actors == {"order/2", "block/1", "tile/1", "inner/1", "unroll/1"}


@pytest.mark.parametrize("kept", [False, True])
def test_the_seed_decides(tmp_path, kept):
    def asked(seed):
        path = tmp_path / "agent.pt"
        path.unlink(missing_ok=True)
        measurer = Measured()
        agent = path if kept else None
        tuned(THREE, memory(), measurer, trials=80, seed=seed, agent=agent, **BOTH)
        return measurer.batches, weights(path) if kept else {}

    one, again, other = asked(5), asked(5), asked(6)
    assert one[0] == again[0] != other[0]
    assert not differ(one[1], again[1])
    assert not kept or differ(one[1], other[1])


def test_other_searchers_have_none_and_choose_as_ever():
    assert agent_of(Options(), THREE, np.random.default_rng(0)) is None


# --- what it knows before anything is measured --------------------------------------------------


def test_it_is_first_trained_on_estimates():
    task = Detailed()
    agent = agent_of(Options(layouts="ppo", loops="ppo"), [task], np.random.default_rng(0))
    layout = task.layouts.default()

    def estimated(each):
        """What an agent expects to be good, in layouts and in loops."""
        rng = np.random.default_rng(1)
        layouts = [drawn(task.layouts, each, rng)[0] for _ in range(60)]
        loops = [drawn(task.loops(layout), each, rng)[0] for _ in range(60)]
        return (
            mean(task.estimate(Candidate(one, task.loops(one).default())) for one in layouts),
            mean(task.estimate(Candidate(layout, one)) for one in loops),
        )

    before, after = estimated(new_agent(np.random.default_rng(0))), estimated(agent)
    assert before[0] > 6.0 > 5.0 > after[0]
    assert before[1] > 6.5 > 5.5 > after[1]


@pytest.mark.parametrize("tasks", [0, 1, 100])
def test_training_ends_however_many_tasks_there_are(tasks):
    asked = count()

    class Counted(Synthetic):
        def estimate(self, candidate):
            next(asked)
            return super().estimate(candidate)

    several = [Counted(f"task {n}") for n in range(tasks)]
    assert agent_of(Options(**BOTH), several, np.random.default_rng(0)) is not None
    assert next(asked) <= 64 * 16 + 2 * tasks


# --- kept from run to run -----------------------------------------------------------------------


def test_what_was_learnt_is_kept_loaded_and_learnt_on(tmp_path, monkeypatch):
    path = tmp_path / "agent.pt"
    tuned(THREE, memory(), Measured(interrupt=0), agent=path, **BOTH)
    estimates = weights(path)
    tuned(THREE, memory(), trials=60, agent=path, **BOTH)
    first = weights(path)
    assert differ(estimates, first) >= {"tile/1 0.weight", "critic 0.weight"}

    def refuse(*_):
        raise AssertionError("it was trained before")

    monkeypatch.setattr(tuner.pretraining, "pretrain", refuse)
    # Nothing is measured, so nothing is learnt: it was loaded.
    tuned(THREE, memory(), Measured(interrupt=0), agent=path, seed=8, **BOTH)
    assert not differ(first, weights(path))
    tuned(THREE, memory(), trials=60, agent=path, seed=8, **BOTH)
    assert differ(first, weights(path)) >= {"tile/1 0.weight", "critic 0.weight"}
    assert [each.name for each in tmp_path.iterdir()] == ["agent.pt"]


def test_the_loaded_agent_is_who_proposes(tmp_path):
    path = tmp_path / "agent.pt"

    def asked():
        measurer = Measured()
        tuned(THREE, memory(), measurer, trials=30, agent=path, **BOTH)
        return measurer.batches

    assert asked() != asked()  # with the same seed: it knows more than before


@pytest.mark.parametrize("at", [40, 77])
def test_an_interrupt_keeps_what_was_learnt(tmp_path, at):
    path = tmp_path / "agent.pt"
    tuned(THREE, memory(), Measured(interrupt=0), agent=path, **BOTH)
    before = weights(path)
    outcome, _ = tuned(THREE, memory(), Measured(interrupt=at), agent=path, trials=90, **BOTH)
    assert outcome.interrupted and differ(before, weights(path))


def test_a_measurer_that_gives_up_keeps_what_was_learnt(tmp_path):
    class GivesUp(Measured):
        def measure(self, task, candidates):
            if len(self.asked) > 40:
                raise RuntimeError("no server is left")
            return super().measure(task, candidates)

    path = tmp_path / "agent.pt"
    tuned(THREE, memory(), Measured(interrupt=0), agent=path, **BOTH)
    before = weights(path)
    with pytest.raises(RuntimeError, match="no server"):
        tuned(THREE, memory(), GivesUp(), agent=path, trials=90, **BOTH)
    assert differ(before, weights(path))


def test_the_few_last_results_are_learnt_from_too(tmp_path):
    """Seven layouts are not enough to learn from, but the next run will have another searcher."""
    path = tmp_path / "agent.pt"
    tuned([Synthetic()], memory(), Measured(interrupt=0), agent=path, layouts="ppo")
    before = weights(path)
    tuned([Synthetic()], memory(), trials=60, agent=path, layouts="ppo")
    assert differ(before, weights(path))


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"something else\n", b"PK\x03\x04half"])
def test_what_is_no_agent_is_refused_before_anything_is_measured(tmp_path, content):
    path = tmp_path / "agent.pt"
    path.write_bytes(content)
    measurer = Measured()
    with pytest.raises(TuningError, match=r"agent\.pt: it is not a saved agent.*another file"):
        tuned(THREE, memory(), measurer, agent=path, layouts="ppo")
    assert not measurer.asked and path.read_bytes() == content


@pytest.mark.parametrize("place", ["no/such/agent.pt", "."])
def test_where_nothing_can_be_kept_nothing_is_measured(tmp_path, place):
    measurer = Measured()
    with pytest.raises(TuningError, match="agent "):
        tuned(THREE, memory(), measurer, agent=tmp_path / place, layouts="ppo")
    assert not measurer.asked


def test_that_it_cannot_be_kept_in_the_end_costs_only_that(tmp_path, monkeypatch, caplog):
    path = tmp_path / "agent.pt"
    tuned(THREE, memory(), Measured(interrupt=0), agent=path, layouts="ppo")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write", full)
    with caplog.at_level(logging.WARNING):
        outcome, _ = tuned(THREE, memory(), trials=60, agent=path, layouts="ppo")
    assert len(outcome.best) == 3 and path.read_bytes() == before
    assert "No space left" in caplog.text and "is lost" in caplog.text


def test_an_agent_that_nobody_asks_is_refused():
    with pytest.raises(TuningError, match=r"a\.pt: only ppo .* random proposes .* evolution loops"):
        Options(agent=Path("a.pt"), layouts="random")
    assert Options(agent=Path("a.pt"), loops="ppo").has_agent


def test_a_loaded_agent_does_not_learn_the_log_again(tmp_path):
    path, log = tmp_path / "agent.pt", memory()
    tuned([THREE[0]], log, trials=24, layouts="ppo", joint_share=1.0, agent=path)
    before = weights(path)
    stopped = Measured(interrupt=0)
    tuned([THREE[0]], memory(log), stopped, trials=24, layouts="ppo", joint_share=1.0, agent=path)
    assert not differ(before, weights(path))


def test_an_interrupt_while_the_agent_is_trained_leaves_what_the_log_knows(tmp_path, monkeypatch):
    log = memory()
    first, _ = tuned([THREE[0]], log, trials=24)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tuner.pretraining.pretrain", interrupted)
    measurer = Measured()
    found, _ = tuned([THREE[0]], memory(log), measurer, trials=24, layouts="ppo")
    assert found.interrupted and not measurer.asked
    assert found.best["a"] == first.best["a"]
