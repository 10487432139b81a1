"""Repairs of single operators, and old spellings, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from alt.errors import AltError
from alt.frontend import import_model
from tests.tvm_patches.importing import (
    assert_same_as_onnxruntime,
    call_names,
    model_of,
    run_imported,
)

pytestmark = pytest.mark.llvm


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _check(op, inputs, *, opset=17, constants=None, outputs=("y",), **values):
    """`inputs` keeps the order of the node's inputs; constants come after."""
    node = helper.make_node(op, [*inputs, *(constants or {})], list(outputs), **values)
    model = model_of([node], inputs, outputs, opset=opset, constants=constants)
    return assert_same_as_onnxruntime(model, inputs)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_flattens_before_opset_13(op, axis, opset):
    values = {} if axis is None else {"axis": axis}
    _check(op, {"x": _normal(2, 3, 4)}, opset=opset, **values)


@pytest.mark.parametrize(
    "op", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
def test_reductions_with_axes_as_attribute(op, keepdims, axes):
    values = {} if axes is None else {"axes": axes}
    x = np.abs(_normal(2, 3, 4)) + 0.1
    _check(f"Reduce{op}", {"x": x}, opset=11, keepdims=keepdims, **values)


def test_attributes_that_became_inputs():
    x = _normal(2, 3, 4, 6)
    _check("Clip", {"x": x}, opset=6, min=-0.5)
    _check("Clip", {"x": x}, opset=6, max=0.5)
    _check("Pad", {"x": x}, opset=2, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=1.5)
    _check("Pad", {"x": x}, opset=2, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode="reflect")
    _check("Slice", {"x": x}, opset=9, starts=[1, -3], ends=[3, 1000], axes=[1, 3])
    _check("Squeeze", {"x": x[:1]}, opset=11, axes=[0])
    _check("Unsqueeze", {"x": x}, opset=11, axes=[0, 3])
    _check("TopK", {"x": x}, opset=9, outputs=("y", "i"), k=2, axis=2)
    _check("Split", {"x": x}, opset=11, outputs=("y", "z"), axis=3, split=[1, 5])
    _check("Split", {"x": x}, opset=11, outputs=("y", "z"), axis=3)
    _check("Upsample", {"x": x}, opset=7, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest")
    _check("Upsample", {"x": x}, opset=7, scales=[1.0, 1.0, 2.0, 2.0], mode="linear")
    scales = np.array([1, 1, 2, 3], np.float32)
    _check("Upsample", {"x": x}, opset=9, constants={"s": scales}, mode="nearest")
    _check("Resize", {"x": x}, opset=10, constants={"s": scales}, mode="nearest")
    index = np.array([[0, 1, 0]])
    _check("Scatter", {"x": x[0, :, :, 0], "i": index, "u": _normal(1, 3)}, opset=9)


def test_old_batch_normalization_and_dropout():
    weights = {n: np.abs(_normal(3, seed=i)) + 0.5 for i, n in enumerate("sbmv")}
    _check("BatchNormalization", {"x": _normal(2, 3, 4, 4)}, opset=7, constants=weights)
    _check("Dropout", {"x": _normal(2, 3)}, opset=7, ratio=0.3)
    _check("Dropout", {"x": _normal(2, 3)}, opset=13, outputs=("y", "mask"))


def test_operands_lined_up_at_an_axis():
    """Opset 6 broadcasting, which ONNX Runtime has dropped."""
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    x, b = _normal(2, 3, 4), _normal(3)
    imported = import_model(model_of([node], {"x": x}, ["y"], opset=6, constants={"b": b}))
    np.testing.assert_allclose(run_imported(imported, {"x": x})[0], x + b[:, None])


@pytest.mark.parametrize("bounds", [(None, 1.0), (-1.0, None), (-1.0, 1.0), (None, None)])
def test_clip_is_plain(bounds):
    names = ["low" if bounds[0] is not None else "", "high" if bounds[1] is not None else ""]
    constants = {n: np.float32(v).reshape(()) for n, v in zip(names, bounds, strict=False) if n}
    node = helper.make_node("Clip", ["x", *names], ["y"])
    x = _normal(3, 5) * 2
    model = model_of([node], {"x": x}, ["y"], constants=constants)
    assert "relax.call_tir" not in call_names(assert_same_as_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic_operators_are_chains(op):
    inputs = {"a": _normal(2, 3), "b": _normal(3, seed=1), "c": _normal(2, 1, seed=2)}
    assert "relax.stack" not in call_names(_check(op, inputs))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([-1], [-1000], [1], [-1]),
        ([4, 1], [0, 5], [2, 0], [-2, 2]),
        ([0], [-1], [-1], [1]),
        ([100], [1], [1], [-3]),
        ([-100], [100], [0], [2]),
    ],
)
def test_slice(starts, ends, axes, steps):
    constants = {n: np.array(v) for n, v in zip("saet", (starts, ends, axes, steps), strict=False)}
    assert list(constants) == ["s", "a", "e", "t"]
    _check("Slice", {"x": _normal(6, 7, 5)}, constants=constants)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(), (1,), (5,), (2, 1), (2, 5)])
