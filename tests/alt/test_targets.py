"""Other CPUs: code for them compiles, and runs where this machine can run it."""

from __future__ import annotations

import platform

import pytest
from equivalence import array, assert_same, model, node, run_reference

import alt
from alt.target import resolve

pytestmark = pytest.mark.llvm

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}


def network():
    """One of each family: stem, pointwise, depthwise, 3x3, pool, matmul, softmax."""
    weights = {
        "w0": array(24, 3, 3, 3),
        "w1": array(40, 24, 1, 1),
        "w2": array(40, 1, 3, 3),
        "w3": array(32, 40, 3, 3) * 0.1,
        "w4": array(32, 21),
    }
    nodes = [
        node("Conv", "x w0", "a", strides=[2, 2], pads=[1] * 4),
        node("Relu", "a", "b"),
        node("Conv", "b w1", "c"),
        node("Conv", "c w2", "d", pads=[1] * 4, group=40),
        node("Conv", "d w3", "e", pads=[1] * 4),
        node("MaxPool", "e", "f", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "f", "g"),
        node("Flatten", "g", "h"),
        node("MatMul", "h w4", "i"),
        node("Softmax", "i", "y", axis=-1),
    ]
    inputs = {"x": array(2, 3, 33, 30)}
    return model(nodes, inputs, ["y"], weights), inputs


@pytest.mark.parametrize(
    ("target", "lanes", "registers"),
    [
        ({"kind": "llvm", "mcpu": "x86-64"}, 4, 16),
        ({"kind": "llvm", "mcpu": "x86-64-v3"}, 8, 16),
        ({"kind": "llvm", "mcpu": "x86-64-v4"}, 16, 32),
        (ARM, 4, 32),
    ],
)
def test_numbers_of_a_target(target, lanes, registers):
    if not X86 and target is not ARM:
        pytest.skip("names x86-64 CPUs without a triple")
    machine = resolve(target, 2)
    assert (machine.lanes(), machine.registers, machine.cores) == (lanes, registers, 2)


@pytest.mark.skipif(not X86, reason="x86-64 code runs on x86-64 only")
@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v3"])
def test_runs_code_for_lesser_cpus(cpu):
    proto, inputs = network()
    module = alt.compile(proto, {"kind": "llvm", "mcpu": cpu})
    assert_same(module(**inputs), run_reference(proto, inputs), length=500)


def test_compiles_for_arm():
    proto, inputs = network()
    module = alt.compile(proto, ARM)
    if platform.machine() not in ("aarch64", "arm64"):
        with pytest.raises(alt.AltError, match="aarch64"):
            module(**inputs)


def test_one_thread_and_two_agree():
    proto, inputs = network()
    results = [alt.compile(proto, threads=n)(**inputs) for n in (1, 2)]
    assert_same(results[0], [results[1]], length=1)
