"""`LSTM`, `GRU` and `RNN` against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import array, check, node

from alt.errors import AltError

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(kind, gates, state, direction):
    both = 1 + (direction == "bidirectional")
    constants = {
        "w": array(both, gates * 5, 7) / 3,
        "r": array(both, gates * 5, 5) / 3,
        "b": array(both, 2 * gates * 5),
    }
    inputs, outputs = {"x": array(6, 3, 7)}, ["y", "h"] + ["c"] * (kind == "LSTM")
    if state:
        inputs |= {f"{n}0": array(both, 3, 5, seed=k) for k, n in enumerate(outputs[1:])}
    named = ["x", "w", "r", "b" if state else "", "", *list(inputs)[1:]]
    ways = {"hidden_size": 5, "direction": direction}
    check(node(kind, named, outputs, **ways), inputs, constants, outputs, length=60)
    if kind == "GRU":
        made = node(kind, named, outputs, linear_before_reset=1, **ways)
        check(made, inputs, constants, outputs, length=60)


@pytest.mark.parametrize("outputs", ["y", "- h", "- - c", "y - c"])
def test_some_outputs_of_a_recurrent_operator(outputs):
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    names = ["" if name == "-" else name for name in outputs.split()]
    usual = ["Sigmoid", "tanh", "Tanh"]
    for more in ({}, {"activations": usual}):
        operator = node("LSTM", ["x", "w", "r", "", "", "h0"], names, hidden_size=5, **more)
        inputs = {"x": array(4, 2, 7), "h0": array(1, 2, 5, seed=1)}
        check(operator, inputs, constants, [n for n in names if n], length=60)


@pytest.mark.parametrize("unusual", [
    {"activations": ["Relu", "Tanh", "Tanh"]}, {"clip": 0.5}, {"input_forget": 1}, {"layout": 1},
    "lengths", "peepholes",
], ids=str)  # fmt: skip
@pytest.mark.parametrize("known", [False, True])
def test_unusual_recurrent_operators_are_refused(unusual, known):
    """Folded they are not, either: ONNX's reference takes no notice of most of this."""
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    named, inputs = ["x", "w", "r"], {"x": array(4, 2, 7)}
    if unusual == "lengths":
        named, constants = [*named, "", "l"], constants | {"l": np.array([4, 3], np.int32)}
    elif unusual == "peepholes":
        named, constants = [*named, "", "", "", "", "p"], constants | {"p": array(1, 15)}
    ways = unusual if isinstance(unusual, dict) else {}
    operator = node("LSTM", named, hidden_size=5, **ways)
    if known:
        inputs, constants = {}, constants | inputs
    with pytest.raises(AltError, match="not supported"):
        check(operator, inputs, constants)


def test_recurrent_of_many_steps_is_refused():
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    with pytest.raises(AltError, match="500 steps"):
        check(node("LSTM", "x w r", hidden_size=5), {"x": array(500, 1, 7)}, constants)


def test_recurrent_without_steps_is_refused():
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    last = node("LSTM", "x w r", ["", "h"], hidden_size=5)
    with pytest.raises(AltError, match="without elements"):
        check(last, {"x": np.zeros((0, 1, 7), "f4")}, constants, ["h"])
