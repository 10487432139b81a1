"""Verification: right results pass, wrong ones do not, whatever the reference is."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_models import arithmetic, model_of, network

import alt
from alt.verify import TOLERANCES, relative_error, run_reference, verify

pytestmark = pytest.mark.llvm


@pytest.fixture(scope="module")
def compiled():
    return alt.compile(network())


def test_a_right_module_passes(compiled, tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    models = (network(), network().SerializeToString(), tmp_path / "m.onnx")
    for model in models:
        found = verify(model, compiled, seed=1)
        assert found.ok
        assert found.error < 1e-5
        assert [d.name for d in found.differences] == ["y", "f"]
        assert found.reference in str(found)


def test_integers_are_exact_and_indices_valid():
    found = verify(arithmetic(), alt.compile(arithmetic()))
    assert found.ok
    assert len(found.differences) == 3


def test_less_is_asked_of_a_module_that_multiplies_with_less(compiled, monkeypatch):
    tolerances = {d.name: d.tolerance for d in verify(network(), compiled).differences}
    assert tolerances == {"y": 1e-4, "f": 1e-4}
    target = {**compiled.header["target"], "precision": "tf32"}
    monkeypatch.setattr(compiled, "header", {**compiled.header, "target": target})
    tolerances = {d.name: d.tolerance for d in verify(network(), compiled).differences}
    assert tolerances == {"y": 1e-2, "f": 1e-2}


@pytest.mark.parametrize("missing", [(), ("onnxruntime",)])
def test_a_wrong_module_fails_with_any_reference(missing, compiled, monkeypatch):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    wrong = network()
    for tensor in wrong.graph.initializer:
        if tensor.name == "bias":
            bias = onnx.numpy_helper.to_array(tensor) + np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, "bias"))
    found = verify(wrong, compiled)
    assert not found.ok
    by_name = {d.name: d for d in found.differences}
    assert by_name["f"].ok
    assert not by_name["y"].ok
    assert ("reference implementation" in found.reference) == bool(missing)
    assert found.to_dict()["outputs"][0]["error"] == by_name["y"].error
    assert "'y'" in str(found)


def test_both_references_agree(monkeypatch):
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 15, 17))}
    first, theirs = run_reference(network(), x)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    second, others = run_reference(network(), x)
    assert first != second
    for a, b in zip(theirs, others, strict=True):
        assert relative_error(a, b) < 1e-5


def test_a_model_no_reference_runs():
    nodes = [helper.make_node("Nonsense", ["x"], ["y"], "n", domain="nowhere")]
    kind = (TensorProto.FLOAT, [2])
    with pytest.raises(alt.AltError, match=r"ONNX Runtime says.*reference implementation says"):
        run_reference(model_of(nodes, {"x": kind}, {"y": kind}), {"x": np.zeros(2)})


def test_compiling_with_verify_returns_a_module_or_says_what_differs(monkeypatch):
    stages = []
    alt.compile(network(), verify=True, progress=lambda stage, *_: stages.append(stage))
    assert stages[-1] == "verify"
    monkeypatch.setitem(TOLERANCES, "float32", 0.0)
    with pytest.raises(alt.AltError, match=r"output '[yf]' differs from ONNX Runtime by .*e-0"):
        alt.compile(network(), verify=True)


def test_inputs_bound_as_constants_reach_the_reference():
    nodes = [helper.make_node("Squeeze", ["x", "axes"], ["y"], "squeeze")]
    kinds = {"x": (TensorProto.FLOAT, [1, 4, 1]), "axes": (TensorProto.INT64, [2])}
    model = model_of(nodes, kinds, {"y": (TensorProto.FLOAT, None)})
    module = alt.compile(model, constants={"axes": [0, 2]}, verify=True)
    assert module.outputs[0].shape == (4,)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.5, 0.0], [0.0, 0.0], 0.5),
        ([1.0, 3.0], [1.0, 4.0], 0.25),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([-np.inf, 1.0], [np.inf, 1.0], np.inf),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([0.0, 1.0], [np.nan, 1.0], np.inf),
    ],
)
def test_relative_error(found, expected, error):
    assert relative_error(np.array(found), np.array(expected)) == error


def test_other_shapes_and_types_are_errors():
    ones = np.ones((2, 2), np.float32)
    assert relative_error(ones, np.ones(4, np.float32)) == np.inf
    assert relative_error(ones, np.ones((2, 2))) == np.inf
    assert relative_error(np.array([], np.float32), np.array([], np.float32)) == 0
