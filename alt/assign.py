"""Which layout each task of a network should use, when neighbours want different ones: exactly."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from alt.assign_program import solve_program
from alt.assignment import Assignment, Method, Problem, Read, Task, Tensor
from alt.errors import AltError

TIE = 1e-9
"""A gain below this share of the total is rounding: the network is left as it is."""

MAX_CELLS = 1 << 24
"""Of all tables together, for elimination: 128 MiB, a few tenths of a second."""


def assign(
    problem: Problem, method: Method | None = None, limit_seconds: float | None = None
) -> Assignment:
    """Choose a label for every task so that kernels and conversions take the least time.

    Networks are mostly chains with short side branches. There, tasks are eliminated one after the
    other: a table says, for all labels of its neighbours, which label is best for a task. The
    tables stay small as long as few tensors are alive at a time. Where they would not, an integer
    program is solved with SciPy's HiGHS.

    Args:
        problem: tasks, tensors and their times.
        method: how; by default by the size of the tables.
        limit_seconds: when to stop the integer program, whose time has no useful bound, with the
            best labels so far. By default it is solved to the end.

    Raises:
        AltError: if SciPy is needed and not there, or tables asked for would be too large.

    Source:
        R. Dechter, Bucket elimination: a unifying framework for reasoning, Artificial Intelligence
        113 (1999); the integer program is the marginal polytope's usual linear description.

    Example:
        A product is faster on blocks, but not by what it costs to convert its input.

        >>> tasks = Task("relu", {"rows": 1e-5}), Task("matmul", {"rows": 9e-5, "8c": 5e-5})
        >>> def between(seconds):
        ...     reads = (Read("matmul", ("rows", "8c")),)
        ...     return Tensor("t", "relu", ("rows",), reads, {("rows", "8c"): seconds})
        >>> assign(Problem(tasks, (between(7e-5),))).labels
        {'relu': 'rows', 'matmul': 'rows'}
        >>> best = assign(Problem(tasks, (between(3e-5),)))
        >>> best.labels, best.conversions[0].readers, f"{best.seconds:.0e}"
        ({'relu': 'rows', 'matmul': '8c'}, ('matmul',), '9e-05')
    """
    unchanged = [0] * len(problem.tasks)
    unchanged_seconds = problem.total_seconds(unchanged)
    kept = _worthwhile(problem)
    smaller = _restricted(problem, kept)
    exact = True
    choice = _eliminate(smaller) if method != "integer program" else None
    if choice is None and method == "elimination":
        raise AltError(
            "assign layouts by elimination: too many tensors are alive at a time, the tables "
            "would be too large; leave the method open"
        )
    used: Method = "integer program" if choice is None else "elimination"
    if choice is None:
        choice, exact = solve_program(smaller, limit_seconds)
    choice = [labels[label] for labels, label in zip(kept, choice, strict=True)]
    seconds = problem.total_seconds(choice)
    if not seconds < unchanged_seconds * (1 - TIE):
        choice, seconds = unchanged, unchanged_seconds
    labels = {
        task.name: tuple(task.seconds)[label]
        for task, label in zip(problem.tasks, choice, strict=True)
    }
    return Assignment(labels, problem.conversions(choice), seconds, unchanged_seconds, used, exact)


# --- labels that cannot matter ------------------------------------------------------------------


def _worthwhile(problem: Problem) -> list[list[int]]:
    """For each task the labels that remain when what another label never loses to is left out."""
    kept = [list(range(len(task.seconds))) for task in problem.tasks]
    while True:
        rise = _most_lost(_restricted(problem, kept))
        before = sum(map(len, kept))
        for task, worse in enumerate(rise):
            alive = list(range(len(kept[task])))
            for b in reversed(range(len(kept[task]))):
                if any(worse[a, b] < 0 or (worse[a, b] == 0 and a < b) for a in alive if a != b):
                    alive.remove(b)
            kept[task] = [kept[task][a] for a in alive]
        if sum(map(len, kept)) == before:
            return kept


def _most_lost(problem: Problem) -> list[np.ndarray]:
    """For each task an upper bound of the seconds lost by using label a in place of label b.

    Whatever the other tasks do: a negative or zero entry [a, b] makes b needless.

    Source:
        R. F. Goldstein, Efficient rotamer elimination applied to protein side-chains and related
        spin glasses, Biophysical Journal 66 (1994).
    """
    seconds = [np.array(tuple(task.seconds.values())) for task in problem.tasks]
    lost = [s[:, None] - s[None, :] for s in seconds]
    for tensor in problem.tensors:
        alone = len(tensor.reads) == 1
        total = 0.0
        for read in tensor.reads:
            table = np.array(
                [[tensor.conversion_seconds(s, w) for w in read.wants] for s in tensor.stored]
            )
            by_label = table[:, :, None] - table[:, None, :]
            if not alone:
                # Others may want the old layout anyway, so that nothing is saved.
                same = np.array(read.wants)[:, None] == np.array(read.wants)[None, :]
                by_label = np.where(same, 0.0, table[:, :, None])
            lost[problem.numbers[read.task]] += by_label.max(0)
            by_stored = (table[:, None, :] - table[None, :, :]).max(-1)
            total = total + (by_stored if alone else np.maximum(by_stored, 0.0))
        if tensor.reads:
            lost[problem.numbers[tensor.producer]] += total
    return lost


def _restricted(problem: Problem, kept: Sequence[Sequence[int]]) -> Problem:
    """The problem with only these labels of each task."""
    if all(len(k) == len(task.seconds) for k, task in zip(kept, problem.tasks, strict=True)):
        return problem

    def pick(task: str, layouts: Sequence[str]) -> tuple[str, ...]:
        return tuple(layouts[label] for label in kept[problem.numbers[task]])

    tasks = []
    for task, labels in zip(problem.tasks, kept, strict=True):
        items = tuple(task.seconds.items())
        tasks.append(Task(task.name, dict(items[label] for label in labels)))
    tensors = [
        replace(
            tensor,
            stored=pick(tensor.producer, tensor.stored),
            reads=tuple(Read(r.task, pick(r.task, r.wants)) for r in tensor.reads),
        )
        for tensor in problem.tensors
    ]
    return Problem(tuple(tasks), tuple(tensors))


# --- elimination --------------------------------------------------------------------------------

Factor = tuple[tuple[int, ...], np.ndarray]
"""Seconds that depend on the labels of a few tasks: their numbers, and one axis for each."""


def _eliminate(problem: Problem) -> list[int] | None:
    """The best labels; None if the tables would be too large."""
    labels = [len(task.seconds) for task in problem.tasks]
    scopes = [_scope(problem, tensor) for tensor in problem.tensors]
    order = _order(labels, scopes)
    if order is None:
        return None
    factors: list[list[Factor]] = [[] for _ in labels]
    position = {task: place for place, task in enumerate(order)}

    def put(factor: Factor) -> None:
        """Where the first of its tasks to be eliminated will find it."""
        if factor[0]:
            factors[min(factor[0], key=position.__getitem__)].append(factor)

    for number, task in enumerate(problem.tasks):
        put(((number,), np.array(tuple(task.seconds.values()))))
    for tensor, scope in zip(problem.tensors, scopes, strict=True):
        put((scope, _conversion_table(problem, tensor, scope)))
    decisions: list[Factor] = []
    for task in order:
        around = sorted({t for scope, _ in factors[task] for t in scope} - {task})
        axes = (*around, task)
        table = np.zeros([labels[t] for t in axes])
        for scope, seconds in factors[task]:
            table += _aligned(scope, seconds, axes)
        # Of equal labels the first, so that tasks are left as they are.
        decisions.append((axes, table.argmin(-1)))
        put((tuple(around), table.min(-1)))
    choice = [0] * len(labels)
    for (*around, task), best in reversed(decisions):
        choice[task] = int(best[tuple(choice[t] for t in around)])
    return choice


def _scope(problem: Problem, tensor: Tensor) -> tuple[int, ...]:
    """The tasks whose label decides what is converted."""
    sides = [(tensor.producer, tensor.stored), *((r.task, r.wants) for r in tensor.reads)]
    return tuple(
        dict.fromkeys(problem.numbers[task] for task, layouts in sides if len(set(layouts)) > 1)
    )


def _order(labels: Sequence[int], scopes: Iterable[tuple[int, ...]]) -> list[int] | None:
    """An order of elimination, always the task with the smallest table next.

    None if all tables together would have too many cells.
    """
    neighbours: list[set[int]] = [set() for _ in labels]
    cells = 0
    for scope in scopes:
        cells += math.prod(labels[t] for t in scope)
        for task in scope:
            neighbours[task].update(scope)

    def size(task: int) -> int:
        return math.prod(labels[t] for t in neighbours[task] | {task})

    queue = [(size(task), task) for task in range(len(labels))]
    heapq.heapify(queue)
    order: list[int] = []
    done: set[int] = set()
    while queue:
        expected, task = heapq.heappop(queue)
        if task in done:
            continue
        if expected != size(task):
            heapq.heappush(queue, (size(task), task))
            continue
        cells += expected
        if cells > MAX_CELLS:
            return None
        order.append(task)
        done.add(task)
        around = neighbours[task] - {task}
        for other in around:
            neighbours[other] = (neighbours[other] | around) - {task}
            heapq.heappush(queue, (size(other), other))
    return order


def _conversion_table(problem: Problem, tensor: Tensor, scope: tuple[int, ...]) -> np.ndarray:
    """What a tensor's conversions cost, one axis for each task in the scope."""
    labels = [len(task.seconds) for task in problem.tasks]
    shape = [labels[t] for t in scope]
    keys = sorted({*tensor.stored, *(w for read in tensor.reads for w in read.wants)})

    def layouts(task: str, listed: Sequence[str]) -> np.ndarray:
        """The layout's position among the keys, along the task's axis."""
        found = np.array([keys.index(layout) for layout in listed])
        number = problem.numbers[task]
        return _aligned((number,), found, scope) if number in scope else found[0]

    stored = layouts(tensor.producer, tensor.stored)
    wants = [layouts(read.task, read.wants) for read in tensor.reads]
    table = np.zeros(shape)
    for number, wanted in enumerate(keys):
        column = np.array(
            [0.0 if key == wanted else tensor.seconds.get((key, wanted), 0.0) for key in keys]
        )
        anyone = np.zeros(shape, bool)
        for want in wants:
            anyone |= want == number
        table += np.where(anyone, column[stored], 0.0)
    return table


def _aligned(scope: Sequence[int], table: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """A table over `scope` as one that broadcasts over `axes`."""
    inside = [t for t in axes if t in scope]
    moved = table.transpose([list(scope).index(t) for t in inside])
    extents = dict(zip(inside, moved.shape, strict=True))
    return moved.reshape([extents.get(t, 1) for t in axes])