def test_gemm(alpha, beta, trans_a, trans_b, bias):
    x = _normal(3, 2) if trans_a else _normal(2, 3)
    constants = {"w": _normal(5, 3) if trans_b else _normal(3, 5), "b": _normal(*bias)}
    constants["b"] = np.asarray(constants["b"], np.float32)
    values = {"alpha": alpha, "beta": beta, "transA": trans_a, "transB": trans_b}
    _check("Gemm", {"x": x}, constants=constants, **values)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bhij,bhjd->bihd", [(2, 3, 4, 5), (2, 3, 5, 6)]),
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bi,bi->b", [(2, 3), (2, 3)]),
        ("i,j->ji", [(2,), (3,)]),
        ("bsd,dhk->bshk", [(2, 3, 4), (4, 5, 6)]),
    ],
)
def test_einsum_is_a_matmul(equation, shapes):
    inputs = {n: _normal(*s, seed=i) for i, (n, s) in enumerate(zip("ab", shapes, strict=False))}
    names = call_names(_check("Einsum", inputs, equation=equation))
    assert "relax.matmul" in names
    assert "relax.call_tir" not in names


@pytest.mark.parametrize("slope", [(1,), (3,), (3, 1, 1), (4, 5), (3, 4, 5)])
def test_prelu(slope):
    if slope == (3,):
        _check("PRelu", {"x": _normal(2, 4, 3)}, constants={"s": _normal(3, seed=1)})
    else:
        _check("PRelu", {"x": _normal(2, 3, 4, 5)}, constants={"s": _normal(*slope, seed=1)})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_operators_with_a_function_body(approximate):
    _check("Gelu", {"x": _normal(3, 4)}, opset=20, approximate=approximate)
    _check("Celu", {"x": _normal(3, 4)}, alpha=0.5)
    _check("Mish", {"x": _normal(3, 4)}, opset=18)
    _check("HardSwish", {"x": _normal(3, 4)})
    x = {"q": _normal(1, 2, 3, 4), "k": _normal(1, 2, 5, 4), "v": _normal(1, 2, 5, 4)}
    _check("Attention", x, opset=23, is_causal=1)


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_normalization(axis):
    shape = (2, 3, 4)[axis:]
    constants = {"s": _normal(*shape), "b": _normal(*shape, seed=1)}
    _check("LayerNormalization", {"x": _normal(2, 3, 4)}, constants=constants, axis=axis)


def test_further_outputs_of_layer_normalization():
    outputs = ("y", "mean", "deviation")
    constants = {"s": _normal(4)}
    _check("LayerNormalization", {"x": _normal(2, 4)}, constants=constants, outputs=outputs)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    constants = {"depth": np.array(4), "values": np.array([0.5, 2.0], np.float32)}
    _check("OneHot", {"i": np.array([[0, -1], [3, 2]])}, constants=constants, axis=axis)


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (0, 1), (1, 0), (0, 0)])
def test_is_inf(positive, negative):
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    values = {"detect_positive": positive, "detect_negative": negative}
    _check("IsInf", {"x": x}, outputs=("y",), **values)


def test_powers_of_mixed_types():
    x, n = np.array([1.5, 2.0], np.float32), np.array([2, 3])
    _check("Pow", {"x": x, "n": n})
    _check("Pow", {"n": n, "x": np.round(x)})
    _check("Pow", {"n": n, "m": n})


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT64])
def test_eye_like(dtype):
    _check("EyeLike", {"x": np.zeros((3, 4), np.int32)}, dtype=dtype, k=1)


def test_whole_row_of_minus_infinity():
    """A maximum that TVM gets wrong, and that Attention's masks depend on."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], axes=[-1]),
        helper.make_node("Equal", ["m", "bound"], ["y"]),
    ]
    x = np.array([[1, 2], [-np.inf, -np.inf], [np.finfo("f").min, -np.inf]], np.float32)
    constants = {"bound": np.array(-np.inf, np.float32)}
    assert_same_as_onnxruntime(model_of(nodes, {"x": x}, ["y"], constants=constants), {"x": x})


def test_refusals_name_every_node():
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="first"),
        helper.make_node("NonZero", ["x"], ["b"], name="second"),
        helper.make_node("Det", ["x"], ["c"], name="third"),
        helper.make_node("FusedMatMul", ["x", "x"], ["d"], name="fourth", domain="com.microsoft"),
    ]
    model = model_of(nodes[:3], {"x": _normal(2, 2)}, list("abcd"))
    model.graph.node.append(nodes[3])
    model.opset_import.add(domain="com.microsoft", version=1)
    with pytest.raises(AltError) as error:
        import_model(model)
    assert "Det at first, third (the operator is not supported)" in str(error.value)
    assert "NonZero at second (the shape of its output depends on data)" in str(error.value)
    assert "FusedMatMul of com.microsoft at fourth" in str(error.value)
