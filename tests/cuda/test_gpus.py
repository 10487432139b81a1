"""GPUs as targets: the numbers of an architecture, and what is refused."""

from __future__ import annotations

import json
import zipfile

import pytest
import tvm
from equivalence import array, model, node
from gxx import kernels_of
from small_models import network

import alt
from alt.cuda.code import arch_refusal
from alt.cuda.gpu import device_of, gpu_of
from alt.target import Machine, resolve
from tuner.records import Header

SM_90 = {"kind": "cuda", "arch": "sm_90"}


@pytest.mark.parametrize(
    ("arch", "shared", "cores", "threads"),
    [
        ("sm_70", 96 << 10, 80, 2048),
        ("sm_75", 64 << 10, 40, 1024),
        ("sm_80", 163 << 10, 108, 2048),
        ("sm_89", 99 << 10, 142, 1536),
        ("sm_90a", 227 << 10, 132, 2048),
        ("sm_101", 227 << 10, 148, 2048),  # not listed: like the newest that is older
        ("sm_121", 99 << 10, 170, 1536),
    ],
)
def test_numbers_of_an_architecture(arch, shared, cores, threads):
    gpu = resolve({"kind": "cuda", "arch": arch})
    assert (gpu.most_shared_bytes, gpu.cores, gpu.core_threads) == (shared, cores, threads)
    assert (gpu.shared_bytes, gpu.block_threads, gpu.warp) == (48 << 10, 1024, 32)
    assert gpu.lanes() == 4
    assert str(gpu.target.kind.name) == "cuda"
    assert gpu.kernel_target.host is None


def test_targets_by_tag_and_as_objects():
    assert resolve("nvidia/nvidia-h100").capability == 90
    assert resolve(tvm.target.Target(SM_90)).description == resolve(SM_90).description
    assert isinstance(resolve("llvm"), Machine)


@pytest.mark.skipif(tvm.runtime.cuda(0).exist, reason="here is a GPU")
@pytest.mark.parametrize("target", ["cuda", {"kind": "cuda"}], ids=str)
def test_without_a_device_an_architecture_is_needed(target, capfd):
    with pytest.raises(alt.AltError, match="name an architecture") as caught:
        alt.compile(network(), target)
    assert str(SM_90).replace("'", '"') in str(caught.value)
    assert "Warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kind": "cuda", "arch": "sm_60"}, "too old"),
        ({"kind": "cuda", "arch": "90"}, "not a TVM target"),
        ({"kind": "cuda", "arch": "sm_90x"}, "not an architecture"),
        ({"kind": "cuda", "nonsense": 1}, "not a TVM target"),
        ({"kind": "metal"}, "use 'llvm' or 'cuda'"),
    ],
    ids=str,
)
def test_targets_that_are_none(target, message):
    with pytest.raises(alt.AltError, match=message):
        resolve(target)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize(("arch", "able"), [("sm_70", False), ("sm_75", False), ("sm_80", True)])
def test_precision_as_far_as_the_gpu_can(precision, arch, able):
    gpu = resolve({"kind": "cuda", "arch": arch}, precision=precision)
    assert gpu.precision == (precision if able else "fp32")
    assert gpu.description["precision"] == gpu.precision
    assert gpu.description["asked_precision"] == precision
    assert resolve(SM_90).precision == "fp32"


def test_measurements_of_one_precision_are_not_those_of_another():
    ids = {
        Header(resolve(SM_90, precision=p).description, {}).target_id
        for p in ("fp32", "tf32", "fp16")
    }
    assert len(ids) == 3


@pytest.mark.parametrize("verb", [alt.compile, alt.tune])
def test_precisions_that_are_none(verb):
    with pytest.raises(alt.AltError, match="'bf16' is not known; use 'fp32', 'tf32', 'fp16'"):
        verb(network(), SM_90, precision="bf16")
    with pytest.raises(alt.AltError, match="precision='tf32' is for GPUs, and the target is a CPU"):
        verb(network(), precision="tf32")


