"""Whole networks on a GPU; `test_without_gpu.py` runs the same where none is."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tvm
from equivalence import array, assert_same, model, node, run_reference
from small_models import arithmetic, network

import alt
from alt.module import random_inputs
from alt.verify import PRECISION_TOLERANCES, verify

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.runtime.cuda(0).exist, reason="there is no GPU that TVM can use"),
]
EMULATED = "ALT_FAKE_SM" in os.environ


@pytest.fixture(scope="module")
def module():
    return alt.compile(network(), "cuda")


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
    for device in (0, "cuda", "cuda:0"):
        assert alt.compile(arithmetic(), "cuda", device=device).device.index == 0
    beyond = alt.compile(arithmetic(), "cuda", device=99)
    with pytest.raises(alt.AltError, match="no GPU number 99"):
        beyond(**random_inputs(beyond.inputs))


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


@pytest.mark.skipif(not EMULATED, reason="would fill the memory of a GPU that others may use")
def test_running_out_of_memory(monkeypatch):
    compiled = alt.compile(network(), "cuda")
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
