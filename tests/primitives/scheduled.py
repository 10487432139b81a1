"""Small functions to schedule, and what they compute unscheduled."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from tvm import te, topi

from primitives.loops import Loops
from primitives.loops_nest import kind_of, placed_blocks
from primitives.stages import dtype_of_buffer, shape_of_buffer
from tests.primitives.rewriting import random_array, run, tolerance


def matmul(m: int = 6, k: int = 10, n: int = 12) -> Any:
    a, b = te.placeholder((m, k), name="a"), te.placeholder((k, n), name="b")
    r = te.reduce_axis((0, k), "k")
    c = te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="c")
    d = te.compute((m, n), lambda i, j: te.max(c[i, j] - 1, te.const(0, "float32")), name="d")
    return te.create_prim_func([a, b, d])


def odd_matmul() -> Any:
    return matmul(5, 7, 11)


def conv() -> Any:
    x, w = te.placeholder((1, 3, 9, 7), name="x"), te.placeholder((5, 3, 3, 3), name="w")
    bias = te.placeholder((5, 1, 1), name="bias")
    y = topi.nn.conv2d(x, w, (2, 1), 1, 1, data_layout="NCHW", out_dtype="float32")
    return te.create_prim_func([x, w, bias, topi.nn.relu(topi.add(y, bias))])


def pool() -> Any:
    x = te.placeholder((1, 4, 7, 7), name="x")
    return te.create_prim_func([x, topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max")])


FUNCTIONS = {f.__name__: f for f in (matmul, odd_matmul, conv, pool)}
ANCHOR = {"matmul": "c", "odd_matmul": "c", "conv": "conv2d_nchw", "pool": "pool_max"}


@lru_cache
def expected(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    func = FUNCTIONS[name]()
    rng = np.random.default_rng(7)
    arrays = [random_array(rng, shape_of_buffer(p), dtype_of_buffer(p)) for p in func.params]
    arrays[-1][...] = np.nan
    return arrays, run(func, arrays)[-1]


def check(name: str, recipe: Loops) -> Any:
    """Compare with the unscheduled function; gives the scheduled one."""
    arrays, wanted = expected(name)
    found = run(recipe.func, arrays)[-1]
    error = tolerance("float32", 32) * float(np.abs(wanted).max())
    text = recipe.func.script()
    np.testing.assert_allclose(
        found, wanted, rtol=tolerance("float32", 32), atol=error, err_msg=text
    )
    return recipe.func


def kinds(recipe: Loops, block: str) -> list[tuple[str, int]]:
    """Kind and extent of each loop around a block, outermost first."""
    (placed,) = (p for p in placed_blocks(recipe.func) if p.name == block)
    return [(kind_of(n), int(n.extent.value)) for n in placed.loops]


def extents(recipe: Loops, block: str) -> list[int]:
    return [extent for _, extent in kinds(recipe, block)]


def names(recipe: Loops, block: str) -> list[str]:
    return [n.name for n in recipe.loops(block)]
