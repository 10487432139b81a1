"""Convolutions on tensor cores, emulated, against NumPy."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from conv_models import Case
from emulated import needs_gxx
from warp_convs import (
    ON_TENSOR_CORES,
    check_all,
    network_of_all,
    with_decisions,
)

from alt.compiler import Fused
from alt.sketches import scope_of, sketch_for
from tuner.choices import Chooser, Config, Infeasible
from tuner.decision import Decision

pytestmark = [pytest.mark.cuda_build]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

PRECISIONS = ("tf32", "fp16")
SAME = {"pads": [1, 1, 1, 1]}
CASES = [
    Case((1, 3, 9, 11), (8, 3, 3, 3), SAME, ("bias", "relu")),
    Case((2, 1, 12, 12), (5, 1, 5, 5)),
    Case((1, 144, 5, 5), (24, 144, 1, 1)),
    Case((3, 24, 4, 8), (40, 24, 1, 1), {}, ("bias", "add", "relu")),
    Case((2, 24, 7, 7), (17, 24, 1, 1), {}, ("add",)),
    Case((2, 24, 7, 7), (16, 24, 3, 3), {**SAME, "strides": [2, 2]}, ("bias", "add")),
    Case((1, 32, 6, 6), (24, 32, 3, 3), SAME, ("bias", "add", "relu")),
    Case((1, 16, 4, 4), (1000, 16, 1, 1)),
    Case((1, 1000, 2, 2), (6, 1000, 1, 1)),
    Case((2, 1000, 1, 1), (9, 1000, 1, 1), {}, ("bias", "add")),
    Case((1, 3, 15, 14), (16, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    Case((1, 8, 10, 10), (8, 8, 3, 3), {"pads": [2, 0, 1, 3], "dilations": [2, 1]}),
    Case((2, 6, 13, 12), (7, 6, 2, 2), {"strides": [3, 4]}),
    Case((1, 12, 8, 8), (18, 4, 3, 3), {**SAME, "group": 3}, ("bias", "relu")),
    Case((2, 32, 6, 6), (64, 16, 1, 1), {"group": 2}),
    Case((2, 10, 30), (12, 10, 5), {"pads": [4, 0], "strides": [2]}),
    Case((1, 3, 5, 6, 7), (9, 3, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 0]}),
    Case((1, 4, 3, 3), (4, 4, 3, 3)),
    Case((1, 8, 7, 7), (8, 6, 4, 4), {"strides": [2, 2], "pads": SAME["pads"]}, op="ConvTranspose"),
    Case((2, 8, 5, 5), (8, 3, 2, 2), {"strides": [2, 2], "group": 2}, op="ConvTranspose"),
    Case((1, 4, 5, 5), (4, 6, 1, 1), {"strides": [2, 2]}, op="ConvTranspose"),
]
DECIDED = [
    Case((2, 24, 6, 10), (40, 24, 3, 3), SAME, ("bias", "add", "relu")),
    Case((1, 3, 11, 9), (20, 3, 5, 5), {"pads": [3, 2, 1, 1], "strides": [2, 1]}),
    Case((3, 36, 4, 6), (70, 36, 1, 1), {}, ("bias", "add")),
    Case((2, 64, 5, 5), (48, 32, 1, 1), {"group": 2}, ("relu",)),
    Case((1, 20, 5, 5), (20, 12, 4, 4), {"strides": [2, 2]}, op="ConvTranspose"),
]


class Random(Chooser):
    """Answers at random, always for tensor cores."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def decide(self, question: Decision) -> Any:
        """Any of the options."""
        if question.name == "units":
            return "tensor cores"
        return question.options[self.random.integers(len(question.options))]


def random_decisions(network: Fused, seed: int) -> dict[int, Config]:
    """Decisions that fit, by the number of the convolution."""
    found: dict[int, Config] = {}
    for kernel in network.kernels:
        assert kernel.anchor is not None
        number = int(kernel.anchor.inputs[0].name[1:])
        for again in range(1000):
            chooser = Random(seed * 100_000 + number * 1000 + again)
            scope: Any = (kernel, {}, network.graph.constants, network.machine, chooser, True)
            try:
                made = scope_of(*scope)
                sketch_for(made)(made)
                found[number] = chooser.config
                break
            except Infeasible:
                continue
    return found


@needs_gxx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_of_all_kinds(precision):
    network = network_of_all(CASES, precision)
    program = with_decisions(network, lambda _: ON_TENSOR_CORES)
    assert all(step.notes["precision"] == precision for step in program.steps)
    check_all(network, program, CASES, precision)


def check_decisions(precision: str, seed: int) -> None:
    network = network_of_all(DECIDED, precision)
    decisions = random_decisions(network, seed)
    program = with_decisions(network, lambda number: decisions[number])
    check_all(network, program, DECIDED, precision)


@needs_gxx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_decisions_compute_the_same(precision):
    check_decisions(precision, 0)


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 12))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_decisions_compute_the_same(precision, seed):
    check_decisions(precision, seed)
