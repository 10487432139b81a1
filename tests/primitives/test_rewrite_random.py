"""Operators of every kind with random layouts on every tensor compute what they did before.

Bugs the author planted, and what caught each:
- cells that hold no element computed like others: `test_random_layouts`;
- a reduction started there from its own start, not from the fill: `test_random_layouts`;
- steps after an unfold given the shape from before it: `test_random_layouts`.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.primitives.operators import BUILDERS, operator
from tests.primitives.random_layouts import random_layouts
from tests.primitives.rewriting import Case, check_all

pytestmark = pytest.mark.llvm

FILLS = (0, 0, -3.5, -np.inf)


def random_cases(name: str, seed: int, count: int) -> tuple[list[Case], np.random.Generator]:
    rng = np.random.default_rng((seed, *map(ord, name)))
    func = operator(name)
    fills = (0, 2) if name == "of_integers" else FILLS
    return [
        Case(
            func,
            random_layouts(rng, func),
            fill=float(rng.choice(fills)),
            absorb=bool(rng.integers(4)),
            back=k % 3 == 0,
        )
        for k in range(count)
    ], rng


@pytest.mark.parametrize("name", BUILDERS)
def test_random_layouts(name: str) -> None:
    cases, rng = random_cases(name, 0, 7)
    check_all(cases, rng)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", BUILDERS)
def test_many_random_layouts(name: str, seed: int) -> None:
    cases, rng = random_cases(name, seed, 25)
    check_all(cases, rng)
