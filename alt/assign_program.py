"""The choice of layouts for a whole network as an integer program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from alt.assignment import Problem, Tensor
from alt.errors import AltError


class _Program:
    """Minimise a sum of variables times seconds under linear constraints; all in 0..1."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.whole: list[int] = []
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.least: list[float] = []
        self.most: list[float] = []

    def variable(self, cost: float, whole: bool = False) -> int:
        self.cost.append(cost)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def require(self, least: float, plus: Iterable[int], minus: Iterable[int], most: float) -> None:
        """`least <= sum(plus) - sum(minus) <= most`."""
        row = len(self.least)
        for sign, variables in ((1.0, plus), (-1.0, minus)):
            for variable in variables:
                self.rows.append(row)
                self.columns.append(variable)
                self.values.append(sign)
        self.least.append(least)
        self.most.append(most)

    def solve(self, limit_seconds: float | None) -> tuple[np.ndarray | None, bool]:
        """The best values found, if any, and whether they are proven to be the best."""
        try:
            from scipy.optimize import Bounds, milp
            from scipy.sparse import csr_array
        except ImportError as error:
            raise AltError(
                "assign layouts: this network branches so much that SciPy is needed; "
                "pip install 'alt-compiler[tune]'"
            ) from error
        shape = len(self.least), len(self.cost)
        matrix = csr_array((self.values, (self.rows, self.columns)), shape=shape)
        found = milp(
            np.array(self.cost),
            constraints=(matrix, np.array(self.least), np.array(self.most)),
            integrality=np.array(self.whole),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0, "time_limit": limit_seconds},
        )
        assert found.status in (0, 1), found.message
        return found.x, found.status == 0


def solve_program(problem: Problem, limit_seconds: float | None) -> tuple[list[int], bool]:
    """The best labels, by an integer program, and whether that is proven."""
    first = [0] * len(problem.tasks)
    total = problem.total_seconds(first)
    if total == 0.0:
        return first, True
    # HiGHS stops at an absolute gap of 1e-6 whatever one asks for.
    scale = 1e6 / total
    program = _Program()
    chosen: list[list[int]] = []
    for task in problem.tasks:
        chosen.append([program.variable(t * scale, whole=True) for t in task.seconds.values()])
        program.require(1, chosen[-1], (), 1)
    for tensor in problem.tensors:
        _add_conversions(program, problem, tensor, chosen, scale)
    x, exact = program.solve(limit_seconds)
    if x is None:
        return first, False
    return [int(np.argmax(x[labels])) for labels in chosen], exact


def _add_conversions(
    program: _Program,
    problem: Problem,
    tensor: Tensor,
    chosen: Sequence[Sequence[int]],
    scale: float,
) -> None:
    def by_layout(task: str, layouts: Sequence[str]) -> dict[str, list[int]]:
        """The variables whose sum says whether a task chose a layout."""
        found: dict[str, list[int]] = {}
        for layout, variable in zip(layouts, chosen[problem.numbers[task]], strict=True):
            found.setdefault(layout, []).append(variable)
        return found

    stored = by_layout(tensor.producer, tensor.stored)
    wants = [by_layout(read.task, read.wants) for read in tensor.reads]
    everyone = dict.fromkeys(layout for want in wants for layout in want)
    # For each pair of layouts, whether a tensor stored like this is read like that.
    both = {
        (s, w): program.variable(tensor.conversion_seconds(s, w) * scale)
        for s, w in product(stored, everyone)
    }
    for s, variables in stored.items():
        # Only what is stored can be read: by one task, or in every layout that is wanted.
        if len(wants) == 1:
            program.require(0, [both[s, w] for w in everyone], variables, 0)
        else:
            for w in everyone:
                program.require(-np.inf, [both[s, w]], variables, 0)
    for want in wants:
        for w, variables in want.items():
            program.require(0, [both[s, w] for s in stored], variables, np.inf)
