"""From measurements to a network: labels, conversions, and what the assignment makes of them.

Bugs the author planted, and what caught each:
- labels in the order of their speed, not the default's first: `test_the_default_label_is_first`;
- the source of a value sought in a kernel's last input: `test_conversions_between_neighbours`;
- conversions of a pooled tensor priced by the tensor before it: the same;
- what a kernel writes taken for what it reads: the same;
- the last candidate of a label, not the fastest: `test_the_fastest_candidate_of_a_label`;
- what was timed within the network ignored, or without a margin for the default:
  `test_within_the_network_the_fastest_there_is_chosen`;
- the default left out: `test_the_default_is_among_the_rivals`.
"""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, assert_same, model, node, run_reference

from alt.compiler import assemble, fused
from alt.propagate import plan_layouts
from alt.replay import labels_of
from alt.select import RIVALS, Conversion, choices_of
from alt.tasks import tasks_of
from tuner.config import Config
from tuner.contents import Contents
from tuner.log import TuningLog
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status

pytestmark = pytest.mark.llvm


def ok(seconds):
    return Measurement(Status.ok, (seconds,), 0.0)


class Network:
    """A convolution, a pooling, another convolution, both with 64 channels."""

    def __init__(self):
        nodes = [
            node("Conv", "x v", "a"),
            node("Relu", "a", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p w", "y", strides=[2, 2]),
        ]
        self.inputs = {"x": array(1, 64, 8, 8)}
        weights = {"v": array(64, 64, 1, 1), "w": array(64, 64, 1, 1, seed=1)}
        self.proto = model(nodes, self.inputs, ["y"], weights)
        self.fused = fused(self.proto, threads=1)
        machine = self.fused.machine
        self.lanes = machine.lanes()
        constants = self.fused.graph.constants
        plan = plan_layouts(self.fused.graph, self.fused.kernels, machine)
        self.tasks = tasks_of(self.fused.kernels, constants, machine, plan)

    def candidates(self, times):
        """Measurements of each task, in order: seconds by (read, write) in vectors."""
        found = {}
        for task, by_label in zip(self.tasks.values(), times, strict=True):
            measured = {}
            for (read, write), seconds in by_label.items():
                answers = {"read": read * self.lanes, "write": write * self.lanes}
                layout = Config({**task.layouts.default(), **answers})
                measured[Candidate(layout, task.loops(layout).default())] = ok(seconds)
            found[task.key] = measured
        return choices_of(self.fused.graph, self.fused.kernels, self.tasks, found)

    def layouts(self, kernels):
        """(read, write) of the two convolutions, in vectors."""
        found = []
        for kernel in kernels:
            if kernel.anchor is not None and kernel.anchor.op == "conv":
                layout = kernel.anchor.attrs.get("layout")
                found.append(
                    layout and (layout["read"] // self.lanes, layout["write"] // self.lanes)
                )
        return found


@pytest.fixture(scope="module")
def network():
    return Network()


def test_the_default_label_is_first(network):
    choices = network.candidates([{(2, 2): 1e-6, (1, 1): 5e-6, (1, 2): 3e-6}, {(1, 1): 1e-6}])
    labels = next(iter(choices.labels.values()))
    assert list(labels) == [
        (r * network.lanes, w * network.lanes) for r, w in [(1, 1), (2, 2), (1, 2)]
    ]


def test_a_task_whose_default_layouts_all_failed_is_left_alone(network):
    choices = network.candidates([{(2, 2): 1e-6}, {(1, 1): 1e-6}])
    assert len(choices.labels) == 1
    kernels = choices.decide("joint", dict.fromkeys(choices.conversions(), 1e-6))
    assert network.layouts(kernels) == [None, (1, 1)]


def test_conversions_between_neighbours(network):
    lanes = network.lanes
    choices = network.candidates([{(1, 1): 2e-6, (1, 2): 1e-6}, {(1, 1): 2e-6, (4, 1): 1e-6}])
    pooled, first, last = (1, 64, 4, 4), (1, 64, 8, 8), (1, 64, 2, 2)
    assert set(choices.conversions()) == {
        Conversion(first, "float32", 1, lanes),  # what the caller gives
        Conversion(pooled, "float32", lanes, 4 * lanes),
        Conversion(pooled, "float32", 2 * lanes, lanes),
        Conversion(pooled, "float32", 2 * lanes, 4 * lanes),
        Conversion(last, "float32", lanes, 1),  # what the caller gets
    }


@pytest.mark.parametrize(
    ("between", "expected"),
    [(0.5e-6, [(1, 2), (4, 1)]), (5e-6, [(1, 1), (1, 1)])],
)
def test_layouts_are_assigned_with_their_conversions(network, between, expected):
    """Each is faster in another layout, which is worth it if the conversion costs little."""
    choices = network.candidates([{(1, 1): 3e-6, (1, 2): 2e-6}, {(1, 1): 3e-6, (4, 1): 1e-6}])
    seconds = dict.fromkeys(choices.conversions(), between)
    kernels = choices.decide("joint", seconds)
    assert network.layouts(kernels) == expected
    assert network.layouts(choices.decide("loops", seconds)) == [(1, 1), (1, 1)]
    assert network.layouts(choices.decide("default", seconds)) == [None, None]
    module = assemble(network.fused, kernels, 1)
    assert_same(module(**network.inputs), run_reference(network.proto, network.inputs), 64 * 64)
    conversions = sum(k["conversion"] is not None for k in module.header["kernels"])
    assert conversions == (3 if expected[0] != (1, 1) else 2)


def test_conversions_nobody_measured_are_slow_and_do_not_cost_all_layouts(network):
    lanes, header = network.lanes, Header({}, {})
    log = TuningLog(Contents({}, (), ()))
    far = network.candidates([{(1, 1): 3e-6, (1, 2): 2e-6}, {(1, 1): 3e-6, (4, 1): 1e-6}])
    assert list(labels_of(far, "joint", log, header).values()) == [(lanes, lanes)] * 2
    worth = network.candidates([{(1, 1): 1.0, (1, 2): 2e-6}, {(1, 1): 1.0, (4, 1): 1e-6}])
    found = list(labels_of(worth, "joint", log, header).values())
    assert found == [(lanes, 2 * lanes), (4 * lanes, lanes)]


def test_what_answers_other_questions_is_no_choice(network):
    task = next(iter(network.tasks.values()))
    layout = task.layouts.default()
    good = Candidate(layout, task.loops(layout).default())
    old = Candidate(layout, Config({**good.loops, "gone": 1}))
    graph, kernels = network.fused.graph, network.fused.kernels
    both = choices_of(graph, kernels, network.tasks, {task.key: {good: ok(2e-6), old: ok(1e-6)}})
    ((candidate, _),) = next(iter(both.labels.values())).values()
    assert candidate == good
    assert not choices_of(graph, kernels, network.tasks, {task.key: {old: ok(1e-6)}}).labels


def test_the_fastest_candidate_of_a_label(network):
    task = next(iter(network.tasks.values()))
    layout = task.layouts.default()
    space = task.loops(layout)
    fast, slow = space.neighbours(space.default())[:2]
    found = {Candidate(layout, fast): ok(1e-6), Candidate(layout, slow): ok(2e-6)}
    choices = choices_of(
        network.fused.graph, network.fused.kernels, network.tasks, {task.key: found}
    )
    ((candidate, seconds),) = next(iter(choices.labels.values())).values()
    assert (candidate.loops, seconds) == (fast, 1e-6)


def ranked(network, alone, placed, own=0):
    """What is chosen of a task, by number; the compiler's own choice is `own`."""
    key, task = next(iter(network.tasks.items()))
    layout = task.layouts.default()
    space = task.loops(layout)
    others = space.neighbours(space.default())[: len(alone)]
    loops = [*others[:own], space.default(), *others[own:]][: len(alone)]
    every = [Candidate(layout, each) for each in loops]
    found = {c: ok(s) for c, s in zip(every, alone, strict=True)}
    there = {c: ok(s) for c, s in zip(every, placed, strict=True) if s is not None}
    choices = choices_of(
        network.fused.graph, network.fused.kernels, network.tasks, {key: found}, {key: there}
    )
    ((candidate, seconds),) = next(iter(choices.labels.values())).values()
    assert seconds == min(alone)  # layouts are compared by times alone
    (rivals,) = next(iter(choices.rivals.values())).values()
    return every.index(candidate), [every.index(rival) for rival in rivals]


@pytest.mark.parametrize(
    ("alone", "placed", "own", "chosen"),
    [
        ([3, 2, 1], [None, None, None], 0, 2),
        ([3, 2, 1], [1.0, 2.0, 3.0], 0, 0),
        ([3, 2, 1], [2.0, 1.0, 3.0], 0, 1),
        ([3, 2, 1], [1.0, 0.995, 3.0], 0, 0),  # the compiler's own stays
        ([3, 2, 1], [1.0, 0.995, 3.0], 2, 1),
        ([3, 2, 1], [None, 5.0, None], 0, 1),
    ],
)
def test_within_the_network_the_fastest_there_is_chosen(network, alone, placed, own, chosen):
    assert ranked(network, alone, placed, own)[0] == chosen


def test_the_default_is_among_the_rivals(network):
    times = [9, 1, 2, 3, 4, 5]
    _, rivals = ranked(network, times, [None] * 6)
    assert rivals == [1, 2, 3, 0] and len(rivals) == RIVALS
    _, rivals = ranked(network, times, [None] * 6, own=1)
    assert rivals == [1, 2, 3, 4]


def test_failures_are_no_candidates(network):
    task = next(iter(network.tasks.values()))
    layout = task.layouts.default()
    wrong = Candidate(layout, task.loops(layout).default())
    found = {task.key: {wrong: Measurement(Status.wrong, error=np.inf)}}
    choices = choices_of(network.fused.graph, network.fused.kernels, network.tasks, found)
    assert not choices.labels
