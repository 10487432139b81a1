"""Convolutions on GPUs: how stages get to shared memory, and how their input is found.

Planted bugs, each of which these tests caught: taps before an image's first row exist; so do taps
between those that are dilated; a stage reads where the one before it did; it is multiplied before it
has been copied, or while others still copy it; parts add up before all have multiplied; parts
without a share of the columns write; groups read the channels of the first; what fills a stage is
read.
"""

from __future__ import annotations

import numpy as np
import pytest
from conv_models import (
    Case,
    assert_close,
    inputs_of,
    loops_of,
    model_of,
    network_of,
    reference,
    run_both_ways,
    with_loops,
)
from emulated import needs_gxx, planned

from alt.cuda.gpu import Gpu
from alt.sketches.gpu.block_tile import AHEAD, Tile, Work, decide_ahead, most_ahead
from tuner.config import Config

pytestmark = [pytest.mark.cuda_build, needs_gxx]

SAME = {"pads": [1, 1, 1, 1]}
ODD = {"pads": [2, 0, 1, 3], "strides": [2, 1], "dilations": [1, 2]}

CASES = [
    # A stage has one tap, whole or with channels that fill it up, or none but that.
    (Case((2, 16, 7, 9), (24, 16, 3, 3), {"pads": [1, 0, 2, 1]}, ("bias", "relu")), {"depth": 8}),
    (Case((2, 20, 7, 7), (9, 20, 3, 3), SAME, ("add",)), {"depth": 16, "padded": True}),
    (Case((1, 5, 9, 8), (8, 5, 3, 2), ODD), {"depth": 8, "padded": True}),
    (Case((1, 32, 10, 9), (8, 16, 3, 3), {**ODD, "group": 2}), {"depth": 16}),
    (Case((1, 16, 4, 5, 6), (8, 16, 2, 3, 2), {"pads": [1, 0, 1, 0, 2, 0]}), {"depth": 16}),
    (Case((1, 16, 5, 6), (16, 6, 4, 3), {"strides": [2, 2]}, op="ConvTranspose"), {"depth": 8}),
    # It has several.
    (Case((2, 3, 13, 11), (8, 3, 5, 4), ODD, ("bias", "add", "relu")), {"depth": 16}),
    (Case((2, 20, 7, 7), (9, 20, 3, 3), SAME), {"depth": 16, "padded": False}),
    (Case((1, 2, 5, 6, 7), (8, 2, 3, 2, 3), {"pads": [1, 1, 0, 2, 0, 1]}), {"depth": 8}),
    (Case((1, 6, 9, 9), (6, 3, 2, 2), {"strides": [3, 4], "group": 2}), {"depth": 8}),
    (Case((1, 6, 6, 5), (6, 5, 4, 4), {"strides": [2, 2]}, op="ConvTranspose"), {"depth": 8}),
    # All have the same: the places of an image are read in vectors, or one by one.
    (Case((3, 20, 4, 6), (8, 20, 1, 1), {}, ("bias", "add")), {"depth": 16}),
    (Case((2, 20, 7, 7), (8, 20, 1, 1)), {"depth": 16}),
    (Case((2, 16, 9, 8), (8, 16, 1, 1), {"pads": [1, 0, 0, 2], "strides": [2, 3]}), {"depth": 8}),
    # More taps than a mask has bits.
    (Case((2, 3, 50), (8, 3, 40), {"pads": [7, 9]}), {"depth": 16}),
]


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize(("case", "loops"), CASES, ids=[str(case) for case, _ in CASES])
def test_numbers_however_stages_get_there(case, loops, ahead):
    model = model_of(case)
    inputs = inputs_of(model)
    network = network_of(case)
    chosen = Config({**loops, "ahead": ahead})
    space = loops_of(network)
    taken = space.project({**space.default(), **chosen})
    assert {name: taken[name] for name in chosen} == dict(chosen)
    found = run_both_ways(with_loops(network, chosen), list(inputs.values()))
    assert_close(found, reference(model, inputs), case)


@pytest.mark.parametrize(
    "tile",
    [
        {"places": 16, "channels": 16, "thread_places": 4, "thread_channels": 4, "parts": 8},
        {"places": 16, "channels": 16, "thread_places": 4, "thread_channels": 8, "parts": 16},
        {"places": 32, "channels": 8, "thread_places": 8, "thread_channels": 2, "parts": 8},
        {"places": 32, "channels": 32, "thread_places": 8, "thread_channels": 8, "parts": 4},
    ],
    ids=lambda tile: "x".join(map(str, tile.values())),
)
def test_numbers_of_parts_that_are_less_than_a_warp(tile):
    case = Case((2, 40, 7, 7), (24, 40, 3, 3), SAME, ("bias", "add", "relu"))
    model = model_of(case)
    inputs = inputs_of(model)
    network = network_of(case)
    chosen = Config({**tile, "depth": 32})
    program = with_loops(network, chosen)
    (threads,) = program.library.launches[program.steps[-1].function].shape.block[:1]
    down, across = (tile[a] // tile[f"thread_{a}"] for a in ("places", "channels"))
    assert threads == down * across * tile["parts"]
    found = run_both_ways(program, list(inputs.values()))
    assert_close(found, reference(model, inputs), case)


@pytest.mark.parametrize(
    "case",
    [
        Case((2, 32, 9, 7), (24, 32, 3, 3), SAME, ("bias", "relu")),
        Case((1, 3, 21, 19), (20, 3, 7, 7), {"pads": [3, 2, 3, 1], "strides": [2, 1]}),
        Case((2, 20, 4, 6), (8, 20, 1, 1)),
    ],
    ids=str,
)
def test_gpus_without_copies_use_registers(case):
    model = model_of(case)
    inputs = inputs_of(model)
    network = network_of(case, "sm_75")
    assert loops_of(network).default()["ahead"] == 0
    program = planned(network)
    assert "cp.async" not in program.library.source
    assert_close(run_both_ways(program, list(inputs.values())), reference(model, inputs), case)


def test_infinities_beside_a_place_are_not_multiplied():
    # Channels and steps that fill a stage, and taps outside the image: zero times infinity is seen.
    case = Case((1, 20, 6, 6), (8, 20, 3, 3), SAME)
    model = model_of(case)
    inputs = inputs_of(model)
    expected = reference(model, inputs)[:, :, :2]
    inputs["x"][:, :, 3:] = np.inf
    for padded in (False, True):
        loops = Config({"depth": 16, "padded": padded})
        found = run_both_ways(with_loops(network_of(case), loops), list(inputs.values()))
        assert_close(found[:, :, :2], expected, case)


def test_stages_are_copied_further_ahead_only_where_memory_allows():
    gpu = network_of(CASES[0][0]).machine
    assert isinstance(gpu, Gpu)
    large, small = Tile(16, 16, 4, 4, 128, 8), Tile(16, 16, 4, 4, 16, 8)
    assert (most_ahead(large, gpu), most_ahead(small, gpu)) == (2, 3)
    # Few warps wait for memory; many hide it.
    assert decide_ahead(small, Work(49, 512, 4608), gpu) == 2
    assert decide_ahead(Tile(64, 64, 8, 8, 32, 2), Work(12544, 128, 1152), gpu) == 1
