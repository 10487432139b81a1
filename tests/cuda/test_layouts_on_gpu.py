"""Networks on a GPU in every format: numbers by the emulation, what is converted, what is chosen.

Planted bugs, each of which a test here or of other storage in `test_conv` caught: no bound of the
image below; pairs of threads forget that they share a place; tiles write behind the last place;
the caller gets what was not converted; weights of a depthwise convolution by channel, not by tap.
"""

from __future__ import annotations

import shutil
from functools import cache
from itertools import permutations

import numpy as np
import onnx
import pytest
from emulated import SM_90, Emulation, needs_gxx, planned
from equivalence import array, assert_same, model, node, run_reference

import alt.gpu_plan
import alt.sketches.gpu.warp_conv
from alt.build import build
from alt.compiler import fused
from alt.cuda.gpu import Gpu
from alt.cuda.nvcc import compile_source
from alt.decisions import decided
from alt.gpu_costs import conversion_seconds, kernel_seconds
from alt.gpu_formats import Label, decide_label, layouts_of
from alt.graph import Graph, Value
from alt.plan import Plan, copy_kernel
from alt.policies import JOINT, policy_of
from alt.propagate import plan_layouts
from alt.storage import block_of, channels_blocked
from alt.target import resolve
from benchmarks.networks import inputs_for, mobilenet_v2, resnet18
from primitives.reference import pack, unpack
from tuner.choices import Given
from tuner.config import Config
from tuner.space import Space

pytestmark = [pytest.mark.cuda_build, needs_gxx]

PLACES = (17, 15)


