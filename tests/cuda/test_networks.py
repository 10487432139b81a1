"""Whole networks for a GPU: every kernel is legal, nvcc compiles it, the numbers are right."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from emulated import Emulation, needs_gxx, planned

import alt
from alt.compiler import fused
from alt.cuda.gpu import PRECISIONS
from alt.cuda.nvcc import compile_source
from alt.verify import relative_error, run_reference, tolerance_of
from benchmarks.cuda_offline import cases_of, compiled_alone
from benchmarks.networks import (
    NETWORKS,
    bert_tiny,
    inputs_for,
    light_names,
    mobilenet_v2,
    resnet3d18,
    resnet18,
)

pytestmark = pytest.mark.cuda_build
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

SMALL = {
    "resnet18": lambda: resnet18(size=32),
    "mobilenet_v2": lambda: mobilenet_v2(size=32),
    "bert_tiny": lambda: bert_tiny(batch=2, tokens=9),
    "resnet3d18": lambda: resnet3d18(frames=2, size=16),
}


def target(arch: str) -> dict[str, str]:
    return {"kind": "cuda", "arch": arch}


def case(name: str, precision: str) -> Any:
    """Slow unless it is the one network of the precision that every change is tested with."""
    quick = precision == "fp32" or name == "bert_tiny"
    return pytest.param(name, precision, marks=() if quick else pytest.mark.slow)


@needs_gxx
@pytest.mark.parametrize(("name", "precision"), [case(n, p) for p in PRECISIONS for n in SMALL])
def test_small_networks_compute_what_onnx_runtime_does(name, precision):
    proto = SMALL[name]()
    inputs = inputs_for(proto)
    network = fused(proto, target("sm_90"), precision=precision)
    program = planned(network)
    found = Emulation(program)([inputs[n] for n, *_ in network.imported.inputs])
    _, expected = run_reference(proto, inputs)
    error = max(map(relative_error, found, expected))
    assert error < tolerance_of("float32", precision)
    multiplied = {step.notes.get("precision") for step in program.steps}
    assert (precision in multiplied) or name != "bert_tiny"
    if precision != "fp32" and precision in multiplied:
        assert error > 1e-6, "nothing was rounded"


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*NETWORKS, *light_names()])
def test_the_networks_of_the_benchmarks_compile(name, precision):
    (network,) = cases_of([name], [precision])
    outcome = compiled_alone(network, "sm_90")
    assert not outcome.problem
    assert outcome.compiled.kernels > 0


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", SMALL)
def test_nvcc_compiles_small_networks(name, arch):
    program = planned(fused(SMALL[name](), target(arch)))
    images = compile_source(program.library.source, arch)
    registers = {k: v for image in images for k, v in image.registers.items()}
    assert set(registers) == set(program.library.launches)
    for kernel, launch in program.library.launches.items():
        # What a block takes has to fit into a multiprocessor, or it is never launched.
        assert registers[kernel] * np.prod(launch.shape.block) <= 1 << 16, kernel
    assert all(image.code[1:4] == b"ELF" for image in images)


def test_without_nvcc_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(alt.AltError, match="needs nvcc"):
        compile_source("", "sm_90")


@needs_nvcc
def test_what_nvcc_refuses_is_said_on_one_line():
    source = 'extern "C" __global__ void k(float* x) { x[0] = nonsense; }\n'
    with pytest.raises(alt.AltError, match="nonsense") as caught:
        compile_source(source, "sm_90")
    assert "\n" not in str(caught.value)
    with pytest.raises(alt.AltError, match="sm_20"):
        compile_source('extern "C" __global__ void k(float* x) { x[0] = 1; }\n', "sm_20")
