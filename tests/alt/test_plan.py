"""What the compiler decides: which kernels there are, where tensors lie, what is converted."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import WINOGRAD, array, assert_same, model, node, run_reference

import alt
from benchmarks.networks import NETWORKS, inputs_for

pytestmark = pytest.mark.llvm


def compiled(nodes, inputs, constants, outputs=("y",), length=1):
    """A compiled model, after its results were compared."""
    proto = model(nodes, inputs, outputs, constants)
    module = alt.compile(proto)
    assert_same(module(**inputs), run_reference(proto, inputs), length)
    return module


def anchors(module):
    return [k.anchor for k in module.explain(repeats=1).kernels]


def pointwise(*names: str, channels: int = 32):
    """1x1 convolutions `a>b` with their weights."""
    nodes, weights = [], {}
    for number, name in enumerate(names):
        source, target = name.split(">")
        nodes.append(node("Conv", f"{source} w{number}", target))
        weights[f"w{number}"] = array(channels, channels, 1, 1, seed=number)
    return nodes, weights


def test_operands_of_a_concatenation_are_written_side_by_side():
    nodes, weights = pointwise("x>a", "x>b")
    nodes += [node("Concat", "a b", "c", axis=1), node("Conv", "c v", "y", pads=[2, 1, 0, 3])]
    weights["v"] = array(16, 64, 3, 3)
    module = compiled(nodes, {"x": array(1, 32, 9, 9)}, weights, length=64 * 9 * 32 * WINOGRAD)
    assert "concat" not in anchors(module)


def test_nested_concatenations_share_one_buffer():
    nodes, weights = pointwise("x>a", "x>b", "a>d")
    nodes += [
        node("Concat", "a b", "c", axis=1),
        node("Concat", "c d", "e", axis=1),
        node("MaxPool", "e", "y", kernel_shape=[2, 2]),
    ]
    module = compiled(nodes, {"x": array(1, 32, 8, 8)}, weights, length=32 * 32)
    assert "concat" not in anchors(module)


@pytest.mark.parametrize(
    ("joined", "outputs"), [("a a", "y"), ("x a", "y"), ("a b", "y a"), ("a b", "c y")]
)
def test_concatenations_that_need_a_copy(joined, outputs):
    """An operand twice, one of the caller's, and one (or the whole) that the caller gets."""
    nodes, weights = pointwise("x>a", "x>b")
    nodes += [node("Concat", joined, "c", axis=1), node("MaxPool", "c", "y", kernel_shape=[2, 2])]
    x = {"x": array(1, 32, 8, 8)}
    module = compiled(nodes, x, weights, outputs.split(), length=32)
    assert "concat" in anchors(module)


@pytest.mark.parametrize(("batch", "channels"), [(2, 32), (1, 24), (1, 40)])
def test_concatenations_of_batches_and_of_odd_channels(batch, channels):
    nodes, weights = pointwise("x>a", "x>b", channels=channels)
    nodes += [node("Concat", "a b", "c", axis=1), node("Relu", "c", "y")]
    compiled(nodes, {"x": array(batch, channels, 7, 5)}, weights, length=channels)


@pytest.mark.parametrize("heads", [1, 5])
@pytest.mark.parametrize(("queries", "keys", "depth", "width"), [(33, 17, 8, 24), (7, 64, 16, 3)])
def test_attention_is_one_kernel(heads, queries, keys, depth, width):
    inputs = {
        "q": array(2, heads, queries, depth),
        "k": array(2, heads, keys, depth, seed=1),
        "v": array(2, heads, keys, width, seed=2),
        "m": array(2, 1, 1, keys, seed=3),
    }
    nodes = [
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q kt", "s"),
        node("Mul", "s c", "scaled"),
        node("Add", "scaled m", "masked"),
        node("Softmax", "masked", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    module = compiled(nodes, inputs, {"c": np.float32(0.25)}, length=depth * 4)
    assert anchors(module) == ["attention"]


def test_attention_whose_weights_are_wanted_stays_in_parts():
    inputs = {"q": array(2, 6, 8), "k": array(2, 8, 9), "v": array(2, 9, 5)}
    nodes = [
        node("MatMul", "q k", "s"),
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    module = compiled(nodes, inputs, {}, ["y", "p"], length=32)
    assert anchors(module) == ["matmul", "softmax", "matmul"]


@pytest.mark.parametrize(
    ("x", "w", "pads"),
    [
        ((1, 64, 20, 23), (48, 64, 3, 3), [1, 1, 1, 1]),
        ((2, 17, 30, 31), (33, 17, 3, 3), [0, 0, 0, 0]),
        ((1, 24, 21, 13), (40, 24, 3, 3), [1, 0, 1, 2]),
        ((1, 32, 5, 16, 16), (32, 32, 3, 3, 3), [1] * 6),
        ((1, 32, 6, 16, 17), (48, 32, 2, 3, 3), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_winograd(x, w, pads):
    weights = {"w": array(*w), "r": array(1)}
    nodes = [node("Conv", "x w", "t", pads=pads), node("PRelu", "t r", "y")]
    length = int(np.prod(w[1:])) * WINOGRAD
    module = compiled(nodes, {"x": array(*x)}, weights, length=length)
    assert "winograd_input" in anchors(module)


def test_winograd_can_be_left_out():
    inputs = {"x": array(1, 32, 20, 20)}
    proto = model([node("Conv", "x w", "y")], inputs, ["y"], {"w": array(32, 32, 3, 3)})
    module = alt.compile(proto, winograd=False)
    assert "conv2d" in anchors(module)
    assert_same(module(**inputs), run_reference(proto, inputs), length=32 * 9)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_network_converts_its_input_only(name):
    proto = NETWORKS[name](size=64)
    module = alt.compile(proto)
    inputs = inputs_for(proto, 0)
    (expected,) = run_reference(proto, inputs)
    found = module(**inputs)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert len(module.explain(repeats=1).conversions) == 1
