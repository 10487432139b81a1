"""Rewrites of the graph: what they recognise, what they must leave alone, equal results."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, check, model, node

from alt.canonical import canonicalize
from alt.frontend import import_model
from alt.relax_graph import to_graph

pytestmark = pytest.mark.llvm


def names(nodes, inputs, constants, outputs=("y",), opset=17):
    """The operators that are left, after checking that the numbers are right."""
    check(nodes, inputs, constants, outputs, length=300, opset=opset)
    imported = import_model(model(nodes, inputs, outputs, constants, opset))
    graph = to_graph(imported.module, imported.weights, len(imported.inputs))
    return sorted(n.name for n in canonicalize(graph).nodes)


X = {"x": array(2, 8, 5, 6)}
W = {"w": array(20, 8, 3, 3)}
BN = {
    "g": array(20, seed=1),
    "b": array(20, seed=2),
    "m": array(20, seed=3),
    "v": array(20, low=0.5),
}
CONV = node("Conv", "x w", "c", pads=[1, 1, 1, 1])


def test_batch_norm_goes_into_the_weights():
    nodes = [CONV, node("BatchNormalization", "c g b m v", "n"), node("Relu", "n", "y")]
    assert names(nodes, X, {**W, **BN}) == ["add", "conv2d", "relu"]


def test_batch_norm_behind_a_bias_and_another_batch_norm():
    nodes = [
        node("Conv", "x w b", "c"),
        node("BatchNormalization", "c g b m v", "n"),
        node("BatchNormalization", "n g b m v", "y"),
    ]
    assert names(nodes, X, {**W, **BN}) == ["add", "conv2d"]


@pytest.mark.parametrize("group", [2, 8])
def test_batch_norm_of_grouped_and_transposed_convolutions(group):
    weights = {**BN, "w": array(20 if group == 2 else 24, 8 // group, 3, 3)}
    channels = weights["w"].shape[0]
    weights |= {k: np.resize(v, channels) for k, v in BN.items()}
    nodes = [node("Conv", "x w", "c", group=group), node("BatchNormalization", "c g b m v", "y")]
    assert names(nodes, X, weights) == ["add", "conv2d"]
    turned = [node("ConvTranspose", "x u", "c"), node("BatchNormalization", "c g b m v", "y")]
    check(turned, X, {**BN, "u": array(8, 20, 3, 3)}, length=72)


def test_scales_and_offsets_in_a_chain():
    nodes = [
        CONV, node("Mul", "c s", "d"), node("Add", "d o", "e"), node("Mul", "e k", "f"),
        node("Add", "f o", "y"),
    ]  # fmt: skip
    constants = {"s": array(20, 1, 1), "o": array(1, 20, 1, 1, seed=4), "k": np.float32(0.5)}
    assert names(nodes, X, {**W, **constants}) == ["add", "conv2d"]


@pytest.mark.parametrize("shape", [(6,), (5, 1), (20, 5, 6), (2, 1, 1, 1), (20, 1, 6)], ids=str)
def test_scale_that_is_not_one_a_channel_stays(shape):
    left = names([CONV, node("Mul", "c s", "y")], X, {**W, "s": array(*shape)})
    assert left == ["conv2d", "multiply"]


@pytest.mark.parametrize("outputs", [("y", "c"), ("y", "d")])
def test_value_that_the_caller_wants_is_not_scaled_away(outputs):
    nodes = [CONV, node("Mul", "c s", "d"), node("Add", "d o", "y")]
    constants = {**W, "s": array(20, 1, 1), "o": array(20, 1, 1, seed=1)}
    names(nodes, X, constants, outputs)


def test_value_with_another_reader_is_not_scaled_away():
    nodes = [CONV, node("Mul", "c s", "d"), node("Relu", "c", "e"), node("Add", "d e", "y")]
    assert "multiply" in names(nodes, X, {**W, "s": array(20, 1, 1)})


def test_weights_with_two_readers_are_scaled_for_one():
    nodes = [
        CONV, node("Mul", "c s", "d"), node("Conv", "x w", "e", pads=[1, 1, 1, 1]),
        node("Sub", "d e", "y"),
    ]  # fmt: skip
    assert names(nodes, X, {**W, "s": array(20, 1, 1)}) == ["conv2d", "conv2d", "subtract"]


def test_convolution_added_to_itself():
    nodes = [CONV, node("Add", "c c", "d"), node("Mul", "d d", "y")]
    names(nodes, X, W)


def test_scale_of_a_broadcast_result_stays():
    """The product is larger than the convolution: one channel meets twenty scales."""
    nodes = [node("Conv", "x w", "c"), node("Mul", "c s", "y")]
    constants = {"w": array(1, 8, 3, 3), "s": array(20, 1, 1)}
    assert names(nodes, X, constants) == ["conv2d", "multiply"]


def test_layer_norm_is_recognised():
    nodes = [
        node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d"), node("Mul", "d d", "s"),
        node("ReduceMean", "s", "v", axes=[-1]), node("Add", "v e", "ve"), node("Sqrt", "ve", "r"),
        node("Div", "d r", "n"), node("Mul", "n g", "ng"), node("Add", "ng b", "y"),
    ]  # fmt: skip
    constants = {"e": np.float32(1e-5), "g": array(40, seed=1), "b": array(40, seed=2)}
    x = {"x": array(3, 7, 40)}
    assert names(nodes, x, constants) == ["layer_norm"]
    # Not the same tensor below as above, or a root that is not of the variance.
    other = [*nodes[:2], node("Mul", "d x", "s"), *nodes[3:]]
    constants["e"] = np.float32(100)
    assert "layer_norm" not in names(other, x, constants)
    wide = {**constants, "g": array(7, 40), "b": array(7, 40, seed=1)}
    names(nodes, x, wide)


def test_softmax_is_recognised():
    nodes = [
        node("ReduceMax", "x", "m", axes=[1]), node("Sub", "x m", "d"), node("Exp", "d", "e"),
        node("ReduceSum", "e a", "s"), node("Div", "e s", "y"),
    ]  # fmt: skip
    x = {"x": 20 * array(3, 7, 40)}
    assert names(nodes, x, {"a": np.array([1])}) == ["softmax"]
    assert "softmax" in names(nodes, x, {"a": np.array([1])}, ("y", "e"))
    # Shifted by something else, it is the softmax of what is left.
    assert "subtract" in names(nodes, x, {"a": np.array([2])})
    # Without the shift it is a softmax too.
    assert names([node("Exp", "x", "e"), *nodes[3:]], x, {"a": np.array([1])}) == ["softmax"]


def test_variadic_operators_become_chains():
    inputs = {k: array(3, 20, seed=ord(k)) for k in "pqrs"}
    for op, name in (("Sum", "add"), ("Max", "maximum"), ("Min", "minimum")):
        assert names([node(op, "p q r s")], inputs, {}) == [name] * 3
    check(node("Mean", "p q r s"), inputs, length=4)
    check(node("Sum", "p"), {"p": array(3, 20)})
    check(node("Max", "p q r"), {"p": array(3, 1), "q": array(20), "r": array(1, 1)})


def test_stacks_that_are_no_chain():
    inputs = {"p": array(3, 2, 5), "q": array(3, 1, 5)}
    nodes = [node("Concat", "p q", "c", axis=1), node("ReduceSum", "c a", "y")]
    check(nodes, inputs, {"a": np.array([1])}, length=3)
    nodes = [node("Concat", "p q", "c", axis=1), node("ReduceMax", "c", "y", axes=[0, 1])]
    check(nodes, inputs, opset=17)


def test_constants_are_folded():
    constants = {"c": array(20, 3), "d": array(20, 1), "e": np.array([4, -1])}
    nodes = [
        node("Mul", "c d", "f"), node("Exp", "f", "g"), node("Transpose", "g", "h", perm=[1, 0]),
        node("MatMul", "x h", "i"), node("Reshape", "d e", "j"), node("Sqrt", "g", "k"),
        node("ReduceMean", "k", "l", axes=[0, 1], keepdims=0), node("Add", "i l", "m"),
        node("MatMul", "m d", "n"), node("ReduceSum", "j", "o", keepdims=0), node("Div", "n o", "y"),
    ]  # fmt: skip
    assert names(nodes, {"x": array(20, 3)}, constants) == ["add", "divide", "matmul", "matmul"]


def test_outputs_that_nothing_computes():
    nodes = [node("Relu", "x", "r"), node("Identity", "r", "s"), node("Identity", "x", "t")]
    constants = {"k": array(3, 4)}
    check([*nodes, node("Identity", "k", "l")], X, constants, ["r", "s", "t", "l"])