def test_options_of_the_other_kind_are_refused(tmp_path):
    with pytest.raises(alt.AltError, match="leave threads out"):
        alt.compile(network(), SM_90, threads=2)
    with pytest.raises(alt.AltError, match="device=0 is for GPUs"):
        alt.compile(network(), device=0)
    with pytest.raises(alt.AltError, match="one of the formats NCHW, NHWC, NCHWc"):
        alt.compile(network(), SM_90, layouts="forward-only")
    with pytest.raises(alt.AltError, match="is for GPUs, and the target is a CPU"):
        alt.tune(network(), trials=1, device=0)
    alt.compile(network()).save(tmp_path / "cpu.alt")
    with pytest.raises(alt.AltError, match="is for a CPU"):
        alt.load(tmp_path / "cpu.alt", device=0)


def test_devices():
    assert [device_of(d).index for d in (None, "cuda", 1, "cuda:3")] == [0, 0, 1, 3]
    for wrong in ("gpu", "cuda:", -1, "1", "cpu"):
        with pytest.raises(alt.AltError, match="device"):
            device_of(wrong)


@pytest.mark.parametrize(
    ("arch", "here", "runs"),
    [
        ("sm_80", 80, True),
        ("sm_80", 89, True),
        ("sm_89", 80, False),
        ("sm_80", 90, False),
        ("sm_90", 80, False),
        ("sm_90a", 90, True),
        ("sm_100a", 103, False),
        ("sm_100f", 103, True),
        ("sm_120", 121, True),
    ],
)
def test_where_machine_code_runs(arch, here, runs):
    refusal = arch_refusal(arch, here)
    assert (refusal is None) == runs
    if refusal is not None:
        assert arch in refusal
        assert f"sm_{here}" in refusal


@pytest.fixture
def without_nvcc(monkeypatch):
    """What nvcc would give; there may be none here."""
    from alt.cuda import assemble, nvcc

    def compile_source(source, arch):
        registers = dict.fromkeys(kernels_of(source), 32)
        return [nvcc.Image(b"cubin", registers, dict.fromkeys(registers, 0))]

    monkeypatch.setattr(assemble, "compile_source", compile_source)


@pytest.mark.cuda_build
def test_a_module_says_what_it_multiplies(without_nvcc, tmp_path):
    x = {"x": array(40, 40)}
    proto = model([node("MatMul", ["x", "w"], "y")], x, ["y"], {"w": array(40, 40)})
    module = alt.compile(proto, SM_90, precision="tf32")
    assert module.runs_on == "GPU 0 (sm_90, tf32)"
    assert module.header["kernels"][0]["schedule"]["precision"] == "tf32"
    path = tmp_path / "m.alt"
    module.save(path)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("alt.json"))["target"]["precision"] == "tf32"
    old = alt.compile(proto, {"kind": "cuda", "arch": "sm_75"}, precision="tf32")
    assert old.runs_on == "GPU 0 (sm_75, fp32 in place of tf32)"
    assert old.header["kernels"][0]["schedule"]["precision"] == "fp32"


@pytest.mark.cuda_build
@pytest.mark.skipif(tvm.runtime.cuda(0).exist, reason="here is a GPU")
def test_compiled_without_a_device_a_module_can_be_saved_and_says_why_it_cannot_run(
    tmp_path, without_nvcc
):
    module = alt.compile(network(), SM_90, device="cuda:1")
    image = array(1, 3, 15, 17)
    for run in (lambda: module(image), module.benchmark, module.time_kernels, module.explain):
        with pytest.raises(alt.AltError, match="no GPU number 1 here"):
            run()
    module.save(tmp_path / "m.alt")
    with pytest.raises(alt.AltError, match="no GPU number 0 here"):
        alt.load(tmp_path / "m.alt")
    with pytest.raises(alt.AltError, match="it is for a GPU"):
        alt.load(tmp_path / "m.alt", threads=1)


def test_a_gpu_says_what_it_is():
    gpu = gpu_of(SM_90)
    assert gpu.description["arch"] == "sm_90"
    assert gpu.description["kind"] == "cuda"
