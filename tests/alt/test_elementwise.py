"""Elementwise operators: activations, arithmetic, truth values, conversions."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, check, node
from onnx import TensorProto

pytestmark = pytest.mark.llvm

ELEMENTWISE = [
    ("PRelu", {"s": (20, 1, 1)}, {}),
    ("PRelu", {"s": (1,)}, {}),
    ("HardSwish", {}, {}),
    ("HardSigmoid", {}, {"alpha": 0.3}),
    ("LeakyRelu", {}, {"alpha": 0.2}),
    ("Elu", {}, {}),
    ("Selu", {}, {}),
    ("Celu", {}, {}),
    ("ThresholdedRelu", {}, {}),
    ("Softplus", {}, {}),
    ("Mish", {}, {}),
    ("Gelu", {}, {}),
    ("Gelu", {}, {"approximate": "tanh"}),
]


@pytest.mark.parametrize(("op", "constants", "attributes"), ELEMENTWISE, ids=str)
def test_activation_alone_and_behind_a_convolution(op, constants, attributes):
    arrays = {n: array(*s, low=0.1) for n, s in constants.items()}
    names = " ".join(constants)
    nodes = [
        node(op, f"x {names}", "y", **attributes),
        node("Conv", "x w", "c"),
        node(op, f"c {names}", "z", **attributes),
    ]
    arrays["w"] = array(20, 20, 1, 1)
    check(nodes, {"x": array(1, 20, 3, 5)}, arrays, ["y", "z"], length=60, opset=20)


def test_exporters_spellings_of_gelu():
    nodes = [
        node("Div", "x r", "a"), node("Erf", "a", "b"), node("Add", "b one", "c"),
        node("Mul", "x c", "d"), node("Mul", "d h", "y"),
        node("Pow", "x three", "e"), node("Mul", "e k", "f"), node("Add", "x f", "g"),
        node("Mul", "g q", "i"), node("Tanh", "i", "j"), node("Add", "j one", "l"),
        node("Mul", "x l", "m"), node("Mul", "m h", "z"),
    ]  # fmt: skip
    values = {"r": 2**0.5, "one": 1, "h": 0.5, "three": 3, "k": 0.044715, "q": (2 / np.pi) ** 0.5}
    constants = {n: np.array(v, np.float32) for n, v in values.items()}
    check(nodes, {"x": 3 * array(7, 33)}, constants, ["y", "z"], length=4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_arithmetic(dtype):
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (3, 1, 20)).astype(dtype)
    b = np.where(rng.integers(0, 2, (5, 20)), -1, 1).astype(dtype) * rng.integers(
        1, 5, (5, 20)
    ).astype(dtype)
    ops = [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Less",
        "Greater",
        "Equal",
        "LessOrEqual",
        "GreaterOrEqual",
    ]
    nodes = [node(op, "a b", op) for op in ops]
    last = "Mod" if dtype.startswith("int") else "Sum"
    ops.append(last)
    nodes.append(node(last, "a b", last))
    nodes += [node("Neg", "a", "n"), node("Abs", "a", "s")]
    check(nodes, {"a": a, "b": b}, None, [*ops, "n", "s"])


def test_float_modulo_and_bits():
    a = np.array([[5.5, -5.5, 7, -7, 0.5] * 4], np.float32)
    b = np.array([[2, 2, -3, -3, 0.25] * 4], np.float32)
    check(node("Mod", "a b", fmod=1), {"a": a, "b": b})
    i = np.random.default_rng(0).integers(0, 200, (2, 33)).astype(np.uint8)
    nodes = [node(f"Bitwise{op}", "i j", op) for op in ("And", "Or", "Xor")]
    nodes += [node("BitwiseNot", "i", "n"), node("BitShift", "i k", "s", direction="LEFT")]
    inputs = {"i": i, "j": i[::-1].copy()}
    check(nodes, inputs, {"k": i % 8}, ["And", "Or", "Xor", "n", "s"])


def test_truth_values():
    p, q = (np.random.default_rng(s).integers(0, 2, (3, 20)).astype(bool) for s in (0, 1))
    nodes = [node(op, "p q", op) for op in ("And", "Or", "Xor", "Equal")]
    nodes += [
        node("Not", "p", "n"),
        node("Not", "And", "m"),
        node("Where", "m x z", "w"),
        node("Cast", "Or", "c", to=TensorProto.FLOAT),
        node("IsNaN", "x", "i"),
        node("IsInf", "x", "j"),
    ]
    x = array(3, 20)
    x[0, :3] = np.nan, np.inf, -np.inf
    inputs = {"p": p, "q": q, "x": x, "z": array(20)}
    check(nodes, inputs, None, ["And", "Or", "Xor", "Equal", "n", "m", "w", "c", "i", "j"])


def test_casts():
    types = ["FLOAT", "DOUBLE", "INT64", "INT32", "INT8", "UINT8", "BOOL"]
    x = np.array([0, 1, -1, 2.7, -2.7, 100, 0.4] * 5, np.float32)
    nodes, outputs = [], []
    for t in types:
        nodes.append(node("Cast", "x" if "U" not in t else "u", t, to=getattr(TensorProto, t)))
        outputs.append(t)
        for again in ("FLOAT", "INT32", "BOOL"):
            nodes.append(node("Cast", t, t + again, to=getattr(TensorProto, again)))
            outputs.append(t + again)
    check(nodes, {"x": x, "u": np.abs(x)}, None, outputs)


def test_half_precision():
    x = array(3, 40).astype(np.float16)
    proto_nodes = [node("Mul", "x x", "m"), node("Add", "m x", "y"), node("Relu", "y", "z")]
    check(proto_nodes, {"x": x}, None, ["z"])


@pytest.mark.parametrize("first", ["Atan", "Round", "IsNaN", "Pad", "Asinh"])
def test_values_named_beside_a_call_without_a_vector_form(first):
    """TVM takes such vector loops apart; what one statement names another must still see."""
    nodes = [
        node(first, "x p" if first == "Pad" else "x", "a"),
        node("Cast", "a", "b", to=TensorProto.FLOAT),
        node("Sigmoid", "b", "c"),
        node("Mul", "b c", "y"),
        node("Exp", "y", "z"),
    ]
    check(nodes, {"x": array(3, 40)}, {"p": np.array([1, 2, 1, 3])}, ["y", "z"])
