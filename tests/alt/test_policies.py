"""Layout policies: the same numbers from other layouts, and no kernel more than fusion made.

Bugs the author planted, and what caught each:
- blocks inherited although layouts do not spread: `test_conversions_of_a_policy`;
- a border written by the producer although nothing goes upstream: `test_conversions_of_a_policy`;
- channels of a joined tensor written from a wrong vector on: `test_channels_innermost`;
- the border of the second vector of a block left as it was: `test_channels_innermost`;
- half a vector written into rows: `test_half_a_vector_is_not_written_into_rows`;
- the guard asked about the wrong tensor: `test_blocks_that_multiply_memory_are_refused`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from equivalence import WINOGRAD, array, assert_same, model, node, run_reference

import alt
from alt.canonical import canonicalize
from alt.compiler import plan_layouts, to_graph
from alt.errors import AltError
from alt.frontend import import_model
from alt.kernels import fuse
from alt.policies import BACKWARD_ONLY, JOINT, POLICIES
from alt.target import resolve
from benchmarks.networks import NETWORKS
from primitives import Layout, LayoutError

pytestmark = pytest.mark.llvm


def two_convolutions():
    """A pooled and a plain convolution joined, between two with borders."""
    nodes = [
        node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("MaxPool", "b", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", "b p", "c", axis=1),
        node("Conv", "c w1", "d", pads=[1, 0, 2, 1], strides=[2, 1]),
        node("Mul", "d s", "y"),
    ]
    weights = {
        "w0": array(48, 20, 3, 3),
        "w1": array(40, 96, 3, 3, seed=1) / 8,
        "s": array(1, 40, 1, 1, seed=2),
    }
    return nodes, {"x": array(2, 20, 9, 7)}, weights


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_computes_the_same(name):
    nodes, inputs, weights = two_convolutions()
    proto = model(nodes, inputs, ["y"], weights)
    for winograd in (False, True):
        module = alt.compile(proto, layouts=name, winograd=winograd)
        expected = run_reference(proto, inputs)
        assert_same(module(**inputs), expected, length=96 * 9 * 20 * WINOGRAD)


@pytest.mark.parametrize("channels", [3, 16, 24, 40, 100])
def test_channels_innermost(channels):
    pads = [1, 1, 1, 1]
    nodes = [
        node("Conv", "x w", "a", pads=pads),
        node("Conv", "a v", "b", pads=pads, group=channels),
        node("AveragePool", "b", "q", kernel_shape=[3, 3], pads=pads),
        node("Concat", "q a", "c", axis=1),
        node("Conv", "c u", "d", pads=[2, 2, 2, 2], dilations=[2, 2]),
        node("GlobalAveragePool", "d", "g"),
        node("Sub", "d g", "y"),
    ]
    weights = {
        "w": array(channels, 16, 3, 3) / 4,
        "v": array(channels, 1, 3, 3, seed=1),
        "u": array(17, 2 * channels, 3, 3, seed=2) / 8,
    }
    inputs = {"x": array(1, 16, 9, 8)}
    proto = model(nodes, inputs, ["y"], weights)
    module = alt.compile(proto, layouts="NHWC")
    assert_same(module(**inputs), run_reference(proto, inputs), length=60_000)


def planned(proto, **options):
    imported = import_model(proto)
    graph = canonicalize(to_graph(imported.module, imported.weights, len(imported.inputs)))
    kernels = fuse(graph)
    return kernels, plan_layouts(graph, kernels, resolve("llvm", 1), winograd=False, **options)


def is_stored_in_one_format(plan, form):
    """Whether no tensor is stored in another way than the format's."""
    for layout in plan.layouts.values():
        blocks = [s.arguments[-1] for s in layout.steps if s.name == "split"]
        channels = layout.logical_shape[1]
        allowed = {"NCHW": [], "NHWC": [-(-channels // 16) * 16], "NCHWc": [16]}[form]
        if blocks and blocks != allowed:
            return False
    return True


@pytest.mark.parametrize("name", NETWORKS)
def test_no_layout_adds_a_kernel(name):
    proto = NETWORKS[name](seed=0)
    for policy in POLICIES.values():
        kernels, plan = planned(proto, policy=policy)
        others = [k for k in plan.kernels if k not in plan.conversions]
        in_place = [k for k in kernels if k.anchor is not None and k.anchor.op == "concat"]
        assert len(kernels) - len(in_place) <= len(others) <= len(kernels)
        assert [k.name for k in others] == [k.name for k in kernels if k not in in_place]
        if policy.format and resolve("llvm", 1).lanes() == 16:
            assert is_stored_in_one_format(plan, policy.format)


def test_conversions_of_a_policy():
    """Two convolutions with borders and an elementwise kernel between, of which two are read."""
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("MaxPool", "a", "p", kernel_shape=[2, 2]),
        node("Conv", "p w", "b", pads=[1, 1, 1, 1]),
        node("Conv", "b v", "y"),
    ]
    weights = {"w": array(32, 32, 3, 3), "v": array(32, 32, 1, 1)}
    proto = model(nodes, {"x": array(1, 32, 8, 8)}, ["y"], weights)
    count = {n: len(planned(proto, policy=p)[1].conversions) for n, p in POLICIES.items()}
    # The caller's input and output are rows.
    assert count["joint"] == count["NHWC"] == count["NCHWc"] == 2
    assert count["backward-only"] == 1  # the last one writes rows
    assert count["NCHW"] == 1  # the border of the input
    assert count["forward-only"] == 3  # and the second convolution's border
    assert count["none"] == 6  # before and after each of the three


@pytest.mark.parametrize(("channels", "conversions"), [(48, 1), (40, 2), (41, 2)])
def test_half_a_vector_is_not_written_into_rows(channels, conversions):
    """It would overwrite the next image, or what lies behind the tensor."""
    proto = model(
        [node("Conv", "x w", "y")],
        {"x": array(2, 32, 8, 8)},
        ["y"],
        {"w": array(channels, 32, 1, 1)},
    )
    _, plan = planned(proto, policy=BACKWARD_ONLY)
    assert len(plan.conversions) == conversions


def test_blocks_that_multiply_memory_are_refused():
    proto = model(
        [node("Conv", "x w", "a"), node("Relu", "a", "y")],
        {"x": array(1, 32, 128, 130)},
        ["y"],
        {"w": array(1, 32, 1, 1)},
    )
    _, plan = planned(proto)
    assert len(plan.refused) == 1
    assert "1064960 bytes for 66560 bytes of data, 16.0 times as many" in plan.refused[0]
    _, plan = planned(proto, policy=replace(JOINT, max_expansion=16.0))
    assert not plan.refused
    with pytest.raises(LayoutError, match="the bound is 2 times"):
        replace(JOINT, max_expansion=2.0).check(Layout.identity((64, 64)).pad(0, 64, 256))


def test_small_tensors_may_be_padded():
    JOINT.check(Layout.identity((1, 1)).pad(0, 0, 15))


def test_unknown_policies_are_refused():
    proto = model([node("Relu", "x", "y")], {"x": np.ones(3, np.float32)}, ["y"], {})
    with pytest.raises(AltError, match="use one of joint, forward-only"):
        alt.compile(proto, layouts="sideways")
