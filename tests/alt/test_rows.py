"""Matrix products, softmax, normalisations and reductions over every shape and axis."""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
import pytest
from equivalence import array, check, node

pytestmark = pytest.mark.llvm

PRODUCTS = [
    ((5, 7), (7, 9)),
    ((1, 64), (64, 1000)),
    ((1, 1), (1, 1)),
    ((6, 1), (1, 17)),
    ((33, 40), (40, 100)),
    ((7,), (7, 9)),
    ((5, 7), (7,)),
    ((7,), (7,)),
    ((3, 5, 7), (7,)),
    ((7,), (3, 7, 5)),
    ((2, 3, 5, 16), (2, 3, 16, 5)),
    ((2, 1, 5, 16), (1, 3, 16, 20)),
    ((3, 5, 16), (16, 20)),
    ((5, 16), (3, 16, 20)),
    ((3, 5, 16), (1, 16, 20)),
    ((1, 5, 16), (3, 16, 33)),
]


@pytest.mark.parametrize(("a", "b"), PRODUCTS, ids=str)
def test_product(a, b):
    """With the second operand known, with the first one known, and with neither."""
    x, w = array(*a), array(*b, seed=1)
    check(node("MatMul", "x w"), {"x": x}, {"w": w}, length=a[-1])
    check(node("MatMul", "x w"), {"w": w}, {"x": x}, length=a[-1])
    check(node("MatMul", "x w"), {"x": x, "w": w}, length=a[-1])


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(transposed, constant):
    ta, tb = transposed
    x = array(*((20, 11) if ta else (11, 20)))
    weights = {"w": array(*((30, 20) if tb else (20, 30)), seed=1), "b": array(30, seed=2)}
    gemm = node("Gemm", "x w b", transA=ta, transB=tb, alpha=0.5, beta=2.0)
    if constant:
        check(gemm, {"x": x}, weights, length=20)
    else:
        check(gemm, {"x": x, **weights}, length=20)


@pytest.mark.parametrize("c", [(), (1,), (30,), (1, 30), (11, 1), (11, 30)], ids=str)
def test_gemm_broadcasts_its_bias(c):
    weights = {"w": array(20, 30, seed=1), "b": array(*c, seed=2)}
    check(node("Gemm", "x w b"), {"x": array(11, 20)}, weights, length=20)


def test_attention_with_transposes():
    """As exporters spell it: heads split off by reshape and transpose on both sides."""
    split = {
        "s": np.array([2, 9, 4, 8]),
        "j": np.array([2, 9, 32]),
        "d": np.array(8**0.5, np.float32),
    }
    nodes = []
    for name, axes in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", f"x w{name}", f"{name}0"),
            node("Add", f"{name}0 b{name}", f"{name}1"),
            node("Reshape", f"{name}1 s", f"{name}2"),
            node("Transpose", f"{name}2", f"{name}3", perm=axes),
        ]
        split |= {f"w{name}": array(32, 32, seed=ord(name)) / 6, f"b{name}": array(32, seed=3)}
    nodes += [
        node("MatMul", "q3 k3", "scores"),
        node("Div", "scores d", "scaled"),
        node("Add", "scaled mask", "masked"),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights v3", "c0"),
        node("Transpose", "c0", "c1", perm=[0, 2, 1, 3]),
        node("Reshape", "c1 j", "y"),
    ]
    mask = np.where(np.arange(9) < 7, 0, -1e9).astype(np.float32).reshape(1, 1, 1, 9)
    check(nodes, {"x": array(2, 9, 32), "mask": mask}, split, length=100)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("shape", [(5, 17), (3, 20, 6), (1, 1), (4,), (2, 3, 40)])
def test_softmax_over_each_axis(op, shape):
    axes = range(len(shape))
    nodes = [node(op, "x", f"y{k}", axis=k) for k in axes]
    check(nodes, {"x": 10 * array(*shape)}, None, [f"y{k}" for k in axes], length=10)


def test_softmax_of_blocked_channels():
    nodes = [node("Conv", "x w", "c"), node("Softmax", "c", "y", axis=1)]
    check(
        nodes,
        {"x": array(1, 20, 4, 5)},
        {"w": array(20, 20, 1, 1, seed=1) / 4},
        ["y", "c"],
        length=40,
    )


