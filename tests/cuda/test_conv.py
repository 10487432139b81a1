"""Convolutions on GPUs: numbers of the emulation, random loops, other storage, registers by nvcc.

Planted bugs, each of which these tests caught: no bound of the image below or to the right; none for
channels or for steps that are rounded up; all groups use the weights of the first; no barrier
between stages; the sum of one part is left out; vectors of places straddle two images; the channels
of a thread lie side by side; channels behind the last are written; the rule takes the tile with
fewest threads; an answer of the tuner is passed over; depthwise: rows behind the last are written,
the multiplier is ignored, taps of the outer axes share their weights.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

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

from alt.build import build
from alt.cuda.gpu import Gpu
from alt.cuda.nvcc import compile_source
from alt.decisions import decided
from alt.propagate import plan_layouts
from alt.sketches.gpu.block_tile import SIZES, Work, estimate_cycles, tiles_for
from alt.storage import channels_blocked
from primitives.reference import pack, unpack
from tuner.config import Config

pytestmark = [pytest.mark.cuda_build, needs_gxx]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

SAME = {"pads": [1, 1, 1, 1]}
CASES = [
    Case((1, 3, 9, 11), (8, 3, 3, 3), SAME, ("bias", "relu")),
    Case((2, 1, 12, 12), (5, 1, 5, 5)),
    Case((1, 144, 5, 5), (24, 144, 1, 1)),
    Case((3, 24, 4, 8), (40, 24, 1, 1), {}, ("bias", "add", "relu")),
    Case((2, 24, 7, 7), (17, 24, 1, 1), {}, ("add",)),
    Case((2, 24, 7, 7), (16, 24, 3, 3), {**SAME, "strides": [2, 2]}, ("bias", "add")),
    Case((1, 16, 4, 4), (1000, 16, 1, 1)),
    Case((1, 1000, 2, 2), (6, 1000, 1, 1)),
    Case((1, 8, 10, 10), (8, 8, 3, 3), {"pads": [2, 0, 1, 3], "dilations": [2, 1]}),
    Case((2, 6, 13, 12), (7, 6, 2, 2), {"strides": [3, 4]}),
    Case((1, 12, 8, 8), (18, 4, 3, 3), {**SAME, "group": 3}, ("bias", "relu")),
    Case((2, 32, 6, 6), (64, 16, 1, 1), {"group": 2}),
    Case((2, 10, 30), (12, 10, 5), {"pads": [4, 0], "strides": [2]}),
    Case((1, 3, 5, 6, 7), (9, 3, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 0]}),
    Case((1, 4, 3, 3), (4, 4, 3, 3)),
    Case((1, 8, 7, 7), (8, 6, 4, 4), {"strides": [2, 2], "pads": SAME["pads"]}, op="ConvTranspose"),
    Case((2, 8, 5, 5), (8, 3, 2, 2), {"strides": [2, 2], "group": 2}, op="ConvTranspose"),
    Case((2, 24, 9, 9), (24, 1, 3, 3), {**SAME, "group": 24}, ("bias", "add", "relu")),
    Case((1, 3, 12, 16), (6, 1, 5, 5), {"group": 3, "strides": [2, 3]}),
    Case((1, 4, 10, 9), (4, 1, 3, 2), {"pads": [2, 0, 1, 1], "dilations": [2, 3], "group": 4}),
    Case((2, 5, 40), (10, 1, 7), {"pads": [6, 0], "group": 5}),
    Case((1, 3, 4, 6, 6), (3, 1, 3, 3, 3), {"pads": [1, 1, 0, 1, 0, 1], "group": 3}),
    Case((1, 2, 12, 14), (2, 1, 9, 9), {"pads": [4, 4, 4, 4], "group": 2}),
    # Some outputs of these nothing reaches; the last has more phases than get tiles.
    Case((1, 4, 5, 5), (4, 6, 1, 1), {"strides": [2, 2]}, op="ConvTranspose"),
    Case((1, 4, 4, 4), (4, 6, 3, 3), {"strides": [3, 3]}, op="ConvTranspose"),
]

SAMPLED = [
    Case((2, 24, 10, 14), (40, 24, 3, 3), SAME, ("bias", "add", "relu")),
    Case((1, 3, 21, 19), (20, 3, 7, 7), {"pads": [3, 2, 3, 1], "strides": [2, 1]}),
    Case((3, 36, 6, 10), (70, 36, 1, 1), {}, ("bias", "add")),
    Case((2, 64, 9, 9), (48, 32, 1, 1), {"group": 2}, ("relu",)),
    Case((2, 9, 11, 12), (18, 1, 3, 3), {**SAME, "group": 9}, ("bias", "add", "relu")),
    Case((1, 20, 9, 9), (20, 12, 4, 4), {"strides": [2, 2]}, op="ConvTranspose"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_by_rule(case):
    model = model_of(case)
    inputs = inputs_of(model)
    found = run_both_ways(planned(network_of(case)), list(inputs.values()))
    assert_close(found, reference(model, inputs), case)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", SAMPLED, ids=str)
def test_numbers_for_random_loops(case, seed):
    model = model_of(case)
    inputs = inputs_of(model)
    network = network_of(case)
    space = loops_of(network)
    loops = space.sample(np.random.default_rng(seed))
    assert space.contains(loops)
    program = with_loops(network, loops)
    names = SIZES if "depth" in loops else ("rows", "columns")
    assert program.steps[-1].notes["tile"] == [loops[name] for name in names]
    found = run_both_ways(program, list(inputs.values()))
    assert_close(found, reference(model, inputs), case)


@pytest.mark.parametrize(
    "loops",
    [
        Config({"places": 128, "channels": 64, "thread_places": 8, "thread_channels": 8}),
        Config({"places": 32, "channels": 64, "thread_places": 8, "depth": 32, "parts": 4}),
        Config({"places": 16, "channels": 16, "depth": 128, "padded": False, "order": "places"}),
    ],
    ids=["large", "parts", "deep"],
)
def test_numbers_for_loops_of_large_networks(loops):
    case = Case((2, 40, 12, 12), (72, 40, 3, 3), SAME, ("bias", "add", "relu"))
    model = model_of(case)
    inputs = inputs_of(model)
    program = with_loops(network_of(case), loops)
    tile = dict(zip(SIZES, program.steps[-1].notes["tile"], strict=True))
    assert all(tile[name] == loops[name] for name in SIZES if name in loops)
    found = run_both_ways(program, list(inputs.values()))
    assert_close(found, reference(model, inputs), case)


@pytest.mark.parametrize(
    "seed", [None, *(pytest.param(s, marks=pytest.mark.slow) for s in (0, 1, 2))]
)
@pytest.mark.parametrize("block", [8, 4], ids=["channels last", "channels in blocks"])
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 8, 7, 9), (24, 8, 3, 3), {"pads": [1, 0, 2, 1]}, ("bias", "add", "relu")),
        Case((2, 16, 5, 7), (32, 8, 1, 1), {"group": 2, "strides": [2, 1]}, ("bias", "add")),
        Case((1, 8, 5, 5), (8, 12, 3, 3), {"strides": [2, 2], "group": 2}, op="ConvTranspose"),
        Case((2, 8, 7, 9), (8, 1, 3, 3), {**SAME, "group": 8}, ("bias", "add", "relu")),
    ],
    ids=str,
)
def test_numbers_for_other_storage(case, block, seed):
    """Vectors of channels; with seeds, also tiles and shares of threads that no rule takes."""
    model = model_of(case)
    inputs = inputs_of(model)
    network = network_of(case)
    plan = plan_layouts(network.graph, network.kernels, network.machine)
    values = [*network.graph.inputs, *plan.outputs]
    blocks = {v: v.shape[1] if block == 8 else block for v in values}
    layouts = {v: channels_blocked(v.shape, blocks[v], ()) for v in values}
    kernels = plan.kernels
    if seed is not None:
        loops = loops_of(network, layouts).sample(np.random.default_rng(seed))
        kernels = [decided(k, Config({}), loops) for k in kernels]
    plan = replace(plan, kernels=kernels, layouts=layouts)
    program = build(network.graph, plan, network.machine, alone=True)
    assert program.steps[0].notes["vector"] > 1
    arrays = [pack(inputs[v.name], layouts[v]) for v in network.graph.inputs]
    raw = run_both_ways(program, arrays)
    (output,) = plan.outputs
    found = unpack(raw.reshape(layouts[output].shape), layouts[output])
    assert_close(found, reference(model, inputs), case)


def test_infinities_beside_the_image_do_not_leak():
    # Steps are rounded up, and rows run into the next image: zero times infinity would be seen.
    case = Case((2, 12, 5, 5), (8, 12, 3, 3), SAME)
    model = model_of(case)
    inputs = inputs_of(model)
    clean = np.concatenate([inputs["x"][:1]] * 2)
    expected = reference(model, {"x": clean})[0, :, :3]
    inputs["x"][1] = inputs["x"][0, :, 4] = np.inf  # rows 0 to 2 read rows up to 3
    for padded in (False, True):
        program = with_loops(network_of(case), Config({"depth": 8, "padded": padded}))
        found = run_both_ways(program, list(inputs.values()))
        assert np.isfinite(found[0, :, :3]).all()
        assert_close(found[0, :, :3], expected, case)


def test_every_answer_leads_to_a_tile():
    network = network_of(SAMPLED[0])
    space = loops_of(network)
    default = space.default()
    assert set(SIZES) <= set(default)
    for name, decision in ((d.name, d) for d in space.decisions(default)):
        for option in decision.options:
            assert space.project({**default, name: option})[name] == option


def test_the_rule_takes_the_best_estimate():
    network = network_of(SAMPLED[0])
    machine = network.machine
    assert isinstance(machine, Gpu)
    work = Work(places=2 * 10 * 14, channels=40, steps=24 * 9)
    default = loops_of(network).default()
    chosen = [default[name] for name in SIZES]
    costs: dict[tuple[object, ...], float] = {
        tuple(t.numbers): estimate_cycles(t, work, machine) for t in tiles_for(work, machine)
    }
    assert costs[tuple(chosen)] == min(costs.values())


LAYERS = [
    Case((1, 64, 56, 56), (64, 64, 3, 3), SAME, ("bias", "add", "relu")),
    Case((16, 128, 28, 28), (128, 128, 3, 3), SAME, ("bias", "relu")),
    Case((1, 512, 7, 7), (512, 512, 3, 3), SAME, ("bias", "relu")),
    Case((1, 3, 224, 224), (64, 3, 7, 7), {"pads": [3] * 4, "strides": [2, 2]}, ("bias", "relu")),
    Case((16, 256, 56, 56), (64, 256, 1, 1), {}, ("bias", "relu")),
    Case((1, 32, 112, 112), (32, 1, 3, 3), {**SAME, "group": 32}, ("bias", "relu")),
    Case((16, 144, 56, 56), (144, 1, 3, 3), {**SAME, "group": 144, "strides": [2, 2]}),
    Case((1, 96, 56, 56), (96, 1, 7, 7), {"pads": [3] * 4, "group": 96}),
    Case((1, 64, 32, 32), (64, 32, 4, 4), {**SAME, "strides": [2, 2]}, op="ConvTranspose"),
]


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers_of_networks_stay_in_registers(case, arch):
    program = planned(network_of(case, arch))
    for image in compile_source(program.library.source, arch, 1):
        assert not any(image.spilled_bytes.values())
        for name, registers in image.registers.items():
            threads = program.library.launches[name].shape.block[0]
            assert registers * threads <= 64 << 10
