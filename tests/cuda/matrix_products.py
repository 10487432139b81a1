"""Networks of matrix products for a GPU that multiplies with some precision, and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from emulated import Emulation, planned
from onnx import TensorProto, helper, numpy_helper

from alt.compiler import Fused, fused
from alt.cuda.gpu import Gpu, gpu_of
from alt.cuda.lower import Lowered
from alt.cuda.nvcc import compile_source

PRECISIONS = ("fp32", "tf32", "fp16")
Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]

SHAPES: Shapes = [
    ((64, 32), (32, 64)),
    ((33, 17), (17, 50)),
    ((130, 20), (20, 140)),
    ((9, 3), (3, 1000)),
    ((100, 1), (1, 30)),
    ((3, 40, 20), (3, 20, 36)),
    ((2, 1, 12, 24), (3, 24, 10)),
    ((4, 3, 8), (8, 12)),
    ((12, 16), (2, 16, 20)),
    ((1, 70, 9), (5, 9, 11)),
    ((3, 25, 16), (1, 16, 20)),
    ((2, 1, 30, 16), (1, 1, 16, 20)),
]
"""Of which none has few rows or columns."""

THIN: Shapes = [
    ((1, 3), (3, 5)),
    ((1, 1), (1, 1)),
    ((1, 512), (512, 1000)),
    ((8, 300), (300, 40)),
    ((5, 77), (77, 131)),
    ((40, 64), (64, 1)),
    ((40, 7), (7, 3)),
    ((3, 1, 33), (3, 33, 20)),
    ((2, 4, 16), (1, 16, 20)),
    ((5,), (1, 1, 5, 7)),
    ((3,), (3, 5)),
    ((2, 4, 6), (6,)),
    ((9,), (9,)),
]


def gpu(precision: str, arch: str = "sm_90") -> Gpu:
    """A GPU that multiplies with some precision."""
    return gpu_of({"kind": "cuda", "arch": arch}, precision)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, Sequence[int]],
    precision: str,
    weights: Mapping[str, np.ndarray] | None = None,
    arch: str = "sm_90",
) -> Fused:
    """A network of float32, fused."""
    graph = helper.make_graph(
        list(nodes),
        "products",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return fused(model, {"kind": "cuda", "arch": arch}, precision=precision)


def products(
    shapes: Shapes, precision: str, arch: str = "sm_90", constant: str = ""
) -> tuple[Fused, list[np.ndarray]]:
    """Independent products in one network, and all their factors: a0, b0, a1, b1, ...

    `constant` says whether all a or all b are part of the network.
    """
    factors: dict[str, np.ndarray] = {}
    outputs: dict[str, Sequence[int]] = {}
    nodes = []
    for k, (a, b) in enumerate(shapes):
        factors[f"a{k}"], factors[f"b{k}"] = random(*a, seed=2 * k), random(*b, seed=2 * k + 1)
        outputs[f"y{k}"] = np.matmul(np.zeros(a, bool), np.zeros(b, bool)).shape
        nodes.append(helper.make_node("MatMul", [f"a{k}", f"b{k}"], [f"y{k}"]))
    weights = {n: f for n, f in factors.items() if n[0] == constant}
    inputs = {n: f for n, f in factors.items() if n[0] != constant}
    return network(nodes, inputs, outputs, precision, weights, arch), list(factors.values())


def results_of(made: Fused, factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`results` for `products`."""
    names = [name for name, *_ in made.imported.inputs]
    return results(made, [factors[2 * int(n[1:]) + (n[0] == "b")] for n in names])


def results(made: Fused, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the kernels compute, whichever thread is first."""
    emulation = Emulation(planned(made))
    found, again = emulation(inputs), emulation(inputs, backwards=True)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return found


def as_multiplied(x: np.ndarray, precision: str) -> np.ndarray:
    """The numbers that are multiplied in place of some."""
    if precision == "fp16":
        return x.astype(np.float16).astype(np.float64)
    if precision == "tf32":
        bits = x.view(np.uint32)
        bits = bits + np.uint32((1 << 12) - 1) + (bits >> np.uint32(13) & np.uint32(1))
        return (bits & ~np.uint32((1 << 13) - 1)).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def check(found: np.ndarray, a: np.ndarray, b: np.ndarray, precision: str) -> None:
    """That sums are those of rounded factors, up to rounding to float32 at each of their terms."""
    left, right = as_multiplied(a, precision), as_multiplied(b, precision)
    most = (a.shape[-1] + 2) * 2.0**-23 * (np.abs(left) @ np.abs(right))
    error = np.abs(found - left @ right)
    assert (error <= most).all(), f"{a.shape} x {b.shape}: {error.max()}"
    scale = np.abs(a @ b).max()
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    assert np.abs(found - a.astype(np.float64) @ b).max() <= tolerance * scale


def check_all(made: Fused, factors: Sequence[np.ndarray], precision: str) -> None:
    """`check` for `products`."""
    for k, found in enumerate(results_of(made, factors)):
        check(found, factors[2 * k], factors[2 * k + 1], precision)


def check_compiled(made: Fused, precision: str, arch: str) -> None:
    """That nvcc keeps all that threads have in registers, and those of a block fit."""
    program = planned(made)
    assert isinstance(program.library, Lowered)
    for image in compile_source(program.library.source, arch):
        assert not any(image.spilled_bytes.values()), image.spilled_bytes
        for name, registers in image.registers.items():
            threads = np.prod(program.library.launches[name].shape.block)
            assert registers * threads <= gpu(precision, arch).core_registers
