"""Attention on a GPU: any shape, storage, mask and decision; and what nvcc makes of it.

Planted, and caught here: a score behind the last key that counts; sums that do not shrink when the
maximum grows; slices that all weigh the same; a maximum that starts from minus infinity; no wait
between the threads of a warp, or at the end of a step; a wait for copies that is one group short,
of keys or of values; words of keys in another order than those of queries, powers than values; the
rows of a left factor 8 apart where they are neighbours; a pair that a thread writes the wrong way
round; powers whose last bits are cut off.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from attentions import Attention
from emulated import SM_90, emulate, needs_gxx, planned
from equivalence import assert_same, model, node, run_reference
from matrix_products import PRECISIONS, check_compiled, gpu, random, results

from alt.cuda.lower import Lowered
from alt.cuda.nvcc import compile_source
from alt.sketches.gpu.attention_tile import Problem, Tile, choose_tile, cycles_of, every_tile
from tuner.choices import Infeasible

pytestmark = pytest.mark.cuda_build
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def heads(count: tuple[int, ...], queries: int, keys: int, depth: int, width: int) -> Attention:
    return Attention((*count, queries, depth), (*count, depth, keys), (*count, keys, width))


def with_mask(attention: Attention, mask: np.ndarray) -> Attention:
    return Attention(attention.q, attention.k, attention.v, mask.astype(np.float32))


def causal(queries: int, keys: int) -> np.ndarray:
    return np.where(np.arange(keys) <= np.arange(queries)[:, None], 0, -np.inf)


LATE = np.full(300, -np.inf)
LATE[271:] = 0
LOW = np.zeros((1, 1, 20, 40))
LOW[:, :, 3:7] = np.finfo(np.float32).min
LOW[:, :, 9] = -1e30
NOTHING = np.zeros((20, 200))
NOTHING[5] = -np.inf
UNKNOWN = np.zeros((20, 200))
UNKNOWN[3, 100], UNKNOWN[4, 0], UNKNOWN[4, 150] = np.nan, np.inf, -np.inf

CASES = {
    "a head of BERT": Attention(
        (1, 2, 40, 64), (1, 2, 64, 72), (1, 2, 72, 64), random(1, 1, 1, 72),
        {"q": (0, 2, 1, 3), "k": (0, 3, 1, 2), "v": (0, 2, 1, 3)},
    ),
    "odd extents": heads((3,), 37, 53, 19, 23),
    "one of all": heads((1, 1), 1, 1, 1, 1),
    "one key": heads((2, 3), 9, 1, 8, 40),
    "one query": heads((5,), 1, 150, 32, 64),
    "two axes": heads((), 21, 34, 12, 8),
    "many keys": heads((1, 2), 3, 600, 8, 12),
    "deep": heads((2,), 10, 33, 300, 20),
    "wide": heads((2,), 10, 33, 20, 300),
    "keys and values of all": Attention((2, 3, 17, 16), (1, 1, 16, 30), (30, 24)),
    "queries of all": Attention((17, 16), (2, 3, 16, 30), (2, 1, 30, 24)),
    "keys as they are read": Attention(
        (2, 33, 32), (2, 32, 64), (2, 64, 32), orders={"q": (0, 2, 1), "v": (0, 2, 1)}
    ),
    "causal": with_mask(heads((2,), 70, 70, 16, 16), causal(70, 70)),
    "late keys": with_mask(heads((2,), 5, 300, 8, 8), LATE),
    "very low scores": with_mask(heads((1, 2), 20, 40, 16, 8), LOW),
    "a row of nothing": with_mask(heads((2,), 20, 200, 16, 8), NOTHING),
    "not numbers": with_mask(heads((2,), 20, 200, 16, 8), UNKNOWN),
    "fused": Attention((2, 24, 16), (2, 16, 50), (2, 50, 36), random(24, 50), around=True),
}  # fmt: skip


@needs_gxx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_any_shape_mask_and_storage(case, precision):
    CASES[case].check(precision)


DECIDED = {
    "even": Attention(
        (2, 64, 32), (2, 32, 256), (2, 256, 32), random(64, 256), {"k": (0, 2, 1)}
    ),
    "odd": Attention((1, 3, 67, 35), (1, 3, 35, 131), (1, 3, 131, 37), random(3, 1, 131)),
    "in parts": Attention((40, 150), (150, 70), (70, 140), causal(40, 70).astype(np.float32)),
}  # fmt: skip


def loops_of(tile: Tile) -> dict[str, int]:
    return {"rows": tile.rows, "keys": tile.keys, "warps": tile.down, "slices": tile.slices}


def check_decisions(case: str, precision: str, seed: int) -> None:
    random = np.random.default_rng([seed, len(case)])
    tiles = list(every_tile(precision))
    for again in range(100):
        try:
            DECIDED[case].check(precision, loops_of(tiles[random.integers(len(tiles))]))
            return
        except Infeasible:
            assert again < 99


@needs_gxx
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", DECIDED)
def test_any_decisions_compute_the_same(case, precision, seed):
    check_decisions(case, precision, seed)


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", DECIDED)
def test_many_decisions_compute_the_same(case, precision, seed):
    check_decisions(case, precision, seed)


@needs_gxx
@pytest.mark.parametrize("mask", [LATE, np.full(300, -np.inf)], ids=["late", "none"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_slices_that_see_no_key(precision, mask):
    """Their maximum is no score, and their sums are 0."""
    loops = {"rows": 16, "keys": 32, "warps": 1, "slices": 4}
    with_mask(heads((2,), 5, 300, 8, 8), mask).check(precision, loops)
    with_mask(heads((2,), 5, 70, 8, 8), mask[:70]).check(precision, loops)


class Mean(Attention):
    """Scores are the mask, and the result is 1: the sum of weights."""

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        fill = {"q": np.zeros_like, "k": np.zeros_like, "v": np.ones_like}
        return {n: fill[n](a) if n in fill else a for n, a in super().inputs.items()}


@needs_gxx
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_powers_are_rounded_to_the_nearest(precision):
    """Otherwise all of these would lose as much as one can."""
    power = 1434 * 2.0**-11 - 1e-5
    mask = np.full(64, np.log(power), np.float32)
    mask[0] = 0
    mean = Mean((1, 4, 16), (1, 16, 64), (1, 64, 8), mask)
    made = mean.fused(precision)
    (found,) = results(made, [mean.inputs[name] for name, *_ in made.imported.inputs])
    assert np.abs(found - 1).max() < 1e-4


@needs_gxx
@pytest.mark.parametrize("arch", ["sm_70", "sm_80"])
def test_with_and_without_copies(arch):
    """Before sm_80 everything passes through registers."""
    q, k, v = random(2, 20, 16), random(2, 16, 70, seed=1), random(2, 70, 24, seed=2)
    nodes = [node("MatMul", "q k", "s"), node("Softmax", "s", "p", axis=-1), node("MatMul", "p v")]
    proto = model(nodes, {"q": q, "k": k, "v": v}, ["y"])
    inputs = {"q": q, "k": k, "v": v}
    found = emulate(proto, inputs, {**SM_90, "arch": arch})
    assert_same(tuple(found), run_reference(proto, inputs), 200)
    library = planned(heads((2,), 20, 70, 16, 24).fused("fp32", arch)).library
    assert isinstance(library, Lowered)
    assert ("cp.async" in library.source) is (arch == "sm_80")


@needs_nvcc
def test_before_there_were_copies():
    library = planned(heads((2, 4), 100, 100, 64, 64).fused("fp32", "sm_75")).library
    assert isinstance(library, Lowered)
    assert len(compile_source(library.source, "sm_75")) == 1


def test_what_does_not_fit_is_refused():
    loops = {"rows": 32, "keys": 64, "warps": 8, "slices": 4}
    with pytest.raises(Infeasible, match="registers"):
        planned(heads((2,), 300, 300, 128, 128).fused("fp32", loops=loops))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tiles_by_rule(precision):
    """Always one that fits; small where there is little work; none is estimated to be faster."""
    machine = gpu(precision)
    extents = [
        (1, 1, 1, 1, 1),
        (12, 128, 128, 64, 64),
        (192, 128, 128, 64, 64),
        (8, 4096, 4096, 40, 40),
        (1, 4096, 4096, 512, 512),
        (64, 49, 49, 32, 32),
        (16, 1, 2048, 128, 128),
    ]
    for each in extents:
        problem = Problem(*each, precision)
        tile = choose_tile(problem, machine)
        assert tile.refusal(problem, machine) is None
        fitting = [t for t in every_tile(precision) if t.refusal(problem, machine) is None]
        least = min(cycles_of(t, problem, machine) for t in fitting)
        assert cycles_of(tile, problem, machine) == least
    few, many = (choose_tile(Problem(n, 128, 128, 64, 64, precision), machine) for n in (12, 1536))
    assert few.queries < many.queries


LARGE = [
    (16, 12, 128, 128, 64, 64),
    (1, 12, 128, 128, 64, 64),
    (16, 12, 512, 512, 64, 64),
    (1, 8, 1024, 1024, 128, 128),
    (1, 1, 300, 300, 512, 512),
    (1, 8, 512, 77, 40, 40),
]


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_choices_compile_without_spills(precision, arch):
    for batch, count, queries, keys, depth, width in LARGE:
        attention = heads((batch, count), queries, keys, depth, width)
        check_compiled(attention.fused(precision, arch), precision, arch)
