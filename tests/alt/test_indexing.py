"""Cumulative sums, `TopK` and the scatters against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, check, model, node

import alt
from alt.errors import AltError

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("shape", [(9, 17), (2, 1031, 3)])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sums(shape, reverse, exclusive):
    ways = {"reverse": reverse, "exclusive": exclusive}
    nodes = [
        node("CumSum", "x one", "y", **ways),
        node("CumSum", "x last", "z", **ways),
        node("CumSum", "i one", "j", **ways),
    ]
    inputs = {"x": array(*shape), "i": np.arange(np.prod(shape)).reshape(shape) % 7}
    constants = {"one": np.array(1), "last": np.array(-1)}
    check(nodes, inputs, constants, ["y", "z", "j"], length=shape[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_with_ties(axis, largest):
    nodes = [
        node("TopK", "x k", "y i", axis=axis, largest=largest),
        node("TopK", "n k", "z j", axis=axis, largest=largest),
    ]
    inputs = {"x": array(5, 17, 7), "n": np.arange(5 * 17 * 7).reshape(5, 17, 7) % 11}
    inputs["x"][:, 3:9] = inputs["x"][:, 4:5]
    check(nodes, inputs, {"k": np.array([4])}, ["y", "i", "z", "j"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_top_k_of_other_types(dtype):
    inputs = {"x": np.random.default_rng(0).permutation(60).reshape(4, 15).astype(dtype)}
    for outputs in (["y", "i"], ["y"], ["i"]):
        check(node("TopK", "x k", "y i"), inputs, {"k": np.array([15])}, outputs)


@pytest.mark.parametrize(("shape", "most", "axis", "why"), [
    ((5000,), 3, 0, "5000 elements"),
    ((100_000, 300), 3, 1, "takes too long"),
    ((3, 4), 6, 1, "requested k"),
    ((3, 4), 2, 2, "axis"),
    ((), 1, 0, "axis"),
])  # fmt: skip
def test_top_k_that_cannot_be_had_is_refused(shape, most, axis, why):
    inputs = {"x": np.zeros(shape, np.float32)}
    with pytest.raises(AltError, match=why):
        check(node("TopK", "x k", "y i", axis=axis), inputs, {"k": np.array([most])})


@pytest.mark.parametrize("operator", [
    node("CumSum", "x two", "y"),
    node("ScatterElements", "x i u", axis=2),
    node("ScatterElements", "x i u", axis=-3),
    node("ScatterElements", "x one u"),
    node("ScatterND", "x deep u"),
    node("ScatterND", "x rows u", reduction="wild"),
    node("LSTM", "x w r", hidden_size=5),
    node("MaxPool", "x"),
    node("AveragePool", "x"),
], ids=lambda n: n.op_type)  # fmt: skip
def test_what_is_no_valid_onnx_is_refused(operator):
    constants = {
        "two": np.array(2), "one": np.array([0]), "deep": np.zeros((3, 3), np.int64),
        "rows": np.array([[1]]), "w": array(1, 20, 4), "r": array(1, 20, 5),
    }  # fmt: skip
    inputs = {"x": array(3, 4), "i": np.zeros((3, 4), np.int64), "u": array(1, 4)}
    used = {name: value for name, value in inputs.items() if name in operator.input}
    known = {name: value for name, value in constants.items() if name in operator.input}
    with pytest.raises(AltError):
        check(operator, used, known)


def test_the_last_update_wins():
    inputs = {"x": array(6, 5), "u": array(3, 5, seed=1)}
    there = {"n": np.array([[2], [4], [2]]), "i": np.array([[2], [4], [2]]) + np.zeros((3, 5), int)}
    wanted = inputs["x"].copy()
    wanted[4], wanted[2] = inputs["u"][1:]
    nodes = [node("ScatterND", "x n u", "y"), node("ScatterElements", "x i u", "z")]
    for constants in (there, {}):
        fed = inputs | ({} if constants else there)
        compiled = alt.compile(model(nodes, fed, ["y", "z"], constants))
        for found in compiled(**fed):
            np.testing.assert_array_equal(found, wanted)


def test_updates_out_of_range_go_nowhere():
    """ONNX leaves it open; another place is not written."""
    inputs = {"x": array(6, 5), "u": array(3, seed=1), "i": np.array([[0, 7], [-9, 1], [1, 1]])}
    wanted = inputs["x"].copy()
    wanted[1, 1] = inputs["u"][2]
    compiled = alt.compile(model([node("ScatterND", "x i u")], inputs, ["y"]))
    np.testing.assert_array_equal(compiled(**inputs), wanted)


def test_scatter_of_truths():
    inputs = {
        "x": array(4, 5) > 0.5,
        "i": np.array([[3, 0, 1]]),
        "u": np.array([[True, False, True]]),
    }
    nodes = [node("ScatterElements", "x i u", "y"), node("ScatterElements", "x i u", "z", axis=1)]
    check(nodes, inputs, None, ["y", "z"])


def test_scatter_at_constant_indices():
    constants = {
        "n": np.array([[[1], [-1]], [[0], [1]]]),
        "p": np.array([[0, 1], [5, -2], [2, 2]]),
    }
    inputs = {"x": array(6, 5, 3), "u": array(2, 2, 5, 3, seed=1), "v": array(3, 3, seed=2)}
    nodes = [
        node("ScatterND", "x n u", "y"),
        node("ScatterND", "x p v", "z"),
        node("ScatterND", "x p v", "s", reduction="add"),
        node("ScatterND", "x p v", "t", reduction="max"),
    ]
    check(nodes, inputs, constants, ["y", "z", "s", "t"])


def test_scatter_at_indices_of_the_input():
    inputs = {"x": array(6, 5, 3), "u": array(2, 5, 3), "v": array(3, 3, seed=1)}
    inputs |= {"i": np.array([[1], [-2]]), "p": np.array([[0, 1], [5, -2], [2, 2]])}
    nodes = [node("ScatterND", "x i u", "y"), node("ScatterND", "x p v", "z")]
    check(nodes, inputs, None, ["y", "z"])
    with pytest.raises(AltError, match="reduction=add"):
        check(node("ScatterND", "x i u", reduction="add"), inputs)


def test_scatters_that_cannot_be_right_or_quick_are_refused():
    small, large = (
        {"x": array(6, 5), "u": array(1, 5)},
        {"x": array(20000, 1), "u": array(20000, 1)},
    )
    for place in (6, -7):
        with pytest.raises(AltError, match="out of range"):
            check(node("ScatterND", "x n u"), small, {"n": np.array([[place]])})
    anywhere = {"i": np.zeros((20000, 1), np.int64)}
    for operator in ("ScatterND", "ScatterElements"):
        with pytest.raises(AltError, match="20000 elements with 20000 others"):
            check(node(operator, "x i u"), {**large, **anywhere})


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("others", [(3, 20, 5), (2, 11, 1)])
def test_scatter_elements(others, axis, reduction):
    shape = list(others)
    shape[axis] = 7
    indices = np.random.default_rng(0).integers(-3, 3, shape)
    inputs = {"x": array(3, 20, 5), "i": indices, "u": array(*shape, seed=1)}
    scatter = node("ScatterElements", "x i u", axis=axis, reduction=reduction)
    if reduction == "none":
        # Where two indices name one place, either may be the last to write: both write the same.
        kept = tuple(slice(20 if d == axis % 3 else n) for d, n in enumerate(others))
        inputs["u"] = np.take_along_axis(array(3, 20, 5, seed=1)[kept], indices, axis)
    check(scatter, inputs, length=9)
