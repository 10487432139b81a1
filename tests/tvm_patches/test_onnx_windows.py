"""Convolutions and pooling against ONNX Runtime, over every kind of padding."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from alt.errors import AltError
from alt.frontend import import_model
from tests.tvm_patches.importing import assert_same_as_onnxruntime, model_of, run_onnxruntime

_few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
_refusals = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
)

pytestmark = pytest.mark.llvm


def _check(node, inputs, constants=None, opset=17):
    model = model_of([node], inputs, list(node.output), opset=opset, constants=constants)
    try:
        run_onnxruntime(model, inputs)
    except _refusals:
        assume(False)
    return assert_same_as_onnxruntime(model, inputs)


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def _windows(draw, pooling=False):
    rank = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    values = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    padding = draw(st.sampled_from(["none", "explicit", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "explicit":
        limit = [
            max((k - 1) * d, 0) // 2 if pooling else 2
            for k, d in zip(kernel, dilations, strict=False)
        ]
        pads = [draw(st.integers(0, n)) for n in limit * 2]
        values["pads"] = pads
    elif padding != "none":
        values["auto_pad"] = padding
        if pooling and padding.startswith("SAME"):
            values["dilations"] = [1] * rank  # ONNX Runtime pads as if they were
    return each(5, 9), values


@_few
@given(_windows(), st.sampled_from([(4, 4, 1), (4, 6, 2), (4, 4, 4), (3, 5, 1)]), st.booleans())
def test_convolution(window, channels, with_bias):
    extents, values = window
    inputs, outputs, group = channels
    constants = {"w": _normal(outputs, inputs // group, *values["kernel_shape"], seed=1)}
    if with_bias:
        constants["b"] = _normal(outputs, seed=2)
    node = helper.make_node("Conv", ["x", *constants], ["y"], group=group, **values)
    _check(node, {"x": _normal(2, inputs, *extents)}, constants)


@_few
@given(_windows(pooling=True), st.booleans(), st.booleans())
def test_average_pool(window, ceil_mode, count_include_pad):
    extents, values = window
    flags = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad)}
    node = helper.make_node("AveragePool", ["x"], ["y"], **values, **flags)
    _check(node, {"x": _normal(1, 2, *extents)}, opset=19)


@_few
@given(_windows(pooling=True), st.booleans())
def test_max_pool(window, ceil_mode):
    extents, values = window
    node = helper.make_node("MaxPool", ["x"], ["y"], **values, ceil_mode=int(ceil_mode))
    _check(node, {"x": _normal(1, 2, *extents) - 3}, opset=19)


@_few
@given(_windows(), st.sampled_from([(4, 4, 1), (4, 6, 2), (3, 5, 1)]), st.data())
def test_transposed_convolution(window, channels, data):
    extents, values = window
    inputs, outputs, group = channels
    strides, dilations = values["strides"], values["dilations"]
    if "SAME" in values.get("auto_pad", ""):
        # ONNX asks for stride times the input; ONNX Runtime stops short of it without overlap.
        assume(
            all(
                (k - 1) * d + 1 >= s
                for k, s, d in zip(values["kernel_shape"], strides, dilations, strict=False)
            )
        )
    elif data.draw(st.booleans()):
        values["output_padding"] = [
            data.draw(st.integers(0, max(s, d) - 1))
            for s, d in zip(strides, dilations, strict=False)
        ]
    constants = {"w": _normal(inputs, outputs // group, *values["kernel_shape"], seed=1)}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, **values)
    _check(node, {"x": _normal(1, inputs, *extents)}, constants)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[9, 7], [10, 8], [8, 6]])
def test_transposed_convolution_to_a_given_shape(auto_pad, output_shape):
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[3, 2], output_shape=output_shape,
        auto_pad=auto_pad,
    )  # fmt: skip
    _check(node, {"x": _normal(1, 2, 3, 3)}, {"w": _normal(2, 2, 3, 3)})


@_few
@given(st.data(), st.sampled_from(["constant", "reflect", "edge"]))
def test_pad(data, mode):
    shape = data.draw(st.lists(st.integers(3, 6), min_size=2, max_size=4))
    pads = [data.draw(st.integers(-1, 2)) for _ in shape * 2]
    assume(mode == "constant" or min(pads) >= 0)
    node = helper.make_node("Pad", ["x", "pads", "value"], ["y"], mode=mode)
    constants = {"pads": np.array(pads), "value": np.float32(1.5).reshape(())}
    _check(node, {"x": _normal(*shape)}, constants)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalisation(size):
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.7, bias=2.0)
    _check(node, {"x": _normal(2, 7, 3, 4)})


def test_pooling_indices_are_refused():
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], name="pool")
    model = model_of([node], {"x": _normal(1, 1, 4, 4)}, ["y", "i"])
    with pytest.raises(AltError, match=r"MaxPool at pool \(its output Indices"):
        import_model(model)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [0, 1, 1, 0]])
def test_window_larger_than_what_it_sees(include, pads):
    """Without places that it cannot see; tensors of 300 gigabytes would be visited."""
    values = {"kernel_shape": [30_000_000, 3], "strides": [30_000_000, 2], "pads": pads}
    x = {"x": _normal(1, 3, 4, 7)}
    average = {**values, "count_include_pad": include}
    _check(helper.make_node("AveragePool", ["x"], ["y"], ceil_mode=1, **average), x, opset=19)
    _check(helper.make_node("MaxPool", ["x"], ["y"], ceil_mode=1, **values), x)
