"""Winograd's algorithm on a GPU, emulated, against ONNX Runtime; and when it is chosen.

Planted, and caught here: one tile too few in a row; the padding of the other axis; a plane of the
kernel that reads the wrong plane; guards of the last tiles left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from emulated import Emulation, needs_gxx, planned
from equivalence import array, model, node
from onnx import TensorProto, helper, numpy_helper

from alt.build import build
from alt.compiler import Fused, fused
from alt.cuda.gpu import Gpu
from alt.cuda.lower import Lowered
from alt.cuda.nvcc import compile_source
from alt.gpu_formats import Label, label_in
from alt.gpu_winograd import sizes_on_gpu
from alt.kernels import Kernel, with_anchor
from alt.propagate import plan_layouts
from alt.tasks import tasks_of
from alt.verify import relative_error, run_reference
from tuner.config import Config
from tuner.task import Candidate

pytestmark = pytest.mark.cuda_build


def convolution(
    x: Sequence[int], w: Sequence[int], pads: Sequence[int], residual: bool = False
) -> onnx.ModelProto:
    """A convolution, its bias, and perhaps something that is added, then a ReLU."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(w, dtype=np.float32) / np.float32(np.sqrt(np.prod(w[1:])))
    bias = rng.standard_normal(w[0], dtype=np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["sum"], pads=pads)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    last = "sum"
    if residual:
        spatial = len(x) - 2
        size = [x[2 + d] + pads[d] + pads[spatial + d] - w[2 + d] + 1 for d in range(spatial)]
        shape = (x[0], w[0], *size)
        inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("Add", ["sum", "other"], ["more"]))
        last = "more"
    nodes.append(helper.make_node("Relu", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "convolution",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    opsets = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return onnx.shape_inference.infer_shapes(made)


def with_tile(network: Fused, m: int) -> list[Kernel]:
    """The kernels, whose convolutions are to be computed in tiles of m x m."""

    def chosen(kernel: Kernel) -> Kernel:
        if kernel.anchor is None or kernel.anchor.op != "conv":
            return kernel
        attrs = {**kernel.anchor.attrs, "layout": Config({"winograd": m})}
        return with_anchor(kernel, replace(kernel.anchor, attrs=attrs))

    return [chosen(kernel) for kernel in network.kernels]


@needs_gxx
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("x", "w", "pads", "residual"), [
    ((1, 8, 12, 12), (16, 8, 3, 3), [1, 1, 1, 1], True),
    ((2, 5, 9, 11), (7, 5, 3, 3), [1, 1, 1, 1], False),
    ((3, 24, 5, 4), (10, 24, 3, 3), [0, 2, 1, 0], True),
    ((1, 144, 3, 3), (4, 144, 3, 3), [0, 0, 0, 0], False),
    ((2, 4, 5, 6, 7), (6, 4, 3, 3, 3), [1, 1, 1, 1, 1, 1], True),
    ((1, 4, 5, 6, 7), (5, 4, 2, 3, 3), [0, 1, 1, 1, 1, 0], False),
    ((1, 4, 4, 4, 8), (8, 4, 1, 3, 3), [1, 1, 1, 0, 1, 1], True),
])  # fmt: skip
def test_the_same_as_summing_directly(x, w, pads, residual, m):
    model = convolution(x, w, pads, residual)
    network = fused(model, {"kind": "cuda", "arch": "sm_90"})
    plan = plan_layouts(network.graph, with_tile(network, m), network.machine)
    names = [k.anchor.op for k in plan.kernels if k.anchor is not None]
    assert names == ["winograd_input", "winograd_product", "winograd_output"]
    rng = np.random.default_rng(1)
    inputs = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape, _ in network.imported.inputs
    }
    emulation = Emulation(build(network.graph, plan, network.machine))
    (found,), (again,) = (
        emulation(list(inputs.values()), backwards=backwards) for backwards in (False, True)
    )
    np.testing.assert_array_equal(found, again)
    _, (wanted,) = run_reference(model, inputs)
    assert relative_error(found, wanted) < 2e-5


