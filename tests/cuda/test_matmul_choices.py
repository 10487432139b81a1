"""How matrix products on a GPU are scheduled: whatever is decided, and what is by rule.

Planted, and caught here: one buffer for two stages; no wait between stages; a wait for copies that
is one group short; the padding left out of an address; a slice that sums another's terms, or none;
an estimate of registers without sums.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from emulated import needs_gxx, planned
from matrix_products import (
    PRECISIONS,
    SHAPES,
    THIN,
    Shapes,
    check,
    check_compiled,
    gpu,
    products,
    results_of,
)

from alt.compiler import Fused
from alt.decisions import decided
from alt.sketches import scope_of, sketch_for
from alt.sketches.gpu.matrix_panel import bank_pad
from alt.sketches.gpu.tiling import DEPTHS, Problem, choose_tile, cycles_of, every_tile
from tuner.choices import Chooser, Config, Default, Infeasible
from tuner.decision import Decision

pytestmark = pytest.mark.cuda_build
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


# --- decisions ----------------------------------------------------------------------------------


class Random(Chooser):
    """Answers at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def decide(self, question: Decision) -> Any:
        """Any of the options."""
        return question.options[self.random.integers(len(question.options))]


def with_random_loops(made: Fused, seed: int) -> Fused:
    """A network whose products are scheduled anyhow."""
    kernels = []
    for number, kernel in enumerate(made.kernels):
        for again in range(1000):
            chooser = Random(seed * 100_000 + number * 1000 + again)
            try:
                scope = scope_of(kernel, {}, made.graph.constants, made.machine, chooser, True)
                sketch_for(scope)(scope)
                break
            except Infeasible:
                continue
        else:
            raise AssertionError("nothing fits")
        kernels.append(decided(kernel, Config({}), chooser.config))
    return replace(made, kernels=kernels)


DECIDED: Shapes = [
    ((70, 40), (40, 68)),
    ((33, 70), (70, 35)),
    ((2, 40, 33), (2, 33, 21)),
    ((7, 100), (100, 44)),
    ((1, 64), (64, 128)),
    ((20, 128), (128, 5)),
    ((40, 64), (64, 1)),
    ((40, 64), (64,)),
]


def check_decisions(precision: str, seed: int) -> None:
    made, factors = products(DECIDED, precision, constant=("", "b", "a")[seed % 3])
    chosen = with_random_loops(made, seed)
    found = results_of(chosen, factors)
    for k, (kernel, result) in enumerate(zip(chosen.kernels, found, strict=True)):
        assert kernel.anchor is not None
        thin = kernel.anchor.attrs["loops"].get("kind") == "thin"
        check(result, factors[2 * k], factors[2 * k + 1], "fp32" if thin else precision)


@needs_gxx
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_decisions_compute_the_same(precision, seed):
    check_decisions(precision, seed)


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_decisions_compute_the_same(precision, seed):
    check_decisions(precision, seed)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_is_asked_without_making_statements(precision):
    made, _ = products([*DECIDED, *THIN], precision)
    for kernel in made.kernels:
        asked, answered = Default(), Default()
        for chooser, asking in ((asked, True), (answered, False)):
            scope = scope_of(kernel, {}, made.graph.constants, made.machine, chooser, asking)
            sketch_for(scope)(scope)
        assert asked.decisions == answered.decisions
        assert len(asked.decisions) >= 3


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_tensor_cores_read_each_word_of_another_bank(precision):
    for depth in DEPTHS[precision]:
        words = depth // 2 if precision == "fp16" else depth
        stride = words + bank_pad("depth", 64, depth, precision)
        assert stride % 4 == 0  # 16 bytes
        assert len({(r * stride + c) % 32 for r in range(8) for c in range(4)}) == 32
    for outer in range(16, 257, 16):
        stride = outer + bank_pad("outer", outer, 32, precision)
        assert len({(c * stride + r) % 32 for r in range(8) for c in range(4)}) == 32


# --- what is chosen without measuring -----------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("arch", ["sm_70", "sm_80", "sm_90", "sm_120"])
def test_every_choice_fits(precision, arch):
    machine, rng = gpu(precision, arch), np.random.default_rng(0)
    for _ in range(10):
        count, rows, columns, depth = (int(2 ** rng.uniform(0, 12)) for _ in range(4))
        problem: Any = Problem(count, rows, columns, depth, precision)
        tile = choose_tile(problem, machine)
        assert tile.refusal(precision, machine) is None
        assert tile.blocks(problem) * tile.rows * tile.columns >= count * rows * columns


@pytest.mark.parametrize("precision", PRECISIONS)
def test_large_products_get_large_tiles_and_small_ones_many_blocks(precision):
    machine = gpu(precision)
    large: Any = Problem(1, 4096, 4096, 4096, precision)
    small: Any = Problem(1, 128, 128, 4096, precision)
    assert choose_tile(large, machine).rows * choose_tile(large, machine).columns >= 128 * 128
    assert choose_tile(small, machine).blocks(small) >= 16
    # A batch fills the GPU that one matrix does not fill.
    of_many = choose_tile(replace(small, count=500), machine)
    assert of_many.rows > choose_tile(small, machine).rows


def test_less_precision_is_never_slower():
    machine = gpu("fp32")
    for extents in ((1, 4096, 4096, 4096), (12, 128, 128, 64), (1, 197, 768, 3072)):
        best = [
            min(
                cycles_of(tile, problem, machine)
                for tile in every_tile(problem)
                if tile.refusal(problem.precision, machine) is None
            )
            for problem in (Problem(*extents, precision) for precision in PRECISIONS)
        ]
        assert best[0] >= best[2]


# --- nvcc ---------------------------------------------------------------------------------------

LARGE: Shapes = [
    ((4096, 4096), (4096, 4096)),
    ((128, 768), (768, 3072)),
    ((12, 128, 64), (12, 64, 128)),
    ((197, 768), (768, 769)),
    ((49, 512), (512, 2048)),
    ((1, 2048), (2048, 1000)),
    ((8, 1024), (1024, 1001)),
]


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_choices_compile_without_spills(precision, arch):
    made, _ = products(LARGE, precision, arch)
    check_compiled(made, precision, arch)


@needs_nvcc
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_products_with_weights_compile_without_spills(precision):
    made, _ = products(LARGE[:4], precision, constant="b")
    check_compiled(made, precision, "sm_90")


@pytest.mark.parametrize(
    ("precision", "word"), [("tf32", "alt_mma_tf32"), ("fp16", "alt_mma_fp16")]
)
def test_tensor_cores_are_used_where_they_are(precision, word):
    for arch, there in (("sm_75", False), ("sm_80", True), ("sm_90", True)):
        made, _ = products(SHAPES[:1], precision, arch)
        library: Any = planned(made).library
        assert (word in library.source) is there