def test_softmax_of_masked_rows():
    x = array(4, 33)
    x[:, 20:] = -np.inf
    check(node("Softmax", axis=-1), {"x": x})


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(axis, bias):
    x = array(3, 5, 37) + 3
    rest = x.shape[axis:] if axis else x.shape
    weights = {"g": array(*rest, seed=1), "b": array(*rest, seed=2)}
    names = "x g b" if bias else "x g"
    weights = weights if bias else {"g": weights["g"]}
    check(node("LayerNormalization", names, axis=axis, epsilon=1e-3), {"x": x}, weights, length=37)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_decomposed_layer_normalization(square):
    second = "two" if square == "Pow" else "d"
    nodes = [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node(square, f"d {second}", "s"),
        node("ReduceMean", "s", "v", axes=[-1]),
        node("Add", "v e", "ve"),
        node("Sqrt", "ve", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n g", "ng"),
        node("Add", "ng b", "y"),
    ]
    constants = {
        "two": np.float32(2),
        "e": np.float32(1e-5),
        "g": array(40, seed=1),
        "b": array(40),
    }
    if square == "Mul":
        del constants["two"]
    x = {"x": array(3, 7, 40) + 1}
    check(nodes, x, constants, length=40, opset=17)
    # Not a layer norm any more: the deviation is also an output, the mean runs over another axis.
    check(nodes, x, constants, ["y", "d", "v"], length=40, opset=17)
    other = [node("ReduceMean", "x", "m", axes=[1]), *nodes[1:]]
    check(other, x, constants, length=40, opset=17)


def test_other_normalizations():
    weights = {
        "g": array(20, seed=1),
        "b": array(20, seed=2),
        "m": array(20) / 9,
        "v": array(20, low=0.5),
    }
    nodes = [
        node("InstanceNormalization", "x g b", "i"),
        node("BatchNormalization", "x g b m v", "n"),
        node("LpNormalization", "x", "l", axis=1, p=2),
        node("LRN", "x", "r", size=3),
    ]
    check(nodes, {"x": array(2, 20, 5, 7)}, weights, ["i", "n", "l", "r"], length=40)


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"]
MORE = ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 20, 7), (17, 3, 5), (40,), (1, 6, 1)])
def test_reduction_over_every_subset_of_axes(op, shape):
    rank = len(shape)
    subsets = [s for n in range(1, rank + 1) for s in combinations(range(rank), n)]
    nodes, outputs, constants = [], [], {}
    for axes in subsets:
        name = "a" + "".join(map(str, axes))
        constants[name] = np.array(axes)
        for keep in (0, 1):
            outputs.append(f"y{name}{keep}")
            nodes.append(node(op, f"x {name}", outputs[-1], keepdims=keep))
    check(nodes, {"x": array(*shape, low=0.9, high=1.1)}, constants, outputs, length=prod(shape))


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["int64", "int32", "float64"])
def test_reduction_of_other_types(op, dtype):
    x = np.random.default_rng(0).integers(1, 4, (3, 20, 2)).astype(dtype)
    constants = {"a": np.array([1]), "b": np.array([2])}
    if op == "ReduceMean" and dtype != "float64":
        x = x * 0 + 3  # integer means round differently everywhere
    check([node(op, "x a", "y"), node(op, "x b", "z")], {"x": x}, constants, ["y", "z"])


def test_other_reductions():
    x = {"x": array(2, 20, 9, low=0.5)}
    nodes = [node(op, "x a", op, keepdims=k % 2) for k, op in enumerate(MORE)]
    check(nodes, x, {"a": np.array([1])}, MORE, length=40)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_of_extrema(axis):
    x = np.random.default_rng(0).integers(0, 4, (3, 17, 5)).astype(np.float32)  # with ties
    nodes = [
        node("ArgMax", "x", "a", axis=axis, keepdims=0),
        node("ArgMin", "x", "b", axis=axis),
        node("ArgMax", "x", "c", axis=axis, select_last_index=1),
    ]
    check(nodes, {"x": x}, None, ["a", "b", "c"])


def test_reduction_of_four_axes():
    subsets = [s for n in range(1, 5) for s in combinations(range(4), n)]
    constants = {f"a{k}": np.array(s) for k, s in enumerate(subsets)}
    nodes = [node("ReduceMean", f"x a{k}", f"y{k}", keepdims=0) for k in range(len(subsets))]
    check(
        nodes,
        {"x": array(2, 17, 3, 5)},
        constants,
        [f"y{k}" for k in range(len(subsets))],
        length=510,
    )


def test_reduction_of_blocked_channels():
    nodes = [
        node("Conv", "x w", "c"),
        node("ReduceMean", "c a", "m", keepdims=0),
        node("ReduceMax", "c b", "n"),
        node("ReduceSum", "c d", "s", keepdims=0),
        node("GlobalAveragePool", "c", "g"),
        node("Sigmoid", "g", "h"),
        node("Mul", "c h", "y"),
    ]
    constants = {
        "w": array(20, 8, 1, 1),
        "a": np.array([2, 3]),
        "b": np.array([1]),
        "d": np.array([0, 1, 3]),
    }
    check(nodes, {"x": array(2, 8, 5, 7)}, constants, ["m", "n", "s", "y"], length=300)
