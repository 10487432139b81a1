"""Every candidate of every kind of task computes what it should; what should is right, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from equivalence import array, assert_same, model, node, run_reference
from kernel_tasks import (
    CONVOLUTIONS,
    KINDS,
    TRANSPOSED,
    bound,
    default_candidate,
    error,
    model_of,
    network_tasks,
    poison,
    random_candidate,
    reference_of,
    run,
    task_of,
)

from alt.expected import expected, runnable
from alt.features import NAMES
from tuner.task import Candidate

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_is_what_onnx_runtime_computes(kind):
    proto, inputs = model_of(kind)
    task = task_of(kind)
    by_shape = {v: inputs[v.name] for v in task.inputs}
    found = expected(task.kernel, by_shape, task.constants, task.machine)
    (theirs,) = run_reference(proto, inputs)
    assert_same(found.reshape(theirs.shape), [theirs], length=200)


@pytest.mark.parametrize("kind", KINDS)
def test_random_candidates_compute_the_right_numbers(kind):
    task, rng = task_of(kind), np.random.default_rng(len(kind))
    candidate = random_candidate(task, rng)
    assert error(task, run(task, candidate)) < bound(candidate), candidate


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("kind", KINDS)
def test_many_candidates_compute_the_right_numbers(kind, seed):
    task, rng = task_of(kind), np.random.default_rng([seed, len(kind)])
    candidate = default_candidate(task) if seed == 0 else random_candidate(task, rng)
    assert error(task, run(task, candidate)) < bound(candidate), candidate


@pytest.mark.parametrize("kind", [k for k in CONVOLUTIONS if k.startswith("1x1")])
def test_pointwise_convolutions_over_rows_may_copy_what_they_need(kind):
    task, rng = task_of(kind), np.random.default_rng(len(kind))
    layout = task.layouts.project({"algorithm": "rows"})
    space = task.loops(layout)
    loops = space.project({**space.sample(rng), "panels": True})
    strided = "stride" in kind
    assert loops["panels"] and space.default()["panels"] == strided
    for each in dict.fromkeys((loops, space.default())):
        candidate = Candidate(layout, each)
        assert error(task, run(task, candidate)) < bound(candidate), candidate


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in CONVOLUTIONS if k.startswith("1x1")])
def test_all_ways_to_copy_compute_the_right_numbers(kind):
    task, rng, seen = task_of(kind), np.random.default_rng(0), set()
    layout = task.layouts.project({"algorithm": "rows"})
    space = task.loops(layout)
    for _ in range(20):
        loops = space.project({**space.sample(rng), "panels": True})
        seen.add((loops["panel"], loops["share"], loops["outermost"]))
        candidate = Candidate(layout, loops)
        assert error(task, run(task, candidate)) < bound(candidate), candidate
    assert len(seen) > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_all_layouts_of_a_convolution_have_loops_and_compute_the_right_numbers(kind):
    task, rng = task_of(kind), np.random.default_rng(1)
    seen = {}
    for layout in task.layouts.enumerate(5000):
        seen.setdefault(tuple((k, layout[k]) for k in layout if k != "chunk"), layout)
        assert task.loops(layout).default()
    for layout in seen.values():
        candidate = Candidate(layout, task.loops(layout).sample(rng))
        assert error(task, run(task, candidate)) < bound(candidate), candidate


def bordered(kind, cells=((1, 2), (2, 0), (0, 1))):
    """A task whose output is read by a convolution that wants zeros around it."""
    task = task_of(kind)
    rank = len(task.kernel.output.shape) - 2
    return replace(task, border=cells[:rank], _variants={})


@pytest.mark.parametrize("kind", ["3x3", "1x1 with a residual", "depthwise", "grouped", "1-D"])
def test_the_border_that_the_next_one_reads_is_zero(kind):
    task, rng = bordered(kind), np.random.default_rng(0)
    for write in (1, 16, 32):
        layout = task.layouts.project({"algorithm": "blocks", "write": write})
        candidate = Candidate(layout, task.loops(layout).sample(rng))
        assert error(task, run(task, candidate)) < bound(candidate), candidate


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [*CONVOLUTIONS, *TRANSPOSED])
def test_the_border_is_zero_in_many_candidates(kind, seed):
    task = bordered(kind)
    candidate = random_candidate(task, np.random.default_rng([seed, 7]))
    assert error(task, run(task, candidate)) < bound(candidate), candidate


@pytest.mark.parametrize("kind", ["3x3 of a batch", "asymmetric", "depthwise", "3-D depthwise"])
def test_what_lies_behind_the_last_channel_is_never_used(kind):
    task, rng, poisoned = task_of(kind), np.random.default_rng(0), 0
    for algorithm in ("blocks", "winograd4"):
        layout = task.layouts.project({"algorithm": algorithm, "read": 16})
        candidate = Candidate(layout, task.loops(layout).sample(rng))
        program = task.program(candidate)
        made = runnable(program, reference_of(task)[0], [task.kernel.output])
        poisoned += poison(task, candidate, made)
        made.run()
        assert error(task, made) < bound(candidate), candidate
    assert poisoned


@pytest.mark.parametrize("kind", ["3x3 of a batch", "depthwise"])
def test_candidates_that_are_compiled_together_compute_what_they_should(kind):
    task, rng = task_of(kind), np.random.default_rng(3)
    some = [default_candidate(task), *(random_candidate(task, rng) for _ in range(3))]
    programs = task.programs(some)
    assert len({id(p.library) for p in programs}) == 1
    assert len({p.entry for p in programs}) == len(some)
    for candidate, program in zip(some, programs, strict=True):
        made = runnable(program, reference_of(task)[0], [task.kernel.output])
        made.run()
        assert error(task, made) < bound(candidate), candidate


def test_functions_of_candidates_that_are_equal_are_compiled_once():
    task, rng = task_of("3x3 of a batch"), np.random.default_rng(0)
    layout = task.layouts.project({"algorithm": "winograd4"})
    loops = task.loops(layout)
    first, second = loops.default(), loops.mutate(loops.default(), rng)
    programs = task.programs([Candidate(layout, first), Candidate(layout, second)])
    functions = len(programs[0].module.functions)
    assert functions < sum(len(p.steps) + 1 for p in programs)


# --- what a task says of itself -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_describes_any_candidate(kind):
    task, rng = task_of(kind), np.random.default_rng(0)
    some = [default_candidate(task), *(random_candidate(task, rng) for _ in range(5))]
    features = task.features(some)
    assert features.shape[0] == 6 and np.isfinite(features).all()
    assert features.shape[1] == len(NAMES)
    assert all(0 < task.estimate(candidate) < 1 for candidate in some)
    assert task.operations > 0 and task.weight == 1
    assert all(task.layouts.contains(c.layout) for c in some)
    assert all(task.loops(c.layout).contains(c.loops) for c in some)


def test_the_key_is_the_same_for_the_same_computation_and_no_other():
    keys = {kind: task_of(kind).key for kind in KINDS}
    assert len(set(keys.values())) == len(KINDS)
    again = {kind: next(iter(network_tasks(model_of(kind)[0])[1])) for kind in KINDS[:4]}
    assert all(keys[kind] == key for kind, key in again.items())


def test_equal_kernels_are_one_task():
    nodes = [node("Relu", "x", "a")]
    for number in range(3):
        nodes.append(node("Conv", f"{'abc'[number]} w{number}", "bcd"[number], pads=[1] * 4))
    weights = {f"w{n}": array(16, 16, 3, 3, seed=n) for n in range(3)}
    proto = model(nodes, {"x": array(1, 16, 8, 8)}, ["d"], weights)
    _, tasks = network_tasks(proto)
    assert [task.weight for task in tasks.values()] == [3]
