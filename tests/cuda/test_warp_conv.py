"""Convolutions on tensor cores, emulated, against NumPy.

Planted, and caught here: places behind the last read what they would; no bounds of the image; one
of the factors not rounded to tf32; halves swapped; all pieces of a thread at its first place; no
wait for copied weights; all groups read the input of the first, or look up its steps; channels,
steps or stages that only fill up are read; phases share the swath of the first; vectors of places
where there are none.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_models import Case
from emulated import Emulation, completed, needs_gxx, planned
from matrix_products import gpu
from test_conv_bounds import ends_well
from warp_convs import (
    ON_TENSOR_CORES,
    check,
    check_all,
    network_of_all,
    numbers_of,
    results_of,
    with_decisions,
)

from alt.build import build
from alt.compiler import Fused
from alt.cuda.lower import Lowered
from alt.cuda.nvcc import compile_source
from alt.decisions import decided
from alt.propagate import plan_layouts
from alt.sketches import scope_of, sketch_for
from alt.sketches.gpu.tiling import Problem, choose_tile, cycles_of
from primitives import Layout
from primitives.reference import pack, unpack
from tuner.choices import Chooser, Config, Default, Infeasible
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
    # One phase of these reads vectors of places, the others gather, which takes another panel.
    Case((1, 20, 8, 8), (20, 9, 3, 3), {**SAME, "strides": [2, 2]}, op="ConvTranspose"),
    Case((1, 20, 8, 8), (20, 9, 3, 3), {"strides": [2, 2]}, op="ConvTranspose"),
    # More taps than a table has bits for.
    Case((1, 40, 90), (20, 20, 64), {"pads": [32, 32], "group": 2}),
]
DECIDED = [
    Case((2, 24, 6, 10), (40, 24, 3, 3), SAME, ("bias", "add", "relu")),
    Case((1, 3, 11, 9), (20, 3, 5, 5), {"pads": [3, 2, 1, 1], "strides": [2, 1]}),
    Case((3, 36, 4, 6), (70, 36, 1, 1), {}, ("bias", "add")),
    Case((2, 64, 5, 5), (48, 32, 1, 1), {"group": 2}, ("relu",)),
    Case((1, 20, 5, 5), (20, 12, 4, 4), {"strides": [2, 2]}, op="ConvTranspose"),
    Case((1, 20, 8, 8), (20, 12, 3, 3), {**SAME, "strides": [2, 2]}, op="ConvTranspose"),
    Case((1, 24, 17, 17), (20, 24, 3, 3), SAME),
]
WIDE = Config({
    **ON_TENSOR_CORES,
    "warp_rows": 16, "warp_columns": 64, "warps_down": 1, "warps_across": 4,
    "depth": 32, "stages": 2, "slices": 1, "padded": True,
})  # fmt: skip
"""Whose threads have more than one place each, as in large networks; for the last of `DECIDED`."""


class OnTensorCores(Default):
    """Answers by rule, always for tensor cores."""

    def decide(self, question: Decision) -> Any:
        """The default, mostly."""
        return "tensor cores" if question.name == "units" else super().decide(question)


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
    decisions = {**random_decisions(network, seed), len(DECIDED) - 1: WIDE}
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


@needs_gxx
@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_for_other_storage(precision):
    """Channels last and in blocks, of input and output: another axis is read and written in rows."""
    cases = [
        Case((2, 8, 6, 5), (12, 8, 3, 3), SAME, ("bias", "add", "relu")),
        Case((2, 16, 6, 6), (8, 16, 1, 1), {}, ("bias", "relu")),
        Case((1, 12, 6, 6), (16, 6, 3, 3), {"strides": [2, 2], "group": 2}, ("bias",)),
        # Its phases have 63, 42, 42 and 28 places.
        Case((7, 4, 3, 3), (4, 8, 3, 3), {**SAME, "strides": [2, 2]}, op="ConvTranspose"),
    ]
    network = network_of_all(cases, precision)
    loops = Config({**ON_TENSOR_CORES, "warp_rows": 16, "warps_down": 1})
    plan = plan_layouts(network.graph, network.kernels, network.machine)

    def stored(shape: tuple[int, ...], blocks: bool) -> Layout:
        plain = Layout.identity(shape)
        if not blocks:
            return plain.reorder((0, 2, 3, 1))
        return plain.split(1, (-1, 4)).reorder((0, 1, 3, 4, 2))

    names = [name for name, *_ in network.imported.inputs]
    for blocks in (False, True):
        values = [*network.graph.inputs, *plan.outputs]
        layouts = {value: stored(value.shape, blocks) for value in values}
        answers = [completed(network, k, loops, layouts) for k in plan.kernels]
        kernels = [decided(k, Config({}), a) for k, a in zip(plan.kernels, answers, strict=True)]
        made = replace(plan, kernels=kernels, layouts=layouts)
        program = build(network.graph, made, network.machine, alone=True)
        assert all(step.notes["precision"] == precision for step in program.steps)
        numbers = [numbers_of(k, case) for k, case in enumerate(cases)]
        arrays = [
            pack(numbers[int(name[1:])][name[0]], layouts[value])
            for name, value in zip(names, network.graph.inputs, strict=True)
        ]
        results = results_of(program, arrays)
        for k, (value, raw) in enumerate(zip(plan.outputs, results, strict=True)):
            found = unpack(raw.reshape(layouts[value].shape), layouts[value])
            check(found, cases[k], numbers[k], precision)


@needs_gxx
def test_infinities_beside_the_image_do_not_leak():
    # Steps are rounded up, and rows run into the next image: zero times infinity would be seen.
    case = Case((2, 12, 5, 5), (8, 12, 3, 3), SAME)
    for stages, padded in ((2, False), (3, True)):
        network = network_of_all([case], "tf32")
        some = {"stages": stages, "padded": padded, "depth": 16, "slices": 2}
        loops = Config({**ON_TENSOR_CORES, **some})
        program = with_decisions(network, lambda _, loops=loops: loops)
        emulation = Emulation(program)
        numbers = numbers_of(0, case)
        clean = {**numbers, "x": np.concatenate([numbers["x"][:1]] * 2)}
        given = clean["x"].copy()
        given[1] = given[0, :, 4] = np.inf  # rows 0 to 2 read rows up to 3
        (found,) = emulation([given])
        assert np.isfinite(found[0, :, :3]).all()
        (expected,) = emulation([clean["x"]])
        check(expected, case, clean, "tf32")
        np.testing.assert_array_equal(found[0, :, :3], expected[0, :, :3])
        # One that is in the image has its sign there, also where steps are only filled up.
        given = clean["x"].copy()
        given[0, 0, 2, 2] = np.inf
        (found,) = emulation([given])
        reached = np.isinf(found[0]).all(0)
        assert not np.isnan(found).any()
        assert reached[1:4, 1:4].all()
        assert reached.sum() == 9


@needs_gxx
@pytest.mark.parametrize(
    ("case", "stages"),
    [
        (Case((1, 4, 5, 5), (8, 2, 3, 3), {**SAME, "group": 2}), 2),
        (Case((1, 4, 5, 5), (8, 2, 3, 3), {**SAME, "group": 2}), 3),
        (Case((3, 4, 2, 6), (8, 4, 1, 1)), 3),
    ],
)
def test_nothing_outside_the_input_is_read(case, stages):
    loops = Config({**ON_TENSOR_CORES, "stages": stages})
    emulation = Emulation(with_decisions(network_of_all([case], "tf32"), lambda _: loops))
    array = numbers_of(0, case)["x"]
    assert ends_well(emulation, array, at_end=True)
    assert ends_well(emulation, array, at_end=False)


# --- what is chosen without measuring -----------------------------------------------------------


def loops_by_rule(case: Case, precision: str, arch: str = "sm_90") -> Config:
    """What the sketch decides."""
    network = network_of_all([case], precision, arch)
    (kernel,) = network.kernels
    chooser = Default()
    scope = scope_of(kernel, {}, network.graph.constants, network.machine, chooser, True)
    sketch_for(scope)(scope)
    return chooser.config


def test_tensor_cores_are_used_where_they_are():
    case = Case((16, 128, 28, 28), (128, 128, 3, 3), SAME)
    assert "units" not in loops_by_rule(case, "fp32")
    assert "units" not in loops_by_rule(case, "fp16", "sm_75")
    for precision in PRECISIONS:
        assert loops_by_rule(case, precision)["units"] == "tensor cores"
        library: Any = planned(network_of_all([case], precision)).library
        assert f"alt_mma_{precision}" in library.source


def test_groups_of_few_channels_stay_with_threads():
    case = Case((16, 128, 28, 28), (128, 4, 3, 3), {**SAME, "group": 32})
    for precision in PRECISIONS:
        assert loops_by_rule(case, precision)["units"] == "threads"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_of_single_places_are_like_products_of_matrices(precision):
    network = network_of_all([Case((4, 64, 14, 14), (96, 64, 1, 1))], precision)
    problem = Problem(1, 96, 4 * 196, 64, precision, precision == "tf32")
    best = choose_tile(problem, gpu(precision))
    program = with_decisions(network, lambda _: ON_TENSOR_CORES)
    notes = program.steps[-1].notes
    assert notes["tile"] == [best.rows, best.columns, best.depth]
    # Where four places are read at once, that is with one instruction.
    assert best.copies or notes["vector"] == 4


def test_elements_that_are_gathered_cost_something():
    machine = gpu("fp16")
    plain = Problem(1, 128, 12544, 1152, "fp16")
    tile = choose_tile(plain, machine)
    costs = [
        cycles_of(tile, replace(plain, gathering=(0.0, each)), machine) for each in (0.0, 4.0, 12.0)
    ]
    assert costs[0] < costs[1] < costs[2]
    # Then it pays to use them for more channels.
    dear = choose_tile(replace(plain, gathering=(0.0, 12.0)), machine)
    assert dear.rows >= tile.rows


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_is_asked_without_making_statements(precision):
    network = network_of_all(CASES, precision)
    for kernel in network.kernels:
        asked, answered = OnTensorCores(), OnTensorCores()
        for chooser, asking in ((asked, True), (answered, False)):
            scope: Any = (kernel, {}, network.graph.constants, network.machine, chooser, asking)
            made = scope_of(*scope)
            sketch_for(made)(made)
        assert asked.decisions == answered.decisions
        assert set(asked.decisions) >= {"units", "warp_rows", "swath", "pad"}


# --- nvcc ---------------------------------------------------------------------------------------


def layers_of_resnet(batch: int) -> list[Case]:
    """The distinct convolutions of ResNet-18."""
    stem = {"pads": [3] * 4, "strides": [2, 2]}
    layers = [Case((batch, 3, 224, 224), (64, 3, 7, 7), stem, ("bias", "relu"))]
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        x, w = (batch, channels, size, size), (channels, channels, 3, 3)
        layers.append(Case(x, w, SAME, ("bias", "add", "relu")))
        if channels > 64:
            x = (batch, channels // 2, 2 * size, 2 * size)
            strides = {"strides": [2, 2]}
            layers.append(Case(x, (channels, channels // 2, 3, 3), {**SAME, **strides}))
            layers.append(Case(x, (channels, channels // 2, 1, 1), strides))
    return layers


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_layers_of_resnet_compile_without_spills(arch, precision, batch):
    program = planned(network_of_all(layers_of_resnet(batch), precision, arch))
    assert isinstance(program.library, Lowered)
    for image in compile_source(program.library.source, arch, 1):
        assert not any(image.spilled_bytes.values()), image.spilled_bytes
        for name, registers in image.registers.items():
            threads = np.prod(program.library.launches[name].shape.block)
            assert registers * threads <= gpu(precision, arch).core_registers
