"""Kernels of every kind, generated for a GPU and emulated, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import SM_90, Emulation, emulate, needs_gxx, planned
from equivalence import array, assert_same, model, node, run_reference

from alt.compiler import fused

pytestmark = [pytest.mark.cuda_build, needs_gxx]

X = array(2, 3, 17, 15)


def same(nodes, inputs, constants=None, outputs=("y",), length=1):
    many = nodes if isinstance(nodes, list) else [nodes]
    proto = model(many, inputs, outputs, constants)
    assert_same(tuple(emulate(proto, inputs)), run_reference(proto, inputs), length)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (2, 1, 33), (1, 3, 31, 37), (9, 1000, 144), (3, 1001, 151)], ids=str
)
def test_elementwise_of_any_size(shape):
    """From a scalar, by one thread, to enough elements for vectors, and too odd for them."""
    nodes = [node("Exp", "x", "a"), node("Add", "a y", "b"), node("Relu", "b", "z")]
    same(nodes, {"x": array(*shape), "y": array(*shape, seed=1)}, outputs=("z",))


def test_vectors_beside_what_is_read_elsewhere():
    """A kernel of vectors that also reads a bias, a number and its own input, turned round."""
    x = array(600, 600)
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0]),
        node("Add", "x t", "a"),
        node("Mul", "a bias", "b"),
        node("Add", "b number", "c"),
        node("Where", "yes c x", "y"),
    ]
    constants = {"bias": array(600), "number": np.float32(2), "yes": x[:1] > 0}
    same(nodes, {"x": x}, constants)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "float64", "bool"])
def test_other_dtypes(dtype):
    x = (array(5, 33) * 10).astype(dtype)
    same([node("Cast", "x", "f", to=1), node("Sqrt", "f", "s"), node("Cast", "s", "y", to=7)], {"x": abs(x) if dtype != "bool" else x})  # fmt: skip


def test_nan_is_kept():
    x = array(3, 40)
    x[1, ::7] = np.nan
    same([node("Relu", "x", "r"), node("Clip", "r low high", "y")], {"x": x}, {"low": np.float32(-1), "high": np.float32(1)})  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concatenation(axis):
    inputs = {name: array(2, 3, 4, 5, seed=k) for k, name in enumerate("abc")}
    nodes = [node("Concat", "a b c", "t", axis=axis), node("Neg", "t", "y")]
    same(nodes, inputs)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7, 5), 1), ((3, 100), -1), ((2, 1000, 3), 1), ((1, 3001), -1), ((2, 70000), -1)],
    ids=str,
)
def test_softmax(shape, axis):
    """Rows for a part of a warp, a warp, some warps and a whole block; in registers and beyond."""
    same(node("Softmax", "x", "y", axis=axis), {"x": array(*shape) * 3}, length=shape[axis] ** 0.5)


def test_log_softmax_and_what_is_fused_around_it():
    nodes = [
        node("Mul", "x c", "a"),
        node("LogSoftmax", "a", "b", axis=-1),
        node("Add", "b x", "y"),
    ]
    same(nodes, {"x": array(5, 40)}, {"c": np.float32(0.5)}, length=40)


@pytest.mark.parametrize("shape", [(5, 7, 24), (3, 768), (2, 1001)], ids=str)
def test_layer_norm(shape):
    weights = {"g": array(shape[-1]), "b": array(shape[-1], seed=1)}
    same(node("LayerNormalization", "x g b", axis=-1), {"x": array(*shape)}, weights, length=30)


@pytest.mark.parametrize(
    ("op", "axes"),
    [
        ("ReduceMean", [2, 3]),
        ("ReduceMax", [1]),
        ("ReduceSum", [0, 2]),
        ("ReduceMin", [0, 1, 2, 3]),
        ("ReduceProd", [3]),
        ("ReduceSum", [1, 2]),
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, axes, keepdims):
    nodes = [node("Mul", "x x", "s"), node(op, "s axes", "r", keepdims=keepdims), node("Neg", "r")]
    nodes[-1].input[0] = "r"
    same(nodes, {"x": X}, {"axes": np.array(axes)}, length=600)


def test_long_reductions_of_neighbours_are_shared():
    same(node("ReduceSum", "x a", keepdims=0), {"x": array(3000, 40)}, {"a": np.array([0])}, length=3000)  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 5, 33), (33, 17)), ((2, 5, 33), (2, 33, 17)), ((5, 1, 4, 3), (7, 3, 2)), ((33,), (33, 17)), ((4, 33), (33,)), ((1, 1000), (1000, 10))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
def test_products(a, b, constant):
    nodes = [node("MatMul", "a b", "p"), node("Relu", "p", "y")]
    given = {"a": array(*a), "b": array(*b, seed=1)}
    known = {"b": given.pop("b")} if constant else {}
    same(nodes, given, known, length=a[-1])


CONVOLUTIONS = {
    "stem": ((1, 3, 23, 19), (24, 3, 7, 7), {"strides": [2, 2], "pads": [3] * 4}),
    "asymmetric": ((2, 24, 9, 8), (5, 24, 3, 2), {"pads": [1, 0, 2, 1]}),
    "one channel": ((2, 1, 9, 8), (1, 1, 3, 3), {}),
    "pointwise": ((1, 144, 5, 5), (24, 144, 1, 1), {}),
    "stride beyond kernel": ((1, 3, 20, 20), (4, 3, 2, 2), {"strides": [5, 3]}),
    "depthwise": ((2, 24, 9, 8), (24, 1, 3, 3), {"group": 24, "pads": [1] * 4}),
    "grouped": ((1, 6, 9, 8), (9, 2, 3, 3), {"group": 3, "dilations": [2, 3], "pads": [2] * 4}),
    "line": ((2, 3, 40), (8, 3, 5), {"pads": [2, 2], "strides": [2]}),
    "volume": ((1, 3, 5, 6, 7), (8, 3, 3, 3, 3), {"pads": [1] * 6}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case):
    shape, kernel, attributes = CONVOLUTIONS[case]
    nodes = [node("Conv", "x w b", "c", **attributes), node("Relu", "c", "y")]
    weights = {"w": array(*kernel), "b": array(kernel[0])}
    same(nodes, {"x": array(*shape)}, weights, length=int(np.prod(kernel[1:])))


def test_a_convolution_with_weights_that_are_computed():
    same(node("Conv", "x w", pads=[1] * 4), {"x": X, "w": array(4, 3, 3, 3)}, length=27)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 3], "pads": [1, 0, 0, 1]},
        {"strides": [3, 3], "group": 3},  # some outputs are reached by no input
        {"strides": [2, 2], "output_padding": [1, 0], "dilations": [2, 1]},
    ],
    ids=str,
)
def test_transposed_convolutions(attributes):
    weights = {"w": array(3, 5, 2, 2) if "group" not in attributes else array(3, 2, 2, 2)}
    same(node("ConvTranspose", "x w", **attributes), {"x": X}, weights, length=12)


POOLS = {
    "max": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    "dilated": ("MaxPool", {"kernel_shape": [2, 2], "dilations": [3, 2]}),
    "average": ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "strides": [4, 3]}),
    "padding counts": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    "long": ("AveragePool", {"kernel_shape": [11, 13]}),
    "global": ("GlobalAveragePool", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", POOLS)
def test_pooling(case):
    op, attributes = POOLS[case]
    same([node(op, "x", "p", **attributes), node("Exp", "p", "y")], {"x": X}, length=200)


def test_stages_gathers_and_views():
    """What only TVM can express, indices that are data, and relabellings."""
    inputs = {"x": X, "i": np.array([0, 2, 1, 2])}
    nodes = [
        node("ArgMax", "x", "a", axis=1),
        node("Gather", "x i", "g", axis=1),
        node("Transpose", "g", "t", perm=[0, 2, 3, 1]),
        node("Slice", "t from to", "y"),
    ]
    bounds = {"from": np.array([0, 3, 1, 1]), "to": np.array([2, 9, 14, 4])}
    same(nodes, inputs, bounds, outputs=("a", "y"))


def attention(q, k, v, mask=None):
    nodes = [node("MatMul", "q k", "s"), node("Mul", "s c", "t")]
    inputs = {"q": array(*q), "k": array(*k, seed=1), "v": array(*v, seed=2)}
    if mask is not None:
        nodes.append(node("Add", "t m", "masked"))
        inputs["m"] = mask
    last = nodes[-1].output[0]
    nodes += [node("Softmax", last, "p", axis=-1), node("MatMul", "p v", "y")]
    return nodes, inputs, {"c": np.float32(0.3)}


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((2, 4, 10, 8), (2, 4, 8, 12), (2, 4, 12, 5)),
        ((1, 2, 3, 8), (1, 2, 8, 2500), (1, 2, 2500, 150)),  # more keys than are kept at a time
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ],
    ids=str,
)
def test_attention(q, k, v):
    nodes, inputs, constants = attention(q, k, v)
    network = fused(model(nodes, inputs, ["y"], constants), SM_90)
    assert [kernel.anchor.op for kernel in network.kernels] == ["attention"]
    same(nodes, inputs, constants, length=200)


def test_attention_to_late_keys_only():
    """All keys that come first are masked: their maximum is minus infinity."""
    mask = np.full((1, 1, 1, 2500), -np.inf, np.float32)
    mask[..., 2000:] = 0
    nodes, inputs, constants = attention((1, 2, 3, 8), (1, 2, 8, 2500), (1, 2, 2500, 4), mask)
    same(nodes, inputs, constants, length=200)


def test_equal_kernels_share_a_function():
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("MatMul", "b w", "y")]
    proto = model(nodes, {"x": array(4, 6)}, ["y"], {"w": array(6, 6)})
    program = planned(fused(proto, SM_90))
    assert len(program.steps) == 3
    assert len(program.library.launches) == 1
    found = Emulation(program)([array(4, 6)])
    assert_same(tuple(found), run_reference(proto, {"x": array(4, 6)}), length=6)
