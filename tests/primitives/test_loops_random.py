"""Random recipes: whatever is accepted compiles and keeps the numbers.

They found that TVM moves a producer behind its readers, drops the guard of a copy, reads sums
before they are complete, shrinks a pad to what its reader needs, and adds terms twice where blocks
overlap: all refused since, see `primitives.loops_legal`.
"""

from __future__ import annotations

import numpy as np
import pytest

from primitives.errors import ScheduleError
from primitives.loops import Loops, schedule
from primitives.loops_nest import placed_blocks
from tests.primitives.scheduled import FUNCTIONS, check

pytestmark = pytest.mark.llvm


def step(recipe: Loops, rng: np.random.Generator) -> None:
    """One random primitive with random arguments; may be refused."""
    block = str(rng.choice(recipe.blocks))
    other = str(rng.choice(recipe.blocks))
    loops = recipe.loops(block)
    if not loops:
        return
    loop = loops[int(rng.integers(len(loops)))]
    match int(rng.integers(14)):
        case 0 | 1:
            recipe.split(loop, int(rng.choice([2, 3, 4, 5])), partial=bool(rng.integers(2)))
        case 2:
            at = int(rng.integers(len(loops)))
            recipe.fuse(*loops[at : at + 2])
        case 3 | 4:
            recipe.reorder(*(loops[p] for p in rng.permutation(len(loops))))
        case 5:
            recipe.vectorize(loop)
        case 6:
            if (loop.extent or 99) <= 12:
                recipe.unroll(loop)
        case 7:
            recipe.parallel(loop)
        case 8:
            regions = next(p for p in placed_blocks(recipe.func) if p.name == block).block.reads
            names = [str(r.source.name) for r in regions]
            if names:
                recipe.cache_read(
                    block, str(rng.choice(names)), str(rng.choice(["local", "global"]))
                )
        case 9:
            recipe.cache_write(block, str(rng.choice(["local", "global"])))
        case 10:
            recipe.compute_at(other, loop)
        case 11:
            recipe.reverse_compute_at(other, loop)
        case 12:
            recipe.inline(block, into_producer=bool(rng.integers(2)))
        case _:
            recipe.decompose_reduction(block, loop)


def random_recipe(name: str, seed: int) -> int:
    """How many primitives were accepted."""
    rng = np.random.default_rng(seed)
    recipe = schedule(FUNCTIONS[name]())
    accepted = 0
    for _ in range(int(rng.integers(4, 24))):
        try:
            step(recipe, rng)
        except ScheduleError:
            continue
        accepted += 1
    check(name, recipe)
    return accepted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_recipes_keep_the_numbers(name: str) -> None:
    assert sum(random_recipe(name, seed) for seed in range(25)) > 75


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1200, 20))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_random_recipes(name: str, start: int) -> None:
    assert sum(random_recipe(name, seed) for seed in range(start, start + 20)) > 60