@cache
def network() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Every kind of kernel around convolutions; channels 3, 24, 27, 144, 6 and 1; odd sizes."""
    x = {"x": array(2, 3, *PLACES), "r": array(2, 24, 9, 8, seed=1)}
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 0, 2, 2], strides=[2, 2]),
        node("Relu", "c1", "a"),
        node("Conv", "a w2 b2", "c2", pads=[1] * 4, group=24),
        node("Clip", "c2 low high", "d"),
        node("Conv", "d w3", "c3"),
        node("Sigmoid", "c3", "e"),
        node("MaxPool", "e", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", "e w4 b4", "c4"),
        node("Add", "c4 a", "s1"),
        node("Add", "s1 r", "s2"),
        node("Relu", "s2", "f"),
        node("ReduceMean", "f spatial", "g", keepdims=1),
        node("Conv", "g w5", "c5"),
        node("Sigmoid", "c5", "h"),
        node("Mul", "f h", "m"),
        node("Conv", "f w6", "c6", pads=[0, 1, 1, 0]),
        node("Concat", "c6 m", "j", axis=1),
        node("AveragePool", "j", "v", kernel_shape=[2, 3], pads=[1, 0, 0, 1]),
        node("Conv", "v w7", "c7", pads=[1] * 4, dilations=[1, 2]),
        node("ConvTranspose", "c7 w8", "t", strides=[2, 2], group=2),
        node("Conv", "p w9", "c9", pads=[1] * 4, strides=[2, 1], group=3),
        node("ReduceMax", "t channel", "u", keepdims=1),
        node("Softmax", "c7", "y1", axis=1),
        node("Tanh", "u", "y2"),
        node("GlobalAveragePool", "c9", "q"),
        node("Flatten", "q", "l"),
        node("Gemm", "l wl bl", "y3"),
        node("Exp", "c9", "y4"),
    ]
    weights = {
        "w1": array(24, 3, 3, 3), "b1": array(24), "w2": array(24, 1, 3, 3), "b2": array(24),
        "low": np.float32(0), "high": np.float32(6), "w3": array(144, 24, 1, 1) / 5,
        "w4": array(24, 144, 1, 1) / 12, "b4": array(24, seed=2), "spatial": np.array([2, 3]),
        "w5": array(24, 24, 1, 1), "w6": array(3, 24, 2, 2) / 10, "w7": array(6, 27, 3, 3) / 16,
        "w8": array(6, 2, 3, 3), "w9": array(24, 48, 3, 3) / 20, "channel": np.array([1]),
        "wl": array(24, 10), "bl": array(10),
    }  # fmt: skip
    return model(nodes, x, ["y1", "y2", "y3", "y4"], weights), x


@pytest.mark.parametrize("layouts", ["NCHW", "NHWC", "NCHWc"])
def test_a_network_in_one_format(layouts):
    proto, inputs = network()
    compiled = fused(proto, SM_90)
    program = planned(compiled, layouts)
    arrays = [inputs[name] for name, *_ in compiled.imported.inputs]
    emulation = Emulation(program)
    found, again = emulation(arrays), emulation(arrays, backwards=True)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same(tuple(found), run_reference(proto, inputs), length=1000)
    block = {"NCHW": lambda c: 1, "NHWC": lambda c: c, "NCHWc": lambda c: 1 if c % 4 else 4}
    for step in program.steps:
        anchor = step.kernel.anchor
        if anchor is not None and anchor.op.startswith("conv"):
            for value in (anchor.inputs[0], step.kernel.output):
                if value not in compiled.graph.inputs and value.shape[2:] != (1, 1):
                    layout = program.plan.layouts.get(value)
                    stored = 1 if layout is None else block_of(layout)
                    assert stored == block[layouts](value.shape[1]), value
    assert not any(program.plan.layouts.get(v) for v in program.plan.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("layouts", "precision"), [("NHWC", "fp16"), ("NCHWc", "tf32")])
def test_a_network_in_one_format_on_tensor_cores(monkeypatch, layouts, precision):
    """Convolutions so small would by rule not be computed there."""
    monkeypatch.setattr(alt.sketches.gpu.warp_conv, "_gains", lambda *_: True)
    proto, inputs = network()
    compiled = fused(proto, SM_90, precision=precision)
    program = planned(compiled, layouts)
    assert any(step.notes.get("precision") == precision for step in program.steps)
    found = Emulation(program)([inputs[name] for name, *_ in compiled.imported.inputs])
    for a, b in zip(found, run_reference(proto, inputs), strict=True):
        assert np.abs(a - b).max() < 1e-2 * np.abs(b).max()


def test_conversions_between_all_formats():
    """Through tiles, by threads with a place each, and in the order of what is written."""
    shapes = (2, 24, 9, 8), (3, 40, 5, 7), (1, 72, 33, 35), (2, 8, 50), (1, 12, 3, 4, 5), (2, 6, 3)
    kernels, layouts, sources, targets = [], {}, [], []
    for number, shape in enumerate(shapes):
        blocks = (1, shape[1], *(b for b in (4, 8) if shape[1] % b == 0))
        for k, (read, write) in enumerate(permutations(blocks, 2)):
            source = Value(f"s{number}_{k}", shape, "float32")
            target = Value(f"t{number}_{k}", shape, "float32")
            layouts[source] = channels_blocked(shape, read, ())
            layouts[target] = channels_blocked(shape, write, ())
            kernels.append(copy_kernel(source, target))
            sources.append(source)
            targets.append(target)
    graph = Graph(sources, targets, [], {})
    program = build(graph, Plan(kernels, layouts, targets), resolve(SM_90), alone=True)
    assert any(step.notes["threads"] == [32, 8] for step in program.steps)
    values = [array(*v.shape, seed=k) for k, v in enumerate(sources)]
    emulation = Emulation(program)
    given = [pack(values[k], layouts[v]) for k, v in enumerate(sources)]
    for found in emulation(given), emulation(given, backwards=True):
        for value, target, cells in zip(values, targets, found, strict=True):
            stored = cells.reshape(layouts[target].shape)
            np.testing.assert_array_equal(unpack(stored, layouts[target]), value)


def chain() -> onnx.ModelProto:
    """Two convolutions with an activation and a pooling between, from and to the caller."""
    nodes = [
        node("Conv", "x w1", "a", pads=[1] * 4),
        node("Sigmoid", "a", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "c w2", "d"),
        node("Add", "d s", "y"),
    ]
    x = {"x": np.zeros((16, 32, 56, 56), np.float32), "s": np.zeros((16, 64, 27, 27), np.float32)}
    return model(nodes, x, ["y"], {"w1": array(64, 32, 3, 3), "w2": array(64, 64, 2, 2)})


def planned_by(proto: onnx.ModelProto, layouts: str) -> Plan:
    compiled = fused(proto, SM_90)
    machine, policy = compiled.machine, policy_of(layouts)
    return plan_layouts(compiled.graph, compiled.kernels, machine, policy=policy)


@pytest.mark.parametrize("gain", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("best", ["NHWC", "NCHWc"])
def test_rows_stay_until_the_gain_pays_for_conversions(monkeypatch, best, gain):
    """Three conversions: of what the caller gives, of what is added, of what the caller gets."""

    def seconds(kernel, label, gpu):
        anchor = kernel.anchor
        conv = anchor is not None and anchor.op == "conv"
        slow = conv and (label.read, label.write) != (best, best)
        return 1e-4 + slow * gain * conversion_seconds(kernel.inputs[0], gpu)

    monkeypatch.setattr(alt.gpu_plan, "kernel_seconds", seconds)
    plan = planned_by(chain(), "joint")
    if gain < 3:
        assert not plan.layouts and not plan.conversions
        return
    blocks = {k.name: block_of(plan.layouts[k.output]) for k in plan.kernels[:-1]}
    assert set(blocks.values()) <= {4 if best == "NCHWc" else c for c in (32, 64)}
    assert len(plan.conversions) == 3
    assert all(output not in plan.layouts for output in plan.outputs)


def test_what_was_decided_is_kept_and_the_rest_follows():
    compiled = fused(chain(), SM_90)
    machine, constants = compiled.machine, compiled.graph.constants
    assert isinstance(machine, Gpu)
    answers = Config({"read": "NHWC", "write": "NCHWc"}), Config({"write": "NHWC"})
    convs = [k for k in compiled.kernels if k.anchor is not None and k.anchor.op == "conv"]
    chosen = {k: decided(k, a, Config({})) for k, a in zip(convs, answers, strict=True)}
    kernels = [chosen.get(k, k) for k in compiled.kernels]
    plan = plan_layouts(compiled.graph, kernels, machine)
    planned_convs = [k for k in plan.kernels if k.anchor is not None and k.anchor.op == "conv"]
    blocks = {}
    for given, kernel in zip(convs, planned_convs, strict=True):
        assert kernel.anchor is not None
        ends = kernel.anchor.inputs[0], kernel.output
        layouts = [plan.layouts.get(v) for v in ends]
        blocks[given] = [1 if layout is None else block_of(layout) for layout in layouts]
    # An answer that is missing is rows: so were kernels measured that nobody asked about layouts.
    assert list(blocks.values()) == [[32, 4], [1, 64]]
    # The pooling keeps the blocks; one conversion before it or behind it, and three at the ends.
    assert len(plan.conversions) == 4
    space = Space(lambda choose: decide_label(choose, convs[0], machine, JOINT))
    assert space.default() == Config({"read": "NCHW", "write": "NCHW", "winograd": 0})
    label = decide_label(Given(answers[0]), convs[0], machine, JOINT)
    assert label is not None
    stored = layouts_of(convs[0], constants, label, machine.lanes())
    assert sorted(map(block_of, stored.values())) == [4, 32]


def test_estimates_know_vectors_of_channels():
    """Places that fill no vectors, on which a pointwise convolution by rows gathers numbers.

    By threads that takes no longer: nvcc makes 1142 instructions of a stage by rows, where each
    number is copied, and 1149 by vectors of channels, which are turned in registers.
    """
    x = {"x": np.zeros((64, 512, 7, 7), np.float32)}
    proto = model([node("Conv", "x w", "y")], x, ["y"], {"w": array(512, 512, 1, 1)})
    compiled = fused(proto, SM_90)
    (kernel,) = compiled.kernels
    assert isinstance(compiled.machine, Gpu)
    rows, last = (
        kernel_seconds(kernel, Label(fmt, fmt), compiled.machine) for fmt in ("NCHW", "NHWC")
    )
    assert rows <= last
    tf32 = resolve(SM_90, precision="tf32")
    assert isinstance(tf32, Gpu)
    on_tensor_cores = [
        kernel_seconds(kernel, Label(fmt, fmt), tf32) for fmt in ("NCHW", "NHWC", "NCHWc")
    ]
    assert max(on_tensor_cores) == on_tensor_cores[0] < last
    # One kernel between two tensors of the caller's: turning them costs more.
    assert not planned_by(proto, "joint").conversions
    assert len(planned_by(proto, "NHWC").conversions) == 2


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ["NHWC", "NCHWc"])
@pytest.mark.parametrize("build", [resnet18, mobilenet_v2], ids=["resnet18", "mobilenet_v2"])
def test_small_networks_of_one_format_compute_what_onnx_runtime_does(build, layouts):
    proto = build(size=32)
    inputs = inputs_for(proto)
    compiled = fused(proto, SM_90)
    program = planned(compiled, layouts)
    assert not program.plan.conversions
    found = Emulation(program)([inputs[n] for n, *_ in compiled.imported.inputs])
    for a, b in zip(found, run_reference(proto, inputs), strict=True):
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("build", [resnet18, mobilenet_v2], ids=["resnet18", "mobilenet_v2"])
def test_nvcc_compiles_networks_of_channels_last(build, arch):
    program = planned(fused(build(), {"kind": "cuda", "arch": arch}), "NHWC")
    for image in compile_source(program.library.source, arch):
        assert not any(image.spilled_bytes.values())
        for name, registers in image.registers.items():
            assert registers * np.prod(program.library.launches[name].shape.block) <= 1 << 16