@needs_gxx
def test_one_after_the_other():
    """An epilogue that reads the convolution twice, and one that reads what it works on."""
    weights = [array(8, 8, 3, 3, seed=k) / 9 for k in range(3)]
    nodes = [
        node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        node("Sigmoid", "a", "s"),
        node("Mul", "a s", "b"),
        node("Conv", "b w1", "c", pads=[1, 1, 1, 1]),
        node("Add", "c b", "d"),
        node("Conv", "d w2", "e", pads=[0, 0, 0, 0]),
    ]
    inputs = {"x": array(2, 8, 10, 10, seed=5)}
    named = {f"w{k}": w for k, w in enumerate(weights)}
    proto = model(nodes, inputs, ["d", "e"], named)
    network = fused(proto, {"kind": "cuda", "arch": "sm_90"})
    plan = plan_layouts(network.graph, with_tile(network, 4), network.machine)
    assert len(plan.kernels) == 9
    found = Emulation(build(network.graph, plan, network.machine))([inputs["x"]])
    _, wanted = run_reference(proto, inputs)
    for a, b in zip(found, wanted, strict=True):
        assert relative_error(a, b) < 2e-5


LARGE = convolution((16, 128, 28, 28), (128, 128, 3, 3), [1, 1, 1, 1])


def anchors(network: Fused, **options: bool) -> list[str]:
    plan = plan_layouts(network.graph, network.kernels, network.machine, **options)
    return [k.anchor.op for k in plan.kernels if k.anchor is not None]


def test_chosen_where_there_is_much_to_multiply():
    target = {"kind": "cuda", "arch": "sm_90"}
    large = fused(LARGE, target)
    assert anchors(large) == ["winograd_input", "winograd_product", "winograd_output"]
    assert anchors(large, winograd=False) == ["conv"]
    # Tensor cores multiply faster than memory brings what is transformed.
    assert anchors(fused(LARGE, target, precision="tf32")) == ["conv"]
    small = convolution((1, 64, 14, 14), (64, 64, 3, 3), [1, 1, 1, 1])
    assert anchors(fused(small, target)) == ["conv"]


def test_not_where_it_would_take_much_memory():
    network = fused(LARGE, {"kind": "cuda", "arch": "sm_90"})
    machine, kernel = network.machine, network.kernels[0]
    assert isinstance(machine, Gpu)
    assert sizes_on_gpu(kernel, machine) == (2, 4)
    anchor = kernel.anchor
    assert anchor is not None
    x, weight = anchor.inputs[:2]

    def larger(batch: int) -> Kernel:
        image = replace(x, shape=(batch, *x.shape[1:]))
        output = replace(anchor.output, shape=(batch, *anchor.output.shape[1:]))
        return Kernel(replace(anchor, inputs=(image, weight), output=output), (), (), output)

    assert sizes_on_gpu(larger(1000), machine) == (4,)
    assert sizes_on_gpu(larger(4000), machine) == ()


def test_without_an_answer_it_is_computed_directly():
    network = fused(LARGE, {"kind": "cuda", "arch": "sm_90"})
    answers = Config({"read": "NCHW", "write": "NCHW"})
    kernels = [
        with_anchor(k, replace(k.anchor, attrs={**k.anchor.attrs, "layout": answers}))
        for k in network.kernels
        if k.anchor is not None
    ]
    plan = plan_layouts(network.graph, kernels, network.machine)
    assert [k.anchor.op for k in plan.kernels if k.anchor is not None] == ["conv"]


def test_tuning_knows_both_ways():
    network = fused(LARGE, {"kind": "cuda", "arch": "sm_90"})
    machine = network.machine
    assert isinstance(machine, Gpu)
    plan = plan_layouts(network.graph, network.kernels, machine)
    assert label_in(plan, network.kernels[0], machine.lanes()) == Label("NCHW", "NCHW", 4)
    (task,) = tasks_of(network.kernels, network.graph.constants, machine, plan).values()
    default = task.layouts.default()
    assert default["winograd"] == 4
    direct = Config({**default, "winograd": 0})
    loops = [task.loops(layout).default() for layout in (default, direct)]
    assert {"warp_rows", "slices"} <= set(loops[0])
    assert loops[0] != loops[1]
    candidates = [Candidate(default, loops[0]), Candidate(direct, loops[1])]
    features = task.features(candidates)
    assert np.isfinite(features).all()
    assert (features[0] != features[1]).any()
    assert all(task.estimate(c) > 0 for c in candidates)
    steps = [len(task.program(c).steps) for c in candidates]
    assert steps == [3, 1]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_kernels_compile_without_spills(arch):
    model = convolution((16, 256, 14, 14), (256, 256, 3, 3), [1, 1, 1, 1], residual=True)
    library = planned(fused(model, {"kind": "cuda", "arch": arch})).library
    assert isinstance(library, Lowered)
    assert len(library.launches) == 3
    for image in compile_source(library.source, arch):
        assert not any(image.spilled_bytes.values()), image.spilled_bytes
