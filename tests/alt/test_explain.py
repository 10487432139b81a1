"""`explain`: every kernel, what is said of it, and where that comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper
from small_models import arithmetic, model_of, network, random

import alt
from alt.explain import explain
from alt.memory import aligned_empty
from alt.peak import peak_flops
from primitives import Layout

pytestmark = pytest.mark.llvm


@pytest.fixture(scope="module")
def module():
    return alt.compile(network())


@pytest.fixture(scope="module")
def explanation(module):
    return explain(module, repeats=3)


def test_every_kernel_is_measured(module, explanation):
    assert len(explanation.kernels) == len(module.header["kernels"])
    assert all(k.seconds > 0 for k in explanation.kernels)
    assert explanation.whole_seconds > 0
    assert explanation.threads == module.threads


def test_anchors_and_work_are_those_of_the_network(explanation):
    convolutions = [k for k in explanation.kernels if k.anchor and k.anchor.startswith("conv")]
    assert [k.output.shape for k in convolutions] == [(1, 20, 15, 17), (1, 24, 8, 9)]
    work = [round(k.flops * k.seconds) for k in convolutions]
    assert work == [2 * 20 * 15 * 17 * 27, 2 * 24 * 8 * 9 * 180]
    (product,) = [k for k in explanation.kernels if k.anchor and "matmul" in k.anchor]
    assert round(product.flops * product.seconds) == 2 * 10 * 24
    for k in explanation.kernels:
        assert (k.peak is None) == (k.flops is None)
        if k.flops is not None:
            assert k.peak == pytest.approx(k.flops / explanation.peak_flops)


def test_schedules_are_reported(explanation):
    for k in explanation.kernels:
        if k.flops is not None:
            assert len(k.schedule["tile"]) == 3
            assert min(k.schedule["tile"]) >= 1


def test_layouts_parse_back_and_fit_their_tensors(explanation):
    for k in explanation.kernels:
        assert Layout.parse(k.output.layout).logical_shape == k.output.shape
        for t in k.inputs:
            stored = Layout.parse(t.layout)
            assert np.prod(stored.logical_shape) >= np.prod(t.shape)


def test_conversions_are_listed_with_a_reason(explanation):
    assert explanation.conversions
    for k in explanation.conversions:
        assert k.conversion in str(explanation)
        assert k.flops is None
    spent = sum(k.seconds for k in explanation.conversions)
    assert explanation.to_dict()["conversion_seconds"] == spent


def test_work_of_transposed_and_grouped_convolutions():
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w0"], ["a"], "up", strides=[2, 2]),
        helper.make_node("Conv", ["a", "w1"], ["y"], "grouped", group=2),
    ]
    weights = {"w0": random(3, 8, 2, 2), "w1": random(16, 4, 3, 3)}
    model = model_of(
        nodes,
        {"x": (TensorProto.FLOAT, [1, 3, 5, 5])},
        {"y": (TensorProto.FLOAT, [1, 16, 8, 8])},
        weights,
    )
    work = [k["operations"] for k in alt.compile(model).header["kernels"] if k["operations"]]
    assert work == [2 * (3 * 25) * (8 * 4), 2 * (16 * 64) * (4 * 9)]


def test_people_and_machines_read_the_same(explanation):
    data = json.loads(json.dumps(explanation.to_dict()))
    lines = str(explanation).splitlines()
    assert len(data["kernels"]) == len(explanation.kernels)
    assert data["peak_flops"] == explanation.peak_flops
    for number, (row, k) in enumerate(zip(lines[1:], data["kernels"], strict=False)):
        assert row.split()[0] == str(number)
        assert row.split()[1] == (k["name"] if k["conversion"] is None else "conversion")


def test_artifacts_are_explained_too(module, explanation, tmp_path):
    module.save(tmp_path / "m.alt")
    found = alt.load(tmp_path / "m.alt").explain()
    for a, b in zip(found.kernels, explanation.kernels, strict=True):
        assert (a.name, a.output, a.inputs) == (b.name, b.output, b.inputs)
        assert (dict(a.schedule), a.conversion) == (dict(b.schedule), b.conversion)


def test_what_is_timed_is_the_network(module):
    x = random(1, 3, 15, 17)
    expected = module(x)
    kernels = len(module.header["kernels"])
    assert module.time_kernels(2, {"x": x}).shape == (2, kernels)
    tensors = module.bound({"x": x})
    stamps = aligned_empty(16 * (kernels + 1)).view("int64")
    module.library["profile"](*tensors, tvm.runtime.from_dlpack(stamps))
    for tensor, array in zip(tensors[1:], expected, strict=False):
        np.testing.assert_array_equal(tensor.numpy().reshape(array.shape), array)
    seconds = stamps.reshape(-1, 2) @ [1, 1e-9]
    assert (np.diff(seconds) >= 0).all()
    assert seconds[-1] > seconds[0]


def test_kernels_without_work_have_no_share_of_the_peak():
    found = explain(alt.compile(arithmetic()), repeats=1)
    assert {k.peak for k in found.kernels} == {None}
    assert str(found)


def test_the_peak_is_plausible(module):
    """A kernel that LLVM optimised away would show as an absurd peak."""
    target = module.header["target"]
    one = peak_flops(target["target"], target["vector_bytes"] // 4, target["registers"], 1)
    assert 1e9 < one < 1e12
