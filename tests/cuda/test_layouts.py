"""Networks on a GPU in every format: numbers by the emulation, what is converted, what is chosen."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from emulated import SM_90, Emulation, needs_gxx, planned
from equivalence import array, assert_same, model, node, run_reference

from alt.compiler import fused
from alt.storage import block_of

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
