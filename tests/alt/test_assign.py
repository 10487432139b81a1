"""Layouts for a whole network: the best of all, whatever way it is found."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from alt import assign as solver
from alt.assign import assign
from alt.assignment import Problem, Read, Task, Tensor
from alt.errors import AltError

LAYOUTS = ("rows", "8c", "16c", "16c +border")


def random_problem(rng, tasks, labels, reads, *, conversion=1.0, whole=False, layouts=LAYOUTS):
    """Every task reads up to `reads` tensors of the few tasks before it; some read none."""

    def seconds(scale):
        return float(rng.integers(0, 4)) if whole else float(rng.uniform(0.1, 1.0) * scale)

    counts = [int(rng.integers(1, labels + 1)) for _ in range(tasks)]
    made = [
        Task(f"t{n}", {f"l{label}": seconds(1.0) for label in range(count)})
        for n, count in enumerate(counts)
    ]

    def pick(number):
        return tuple(str(layout) for layout in rng.choice(layouts, counts[number]))

    readers = {n: [] for n in range(tasks)}
    for n in range(1, tasks):
        for _ in range(rng.integers(0, reads + 1)):
            readers[int(rng.integers(max(0, n - 4), n))].append(Read(f"t{n}", pick(n)))
    costs = {(a, b): seconds(conversion) for a in layouts for b in layouts if a != b}
    tensors = [
        Tensor(f"x{n}", f"t{n}", pick(n), tuple(found), costs)
        for n, found in readers.items()
        if found
    ]
    return Problem(tuple(made), tuple(tensors))


def smallest(problem):
    """By trying everything, with its own count of what conversions cost."""
    found = []
    for choice in product(*(task.seconds for task in problem.tasks)):
        label = dict(zip((task.name for task in problem.tasks), choice, strict=True))
        place = {task.name: list(task.seconds).index(label[task.name]) for task in problem.tasks}
        total = sum(task.seconds[label[task.name]] for task in problem.tasks)
        for tensor in problem.tensors:
            stored = tensor.stored[place[tensor.producer]]
            wanted = {read.wants[place[read.task]] for read in tensor.reads}
            total += sum(tensor.seconds[stored, w] for w in wanted - {stored})
        found.append(total)
    return min(found), found[0]


@pytest.mark.parametrize("whole", [False, True], ids=["different costs", "many equal costs"])
@pytest.mark.parametrize("seed", range(120))
def test_both_methods_find_what_trying_everything_finds(seed, whole):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, int(rng.integers(1, 7)), 3, 2, whole=whole)
    best, unchanged = smallest(problem)
    for method in ("elimination", "integer program"):
        found = assign(problem, method)
        assert found.seconds == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert found.unchanged_seconds == pytest.approx(unchanged)
        assert found.method == method and found.exact
        choice = [list(t.seconds).index(found.labels[t.name]) for t in problem.tasks]
        assert problem.total_seconds(choice) == found.seconds
        assert problem.conversions(choice) == found.conversions
        if found.seconds == found.unchanged_seconds:
            assert not any(choice)


@pytest.mark.parametrize("seed", range(3))
def test_methods_agree_on_larger_networks(seed):
    problem = random_problem(np.random.default_rng(seed), 60, 6, 2, conversion=0.5)
    a, b = assign(problem, "elimination"), assign(problem, "integer program")
    assert a.seconds == pytest.approx(b.seconds, rel=1e-9)
    assert a.seconds < a.unchanged_seconds


def fan_out(readers, conversion):
    """A row-major tensor read by many that are each a second faster on blocks."""
    tasks = [Task("source", {"rows": 1.0})]
    tasks += [Task(f"r{n}", {"rows": 2.0, "8c": 1.0}) for n in range(readers)]
    reads = tuple(Read(f"r{n}", ("rows", "8c")) for n in range(readers))
    tensor = Tensor("x", "source", ("rows",), reads, {("rows", "8c"): conversion})
    return Problem(tuple(tasks), (tensor,))


@pytest.mark.parametrize("method", ["elimination", "integer program"])
def test_readers_share_a_conversion(method):
    found = assign(fan_out(3, 2.5), method)
    (conversion,) = found.conversions
    assert (conversion.stored, conversion.wanted) == ("rows", "8c")
    assert conversion.readers == ("r0", "r1", "r2")
    assert found.seconds == 1.0 + 3 * 1.0 + 2.5
    assert assign(fan_out(2, 2.5), method).conversions == ()


@pytest.mark.parametrize("method", ["elimination", "integer program"])
def test_a_task_may_read_a_tensor_in_two_layouts(method):
    tasks = Task("a", {"rows": 1.0, "8c": 0.5}), Task("b", {"rows": 9.0, "8c": 1.0})
    reads = Read("b", ("rows", "8c")), Read("b", ("rows", "rows"))
    costs = {("rows", "8c"): 0.5, ("8c", "rows"): 3.0}
    found = assign(Problem(tasks, (Tensor("x", "a", ("rows", "8c"), reads, costs),)), method)
    assert dict(found.labels) == {"a": "rows", "b": "8c"}
    assert found.seconds == 2.5


@pytest.mark.parametrize("method", ["elimination", "integer program"])
@pytest.mark.parametrize("gain", [0.0, 1e-12])
def test_without_a_gain_nothing_changes(gain, method):
    tasks = Task("a", {"rows": 1.0, "8c": 1.0 - gain}), Task("b", {"rows": 1.0, "8c": 1.0})
    costs = {("rows", "8c"): 0.0, ("8c", "rows"): 0.0}
    reads = (Read("b", ("rows", "8c")),)
    found = assign(Problem(tasks, (Tensor("x", "a", ("rows", "8c"), reads, costs),)), method)
    assert dict(found.labels) == {"a": "rows", "b": "rows"}
    assert found.seconds == found.unchanged_seconds == 2.0


@pytest.mark.parametrize("scale", [1e-9, 1e3])
def test_the_unit_does_not_matter(scale):
    """HiGHS has absolute tolerances, which kernels of microseconds would drown in."""
    rng = np.random.default_rng(5)
    plain = random_problem(rng, 12, 4, 2)
    tasks = tuple(Task(t.name, {k: v * scale for k, v in t.seconds.items()}) for t in plain.tasks)
    tensors = tuple(
        Tensor(t.name, t.producer, t.stored, t.reads, {k: v * scale for k, v in t.seconds.items()})
        for t in plain.tensors
    )
    expected = assign(plain, "elimination")
    assert assign(Problem(tasks, tensors), "integer program").labels == expected.labels


def wide(tasks, width):
    """Layers of tasks of which each reads two of the layer before: many tensors are alive."""
    rng = np.random.default_rng(0)
    made = tuple(
        Task(f"t{n}", dict(zip(LAYOUTS, rng.uniform(0.5, 1.5, 4).tolist(), strict=True)))
        for n in range(tasks)
    )
    costs = {(a, b): float(rng.uniform(0.7, 1.3)) for a in LAYOUTS for b in LAYOUTS if a != b}
    tensors = []
    for n in range(tasks - width):
        over = n - n % width + width
        numbers = dict.fromkeys((n + width, over + (n + 1) % width))
        reads = tuple(Read(f"t{r}", LAYOUTS) for r in numbers if r < tasks)
        tensors.append(Tensor(f"x{n}", f"t{n}", LAYOUTS, reads, costs))
    return Problem(made, tuple(tensors))


def test_wide_networks_are_left_to_the_integer_program(monkeypatch):
    problem = wide(60, 12)
    monkeypatch.setattr(solver, "MAX_CELLS", 20_000)
    found = assign(problem)
    assert found.method == "integer program"
    assert found.exact
    assert found.seconds <= found.unchanged_seconds
    with pytest.raises(AltError, match="tables would be too large"):
        assign(problem, "elimination")


def test_a_time_limit_gives_something_usable():
    found = assign(wide(60, 12), "integer program", limit_seconds=0.0)
    assert not found.exact
    assert found.seconds <= found.unchanged_seconds


def test_an_empty_network():
    found = assign(Problem((), ()))
    assert (found.labels, found.conversions, found.seconds) == ({}, (), 0.0)


A, B = Task("a", {"rows": 1.0}), Task("b", {"rows": 1.0, "8c": 1.0})
BOTH = (Read("b", ("rows", "8c")),)


@pytest.mark.parametrize(
    ("tasks", "tensors", "message"),
    [
        ((Task("a", {"rows": float("nan")}),), (), "task a with rows takes nan seconds"),
        ((Task("a", {"rows": float("inf")}),), (), "task a with rows takes inf seconds"),
        ((Task("a", {"rows": -1.0}),), (), "takes -1.0 seconds"),
        ((Task("a", {}),), (), "task a has no candidate"),
        ((A, A), (), "two tasks are called a"),
        ((A, B), (Tensor("x", "a", ("rows",), BOTH, {}),), "wanted as 8c, but no seconds"),
        ((A, B), (Tensor("x", "a", ("rows",), BOTH, {("rows", "8c"): -2.0}),), "takes -2.0 sec"),
        ((A, B), (Tensor("x", "a", ("rows", "8c"), BOTH, {}),), "lists 2 layouts for task a"),
        ((A, B), (Tensor("x", "a", ("rows",), (Read("b", ("rows",)),), {}),), "lists 1 layouts"),
        ((A,), (Tensor("x", "a", ("rows",), (Read("c", ("rows",)),), {}),), "names task c"),
        ((A,), (Tensor("x", "a", ("rows",), (Read("a", ("rows",)),), {}),), "computes itself"),
    ],
)
def test_what_is_refused(tasks, tensors, message):
    with pytest.raises(AltError, match=message) as caught:
        Problem(tasks, tensors)
    assert "\n" not in str(caught.value)
