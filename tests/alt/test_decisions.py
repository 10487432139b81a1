"""Decisions reach the code, alone and in a network; and what is wrong is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from equivalence import WINOGRAD, array, assert_same, model, node, run_reference
from kernel_tasks import bound, error, network_tasks, random_candidate, run, task_of

from alt.compiler import assemble
from alt.decisions import decide_storage, decided, storage_of
from alt.policies import policy_of
from alt.select import tasks_by_kernel
from tuner.choices import Default
from tuner.config import Config
from tuner.task import Candidate

pytestmark = pytest.mark.llvm

# The package has functions of the same names.
CONV, DEPTHWISE, GENERIC, WINOGRAD_SKETCH = (
    import_module(f"alt.sketches.{name}") for name in ("conv", "depthwise", "generic", "winograd")
)


# --- a network with random decisions ------------------------------------------------------------


def residual_network():
    """Of everything a bit: a stem, a residual block, depthwise, a pool, a classifier."""
    nodes = [
        node("Conv", "x w0 b0", "a0", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "a0", "a"),
        node("Conv", "a w1", "c0", pads=[1, 1, 1, 1]),
        node("Relu", "c0", "c"),
        node("Conv", "c w2", "d0", pads=[1, 1, 1, 1]),
        node("Add", "d0 a", "d1"),
        node("Relu", "d1", "d"),
        node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "e w3", "f0", group=32, pads=[1, 1, 1, 1]),
        node("Relu", "f0", "f"),
        node("Conv", "f w4", "g"),
        node("Concat", "g e", "h", axis=1),
        node("Conv", "h w5", "i", pads=[2, 0, 0, 2]),
        node("GlobalAveragePool", "i", "j"),
        node("Flatten", "j", "k"),
        node("Gemm", "k w6 b6", "y"),
    ]
    weights = {
        "w0": array(32, 3, 3, 3), "b0": array(32), "w1": array(48, 32, 3, 3, seed=1),
        "w2": array(32, 48, 3, 3, seed=2), "w3": array(32, 1, 3, 3, seed=3),
        "w4": array(24, 32, 1, 1, seed=4), "w5": array(40, 56, 3, 3, seed=5),
        "w6": array(40, 10, seed=6), "b6": array(10),
    }  # fmt: skip
    for name, weight in weights.items():
        weights[name] = weight / np.float32(np.sqrt(max(weight[0].size, 1)))
    inputs = {"x": array(1, 3, 30, 26)}
    return model(nodes, inputs, ["y", "h"], weights), inputs


@pytest.mark.parametrize("seed", range(3))
def test_a_network_with_random_decisions_computes_the_same(seed):
    check_network(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 60))
def test_a_network_with_many_random_decisions_computes_the_same(seed):
    check_network(seed)


def check_network(seed):
    proto, inputs = residual_network()
    network, tasks = network_tasks(proto)
    rng, chosen, layouts = np.random.default_rng(seed), {}, set()
    for kernel, task in tasks_by_kernel(network.kernels, tasks):
        candidate = random_candidate(task, rng)
        chosen[kernel] = decided(kernel, candidate.layout, candidate.loops)
        layouts.add(candidate.layout)
    assert len(chosen) == 7 and len(layouts) > 3
    kernels = [chosen.get(kernel, kernel) for kernel in network.kernels]
    module = assemble(network, kernels, 1)
    for _ in range(2):
        assert_same(module(**inputs), run_reference(proto, inputs), length=600 * WINOGRAD)


def test_decisions_change_the_code_and_nothing_else():
    task = task_of("3x3")
    rng = np.random.default_rng(0)
    one, other = random_candidate(task, rng), random_candidate(task, rng)
    assert one != other
    texts = [task.program(c).module.script() for c in (one, one, other)]
    assert texts[0] == texts[1] != texts[2]


def test_the_rule_answers_what_is_left_open():
    task = task_of("3x3")
    default = task.layouts.default()
    storage = storage_of(task.kernel, task.machine, task.policy, task.winograd)
    kernel = decided(task.kernel, default, Config({}))
    assert storage_of(kernel, task.machine, task.policy, task.winograd) == storage
    assert storage == decide_storage(Default(), task.kernel.anchor, task.machine)
    partly = decided(task.kernel, Config({"algorithm": "blocks"}), Config({}))
    assert storage_of(partly, task.machine, task.policy, task.winograd).algorithm == "blocks"


@pytest.mark.parametrize("policy", ["NCHW", "NHWC", "NCHWc"])
def test_a_fixed_format_leaves_no_layouts(policy):
    task = replace(task_of("3x3"), policy=policy_of(policy), winograd=False, _variants={})
    lanes = task.machine.lanes()
    wanted = {"NCHW": (1, 1), "NHWC": (32, 48), "NCHWc": (lanes, lanes)}[policy]
    for layout in task.layouts.enumerate(100):
        kernel = decided(task.kernel, layout, Config({}))
        storage = storage_of(kernel, task.machine, task.policy, task.winograd)
        assert (storage.read, storage.write) == wanted
        candidate = Candidate(layout, task.loops(layout).default())
        assert error(task, run(task, candidate)) < bound(candidate)


# --- planted bugs -------------------------------------------------------------------------------


def unfilled(patch):
    patch.setattr(CONV, "fill_border", lambda *_: None)


def unfilled_depthwise(patch):
    patch.setattr(DEPTHWISE, "fill_border", lambda *_: None)


def filled_with_ones(patch):
    right = GENERIC.tirx.const
    patch.setattr(
        GENERIC.tirx, "const", lambda v, t: right(1.0 if v == 0 and t == "float32" else v, t)
    )  # fmt: skip


def shifted(patch):
    """Reads one column to the left of where it should."""
    right = CONV.phases

    def wrong(anchor):
        return [replace(p, offset=(*p.offset[:-1], p.offset[-1] - 1)) for p in right(anchor)]

    patch.setattr(CONV, "phases", wrong)


def channels_in_another_order(patch):
    """The weights of a block of 32 channels lie as if it were two of 16, the second one first."""
    right = CONV.taps_of_phase
    patch.setattr(CONV, "taps_of_phase", lambda n, p, w: np.roll(right(n, p, w), 16, axis=2))


def taps_backwards(patch):
    right = CONV.taps_of_phase
    patch.setattr(CONV, "taps_of_phase", lambda n, p, w: right(n, p, w)[..., ::-1].copy())


def one_entry_of_the_transform(patch):
    matrix = [list(row) for row in WINOGRAD_SKETCH.INPUT[4]]
    row, column = next((r, c) for r, row in enumerate(matrix) for c, v in enumerate(row) if v == 1)
    matrix[row][column] = -1.0
    patch.setitem(WINOGRAD_SKETCH.INPUT, 4, matrix)


def transformed_in_half_precision(patch):
    right = WINOGRAD_SKETCH.transformed_weights
    patch.setattr(
        WINOGRAD_SKETCH,
        "transformed_weights",
        lambda m, w: right(m, w).astype(np.float16).astype(np.float32) * np.float32(1.01),
    )


CODE = {
    # kind, layout, loops, what is wrong
    "no border": ("3x3", {"algorithm": "blocks"}, {}, unfilled),
    "no border behind depthwise": ("depthwise", {}, {}, unfilled_depthwise),
    "border of ones": ("3x3", {"algorithm": "blocks"}, {}, filled_with_ones),
    "shifted": ("3x3", {"algorithm": "blocks"}, {}, shifted),
    "order of channels": ("3x3", {"algorithm": "blocks", "read": 32}, {}, channels_in_another_order),
    "order of taps": ("3x3", {"algorithm": "blocks"}, {"reduce": "taps"}, taps_backwards),
    "transform": ("3x3", {"algorithm": "winograd4"}, {}, one_entry_of_the_transform),
    "precision": ("3x3", {"algorithm": "winograd4"}, {}, transformed_in_half_precision),
}  # fmt: skip


@pytest.mark.parametrize("bug", CODE)
def test_a_bug_in_the_code_is_found(bug, monkeypatch):
    kind, layouts, loops, plant = CODE[bug]
    task = replace(task_of(kind), border=((1, 1), (1, 1)), _variants={})
    layout = task.layouts.project(layouts)
    candidate = Candidate(layout, task.loops(layout).project(loops))
    assert layouts.items() <= layout.items()
    assert error(task, run(task, candidate)) < bound(candidate)
    with monkeypatch.context() as patch:
        plant(patch)
        assert error(task, run(task, candidate)) > bound(candidate)


def half_a_vector(found):
    vector = found.output[0, 1, 5, 5]
    vector[8:] = vector[:8] + 1


def one_nan(found):
    found.output[0, 1, 5, 5, 3] = np.nan


def nan_in_the_border(found):
    found.output[0, 1, 0, 5, 3] = np.nan


def one_in_the_far_corner(found):
    found.output[0, 2, -1, -1, -1] = 1e-2


def last_row_left_out(found):
    found.output[:, :, -2] = 0


def slightly_off(found):
    found.output[0, 0, 3, 3, 3] += 3e-4 * np.abs(found.output).max()


def images_swapped(found):
    found.output[...] = found.output[:, ::-1].copy()


RESULTS: list[Callable] = [
    half_a_vector, one_nan, nan_in_the_border, one_in_the_far_corner, last_row_left_out,
    slightly_off, images_swapped,
]  # fmt: skip


@pytest.fixture(scope="module")
def right():
    task = replace(task_of("3x3"), border=((1, 1), (1, 1)), _variants={})
    layout = task.layouts.project({"algorithm": "blocks", "read": 16, "write": 16})
    candidate = Candidate(layout, task.loops(layout).default())
    found = run(task, candidate)
    assert found.output.shape == (1, 3, 14, 14, 16)
    assert error(task, found) < bound(candidate)
    return task, candidate, found


@pytest.mark.parametrize("spoil", RESULTS)
def test_a_wrong_result_is_found(spoil, right):
    task, candidate, found = right
    kept = found.output.copy()
    spoil(found)
    assert error(task, found) > bound(candidate)
    found.output[...] = kept
    assert error(task, found) < bound(candidate)


def test_a_kernel_that_writes_nothing_is_found(right):
    task, candidate, found = right
    found.output[...] = np.nan
    assert error(task, found) == float("inf")
    found.run()
    assert error(task, found) < bound(candidate)


def test_behind_the_last_channel_may_be_anything():
    task = task_of("asymmetric")
    layout = task.layouts.project({"algorithm": "blocks", "read": 16, "write": 16})
    candidate = Candidate(layout, task.loops(layout).default())
    found = run(task, candidate)
    found.output[:, -1, ..., 1:] = np.nan
    assert error(task, found) < bound(candidate)
