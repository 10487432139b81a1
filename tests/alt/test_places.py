"""Candidates timed within their network: whose time is whose.

Bugs the author planted, and what caught each:
- what is put in before a kernel counted for the kernel before it: `test_whose_time_is_whose`;
- kernels alike summed instead of averaged: the same;
- all networks timed as the first one: `test_every_network_has_its_own_candidates`.
"""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, model, node

from alt.compiler import assemble, fused
from alt.places import CALLS, ROUNDS, time_places
from alt.policies import JOINT
from alt.propagate import plan_layouts
from alt.select import choices_of
from alt.tasks import tasks_of
from tuner.config import Config
from tuner.task import Candidate, Measurement, Status

pytestmark = pytest.mark.llvm


class Stub:
    """A module whose n-th kernel takes 2**n seconds, by a factor."""

    def __init__(self, kernels, factor=1.0):
        self.seconds = factor * 2.0 ** np.arange(kernels)

    def time_kernels(self, repeats):
        assert repeats == CALLS
        return np.tile(self.seconds, (repeats, 1))


class Network:
    """Two convolutions alike, a third, and what is no task between and behind them."""

    def __init__(self):
        nodes = [
            node("Conv", "x u", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "b"),
            node("Conv", "b v", "c", pads=[1, 1, 1, 1]),
            node("Relu", "c", "d"),
            node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "e w", "f"),
            node("GlobalAveragePool", "f", "y"),
        ]
        weights = {
            "u": array(32, 32, 3, 3),
            "v": array(32, 32, 3, 3, seed=1),
            "w": array(64, 32, 1, 1, seed=2),
        }
        proto = model(nodes, {"x": array(1, 32, 20, 20)}, ["y"], weights)
        self.fused = fused(proto, threads=1)
        machine, constants = self.fused.machine, self.fused.graph.constants
        plan = plan_layouts(self.fused.graph, self.fused.kernels, machine)
        self.tasks = tasks_of(self.fused.kernels, constants, machine, plan)

    def choices(self, alternatives=1):
        """The default of every task, and some of its neighbours."""
        found = {}
        for key, task in self.tasks.items():
            layout = task.layouts.default()
            space = task.loops(layout)
            loops = [space.default(), *space.neighbours(space.default())][:alternatives]
            found[key] = {
                Candidate(layout, c): Measurement(Status.ok, (1e-6 * (1 + n),), 0.0)
                for n, c in enumerate(loops)
            }
        return choices_of(self.fused.graph, self.fused.kernels, self.tasks, found)

    def places(self, choices, chosen, running):
        return time_places(self.fused, choices, chosen, running, JOINT, winograd=True)

    def plan(self, choices, chosen):
        kernels = choices.decided(chosen)
        return plan_layouts(self.fused.graph, kernels, self.fused.machine, True, JOINT).kernels


@pytest.fixture(scope="module")
def network():
    return Network()


def test_whose_time_is_whose(network):
    choices = network.choices()
    chosen = choices.candidates(choices.assigned("loops", {}))
    kernels = network.plan(choices, chosen)
    # Whatever is put in before a convolution is there for its sake.
    ends = [n for n, k in enumerate(kernels) if k.anchor and k.anchor.op in ("conv", "winograd")]
    pool = next(n for n, k in enumerate(kernels) if k.anchor and k.anchor.op == "pool")
    assert len(ends) == 3 and ends[1] < pool < ends[2] < len(kernels) - 1
    assert ends[0] > 0, "nothing is put in: the test shows nothing"
    starts = [0, ends[0] + 1, pool + 1]
    spent = [sum(2.0**n for n in range(a, b + 1)) for a, b in zip(starts, ends, strict=True)]
    by_task = {}
    anchored = [k for k in network.fused.kernels if k in chosen]
    for kernel, seconds in zip(anchored, spent, strict=True):
        by_task.setdefault(choices.tasks[kernel].key, []).append(seconds)
    places = network.places(choices, [chosen], [Stub(len(kernels))])
    assert set(places) == set(by_task) and sorted(map(len, by_task.values())) == [1, 2]
    for key, candidates in places.items():
        ((_, samples),) = candidates.items()
        assert samples == [pytest.approx(np.mean(by_task[key]))] * ROUNDS


def test_every_network_has_its_own_candidates(network):
    choices = network.choices(alternatives=2)
    labels = choices.assigned("loops", {})
    chosen = [choices.rival_candidates(labels, rank) for rank in range(2)]
    stubs = [
        Stub(len(network.plan(choices, each)), factor)
        for each, factor in zip(chosen, (1.0, 10.0), strict=True)
    ]
    places = network.places(choices, chosen, stubs)
    for candidates in places.values():
        slow, fast = sorted(candidates.values(), reverse=True)
        assert np.median(slow) == pytest.approx(10 * np.median(fast))
    for kernel, candidate in chosen[1].items():
        key = choices.tasks[kernel].key
        assert np.median(places[key][candidate]) == max(
            np.median(samples) for samples in places[key].values()
        )


def test_real_networks_are_timed(network):
    choices = network.choices(alternatives=2)
    labels = choices.assigned("loops", {})
    chosen = [choices.rival_candidates(labels, rank) for rank in range(2)]
    modules = [assemble(network.fused, choices.decided(each), 1) for each in chosen]
    places = network.places(choices, chosen, modules)
    assert set(places) == set(network.tasks)
    for candidates in places.values():
        assert len(candidates) == 2
        assert all(s > 0 for samples in candidates.values() for s in samples)


def test_of_few_rivals_the_last_stands_for_the_missing(network):
    choices = network.choices()
    labels = choices.assigned("loops", {})
    assert choices.rival_candidates(labels, 3) == choices.rival_candidates(labels, 0)
    assert Config({}) not in choices.rival_candidates(labels, 0).values()
