"""Whole networks on a GPU; `test_without_gpu.py` runs the same where none is."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tvm
from equivalence import array, assert_same, model, node, run_reference
from small_models import arithmetic, network

import alt
from alt.cuda.gpu import gpu_of
from alt.module import random_inputs
from alt.verify import PRECISION_TOLERANCES, verify

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.runtime.cuda(0).exist, reason="there is no GPU that TVM can use"),
]
EMULATED = "ALT_FAKE_SM" in os.environ


def families():
    """A model with an output for each family of kernels, and inputs."""
    inputs = {
        "image": array(2, 6, 19, 23),
        "volume": array(1, 3, 5, 9, 10),
        "rows": array(70, 130),
        "heads": array(2, 3, 24, 16),
        "vector": array(1, 300),
    }
    weights = {
        "conv": array(40, 6, 3, 3, seed=1) / 7,
        "point": array(36, 6, 1, 1, seed=2) / 2,
        "depth": array(6, 1, 3, 3, seed=3) / 3,
        "groups": array(12, 3, 3, 3, seed=4) / 5,
        "cube": array(8, 3, 3, 3, 3, seed=5) / 9,
        "back": array(6, 5, 3, 3, seed=6) / 3,
        "wide": array(130, 140, seed=7) / 11,
        "thin": array(300, 90, seed=8) / 17,
        "scale": array(130, seed=9),
        "shift": array(130, seed=10),
    }
    nodes = [
        node("Conv", "image conv", "c0", strides=[2, 1], pads=[1, 1, 1, 1]),
        node("Relu", "c0", "conv_relu"),
        node("Conv", "image point", "conv_point"),
        node("Conv", "image depth", "conv_depth", group=6, pads=[1, 1, 1, 1]),
        node("Conv", "image groups", "conv_groups", group=2, dilations=[2, 2]),
        node("Conv", "volume cube", "conv_volume", pads=[1] * 6),
        node("ConvTranspose", "image back", "conv_back", strides=[2, 2], output_padding=[1, 0]),
        node("MaxPool", "image", "pooled", kernel_shape=[3, 3], strides=[2, 2]),
        node("GlobalAveragePool", "image", "pooled_all"),
        node("MatMul", "rows wide", "product"),
        node("MatMul", "vector thin", "product_thin"),
        node("Transpose", "heads", "turned", perm=[0, 1, 3, 2]),
        node("MatMul", "heads turned", "scores"),
        node("Softmax", "scores", "weights", axis=-1),
        node("MatMul", "weights heads", "attended"),
        node("LayerNormalization", "rows scale shift", "normal", axis=-1),
        node("Softmax", "rows", "softmax", axis=0),
        node("ReduceMax", "image", "largest", keepdims=0),
        node("Transpose", "image", "moved", perm=[0, 2, 3, 1]),
        node("Gelu", "rows", "gelu"),
        node("Concat", "image conv_depth", "joined", axis=1),
    ]
    outputs = [
        "conv_relu", "conv_point", "conv_depth", "conv_groups", "conv_volume", "conv_back",
        "pooled", "pooled_all", "product", "product_thin", "attended", "normal", "softmax",
        "largest", "moved", "gelu", "joined",
    ]  # fmt: skip
    return model(nodes, inputs, outputs, weights, opset=20), inputs


def test_results_are_those_of_onnx_runtime(module):
    inputs = random_inputs(module.inputs)
    expected = run_reference(network(), inputs)
    for _ in range(2):
        assert_same(module(**inputs), expected, length=200)


def test_integers_scalars_and_inputs_by_position():
    compiled = alt.compile(arithmetic(), "cuda", verify=True)
    inputs = random_inputs(compiled.inputs, seed=1)
    found = compiled(*inputs.values())
    assert_same(found, run_reference(arithmetic(), inputs))
    assert found[2].shape == ()


def test_inputs_are_checked(module):
    with pytest.raises(alt.AltError, match="shape"):
        module(array(1, 3, 15, 16))
    with pytest.raises(alt.AltError, match="dtype"):
        module(array(1, 3, 15, 17).astype(np.float64))


def test_empty_tensors():
    inputs = {"x": np.zeros((0, 3), np.float32), "z": array(2, 3)}
    proto = model([node("Relu", "x", "y"), node("Concat", "y z", "w", axis=0)], inputs, ["w"])
    assert_same(alt.compile(proto, "cuda")(**inputs), run_reference(proto, inputs))


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_less_precision_is_verified_with_its_own_tolerance(precision, monkeypatch):
    x = {"x": array(40, 64)}
    proto = model([node("MatMul", "x w", "y")], x, ["y"], {"w": array(64, 48)})
    compiled = alt.compile(proto, "cuda", precision=precision, verify=True)
    explanation = compiled.explain(repeats=1)
    assert precision in explanation.runs_on
    assert explanation.kernels[0].schedule["precision"] == precision
    monkeypatch.setitem(PRECISION_TOLERANCES, precision, 0.0)
    assert not verify(proto, compiled).ok


def test_devices_by_name_and_number():
    assert alt.compile(arithmetic(), "cuda", device="cuda:0").device.index == 0
    with pytest.raises(alt.AltError, match="means GPU number 99"):
        alt.compile(arithmetic(), "cuda", device=99)

    target = {"kind": "cuda", "arch": gpu_of("cuda").arch}
    beyond = alt.compile(arithmetic(), target, device="cuda:99")
    with pytest.raises(alt.AltError, match="no GPU number 99"):
        beyond(**random_inputs(beyond.inputs))


def test_devices_that_are_not_there_when_loading(saved):
    with pytest.raises(alt.AltError, match="no GPU number 99 here that TVM can use, only"):
        alt.load(saved, device=99)


def test_artifacts(module, tmp_path):
    inputs = random_inputs(module.inputs)
    module.save(tmp_path / "m.alt")
    loaded = alt.load(tmp_path / "m.alt", device=0)
    for a, b in zip(loaded(**inputs), module(**inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.save(tmp_path / "again.alt")
    assert (tmp_path / "again.alt").read_bytes() == (tmp_path / "m.alt").read_bytes()


def test_a_saved_module_does_not_run_what_it_was_saved_from(module, tmp_path):
    """Kernels come from the file, also where nothing was called before saving."""
    fresh = alt.compile(network(), "cuda")
    fresh.save(tmp_path / "m.alt")
    inputs = random_inputs(module.inputs)
    np.testing.assert_array_equal(alt.load(tmp_path / "m.alt")(**inputs)[0], module(**inputs)[0])


def test_times(module):
    times = module.benchmark(repeats=5)
    assert len(times.samples_seconds) >= 5
    kernels = module.time_kernels(repeats=3)
    assert kernels.shape == (3, len(module.header["kernels"]))
    assert (kernels > 0).all()


def test_explanation(module):
    explanation = module.explain(repeats=3)
    assert len(explanation.kernels) == len(module.header["kernels"])
    text = str(explanation)
    assert "GPU 0" in text
    assert "registers" in text


def test_tensors_on_the_device_are_read_in_place_and_stay_there(module):
    inputs = random_inputs(module.inputs)
    placed = tvm.runtime.tensor(inputs["x"], tvm.runtime.cuda(0))
    found = module(placed)
    for a, b in zip(found, module(**inputs), strict=True):
        assert a.device == tvm.runtime.cuda(0)
        np.testing.assert_array_equal(a.numpy(), b)


def test_tensors_of_torch(module):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no GPU")
    image = random_inputs(module.inputs)["x"]
    expected = module(image)
    stream = torch.cuda.Stream()
    for around in (torch.cuda.stream(stream), torch.cuda.stream(torch.cuda.default_stream())):
        with around:
            found = module(torch.from_numpy(image).cuda())
            assert all(t.is_cuda for t in found)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a.cpu().numpy(), b)
    turned = torch.from_numpy(image).cuda().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    np.testing.assert_array_equal(module(turned)[0].cpu().numpy(), expected[0])
    on_host = module(torch.from_numpy(image))
    assert isinstance(on_host[0], torch.Tensor)
    assert not on_host[0].is_cuda


def test_tensors_on_host_and_device_together():
    inputs = {"a": array(5, 7), "b": array(5, 7, seed=1)}
    proto = model([node("Add", "a b", "s"), node("Softmax", "s", "y", axis=-1)], inputs, ["y"])
    compiled = alt.compile(proto, "cuda")
    placed = tvm.runtime.tensor(inputs["b"], tvm.runtime.cuda(0))
    for _ in range(3):
        found = compiled(inputs["a"], placed)
        assert found.device == tvm.runtime.cuda(0)
        assert_same(found.numpy(), run_reference(proto, inputs))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_every_family_of_kernels(precision):
    """One network for each way to make a kernel; the last of its inputs are weights."""
    proto, inputs = families()
    expected = run_reference(proto, inputs)
    compiled = alt.compile(proto, "cuda", precision=precision)
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    for _ in range(2):
        for name, a, b in zip(compiled.outputs, compiled(**inputs), expected, strict=True):
            assert a.shape == b.shape, name
            assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.skipif(not EMULATED, reason="would fill the memory of a GPU that others may use")
def test_running_out_of_memory(saved, monkeypatch):
    compiled = alt.load(saved)
    with monkeypatch.context() as little:
        little.setenv("ALT_FAKE_BYTES", "1000")
        with pytest.raises(alt.AltError, match="MB are free"):
            compiled(**random_inputs(compiled.inputs))
    assert_same(
        compiled(**random_inputs(compiled.inputs)),
        run_reference(network(), random_inputs(compiled.inputs)),
        length=200,
    )


@pytest.mark.skipif(not EMULATED, reason="takes another GPU than the one that is here")
def test_a_gpu_of_another_generation(module, tmp_path, monkeypatch):
    module.save(tmp_path / "m.alt")
    monkeypatch.setenv("ALT_FAKE_SM", "80")
    with pytest.raises(alt.AltError, match=r"sm_90.*sm_80"):
        alt.load(tmp_path / "m.alt")
    assert alt.compile(arithmetic(), "cuda").header["target"]["arch"] == "sm_80"


@pytest.mark.skipif(not EMULATED, reason="needs a driver whose launches fail")
def test_failing_launches_are_said(saved, monkeypatch):
    compiled = alt.load(saved)
    monkeypatch.setenv("ALT_FAKE_FAULT", "1")
    with pytest.raises(alt.AltError, match=r"GPU 0 .* failed: .*CUDA") as caught:
        compiled(**random_inputs(compiled.inputs))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not EMULATED, reason="needs a second GPU")
def test_inputs_on_another_gpu(module, saved):
    elsewhere = tvm.runtime.tensor(random_inputs(module.inputs)["x"], tvm.runtime.cuda(1))
    with pytest.raises(alt.AltError, match=r"is on GPU 1.*device=1"):
        module(elsewhere)
    second = alt.load(saved, device="cuda:1")
    for _ in range(3):
        (found, *_) = second(elsewhere)
        assert found.device == tvm.runtime.cuda(1)
        np.testing.assert_array_equal(found.numpy(), module(**random_inputs(module.inputs))[0])
