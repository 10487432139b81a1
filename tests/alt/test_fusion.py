"""Fusion and the rewrites before it: whatever is fused or folded, the results stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, assert_same, model, node, run_reference

import alt

pytestmark = pytest.mark.llvm

UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs")
BINARY = ("Add", "Sub", "Mul", "Max")


def random_graph(seed: int):
    """Convolutions, pools, joins and elementwise nodes over tensors of one shape.

    Values have any number of readers, so that there are diamonds, and outputs that are read too.
    """
    rng = np.random.default_rng(seed)
    batch, channels, size = rng.choice([1, 2]), rng.choice([3, 16, 24, 33]), rng.choice([1, 5, 8])
    shape = (int(batch), int(channels), int(size), int(size))
    constants = {
        "w": array(channels, channels, 3, 3, seed=seed) * np.float32(channels**-0.5 / 3),
        "s": array(channels, 1, 1, seed=seed + 1),
        "o": array(seed=seed + 2).reshape(()),
    }
    values = ["x", "z"]
    nodes = []
    for number in range(int(rng.integers(4, 14))):
        out = f"t{number}"
        a, b = (values[i] for i in rng.integers(0, len(values), 2))
        match int(rng.integers(0, 6)):
            case 0:
                nodes.append(node("Conv", f"{a} w", out, pads=[1] * 4))
            case 1:
                nodes.append(node(str(rng.choice(UNARY)), a, out))
            case 2:
                nodes.append(node(str(rng.choice(BINARY)), f"{a} {rng.choice(['s', 'o'])}", out))
            case 3:
                nodes.append(node("MaxPool", a, out, kernel_shape=[3, 3], pads=[1] * 4))
            case _:
                nodes.append(node(str(rng.choice(BINARY)), f"{a} {b}", out))
        # Products of products would leave the range in which errors are comparable.
        nodes.append(node("Tanh", out, f"{out}b"))
        values.append(f"{out}b")
    inner = [v for v in values[2:] if rng.integers(0, 4) == 0]
    outputs = list(dict.fromkeys([*inner, values[-1]]))
    return nodes, {"x": array(*shape), "z": array(*shape, seed=9)}, constants, outputs


def compare(seed: int) -> None:
    nodes, inputs, constants, outputs = random_graph(seed)
    proto = model(nodes, inputs, outputs, constants)
    assert_same(alt.compile(proto)(**inputs), run_reference(proto, inputs), length=300)


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed):
    compare(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25, 400))
def test_many_random_graphs(seed):
    compare(seed)


def kernels_of(nodes, inputs, constants, outputs=("y",), length=200):
    proto = model(nodes, inputs, outputs, constants)
    module = alt.compile(proto)
    assert_same(module(**inputs), run_reference(proto, inputs), length)
    return [k.name for k in module.explain(repeats=1).kernels if not k.conversion]


NORM = {
    "g": array(20, low=0.5, high=2.0),
    "b": array(20, seed=1),
    "m": array(20, seed=2),
    "v": array(20, low=0.5, high=2.0, seed=3),
}


def test_batch_norm_goes_into_the_convolution():
    weights = {"w": array(20, 16, 1, 1), "c": array(20), **NORM}
    nodes = [
        node("Conv", "x w c", "t"),
        node("BatchNormalization", "t g b m v", "n"),
        node("Relu", "n", "y"),
    ]
    assert kernels_of(nodes, {"x": array(2, 16, 5, 5)}, weights) == ["conv2d_add_relu"]


def test_scales_and_offsets_between_are_folded():
    weights = {"w": array(20, 16, 1, 1), "s": array(20, 1, 1), "p": array(1, 20, 1, 1), **NORM}
    nodes = [
        node("Conv", "x w", "t"),
        node("Add", "t p", "u"),
        node("Mul", "s u", "q"),
        node("BatchNormalization", "q g b m v", "y"),
    ]
    assert kernels_of(nodes, {"x": array(1, 16, 5, 5)}, weights) == ["conv2d_add"]


def test_a_scale_is_not_folded_if_the_product_is_read_elsewhere():
    weights = {"w": array(20, 16, 1, 1), "s": array(20, 1, 1)}
    nodes = [node("Conv", "x w", "t"), node("Mul", "t s", "u"), node("Add", "t u", "y")]
    kernels_of(nodes, {"x": array(1, 16, 5, 5)}, weights)
    kernels_of(nodes[:2], {"x": array(1, 16, 5, 5)}, weights, ["t", "u"])


def test_a_scale_along_another_axis_is_not_folded():
    weights = {"w": array(5, 16, 1, 1), "s": array(5), "r": array(5, 1)}
    nodes = [node("Conv", "x w", "t"), node("Mul", "t s", "u"), node("Mul", "u r", "y")]
    kernels_of(nodes, {"x": array(1, 16, 5, 5)}, weights)


def test_gelu_and_bias_stay_in_the_product():
    weights = {"w": array(16, 33), "c": array(33), "r": np.float32(2**0.5)}
    weights |= {"one": np.float32(1), "half": np.float32(0.5)}
    nodes = [
        node("MatMul", "x w", "t"),
        node("Add", "c t", "u"),
        node("Div", "u r", "d"),
        node("Erf", "d", "e"),
        node("Add", "e one", "f"),
        node("Mul", "u f", "g"),
        node("Mul", "g half", "y"),
    ]
    assert len(kernels_of(nodes, {"x": array(3, 7, 16)}, weights)) == 1
