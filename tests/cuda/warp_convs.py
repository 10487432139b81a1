"""Networks of convolutions for tensor cores, and what is right, by NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx
from conv_models import Case, output_shape
from emulated import SM_90, Emulation, completed, planned
from matrix_products import as_multiplied, gpu, random
from onnx import TensorProto, helper, numpy_helper

from alt.build import Program
from alt.compiler import Fused, fused
from alt.decisions import decided
from tuner.config import Config

ON_TENSOR_CORES = Config({"units": "tensor cores"})


def network_of_all(cases: Sequence[Case], precision: str, arch: str = "sm_90") -> Fused:
    """Independent convolutions in one network, which a GPU with some precision computes."""
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, tuple[int, ...]] = {}
    weights: dict[str, np.ndarray] = {}
    for k, case in enumerate(cases):
        found = numbers_of(k, case)
        inputs[f"x{k}"], weights[f"w{k}"] = case.x, found["w"]
        given = [f"x{k}", f"w{k}"]
        if "bias" in case.fuse:
            weights[f"b{k}"] = found["b"]
            given.append(f"b{k}")
        nodes.append(helper.make_node(case.op, given, [f"s{k}"], **case.attributes))
        outputs[f"y{k}"] = output_shape(case)
        if "add" in case.fuse:
            inputs[f"r{k}"] = outputs[f"y{k}"]
            nodes.append(helper.make_node("Add", [f"s{k}", f"r{k}"], [f"a{k}"]))
        if "relu" in case.fuse:
            nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], [f"m{k}"]))
        nodes[-1].output[0] = f"y{k}"
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return replace(fused(model, SM_90), machine=gpu(precision, arch))


def numbers_of(number: int, case: Case) -> dict[str, np.ndarray]:
    """Input, weights, bias and what is added, for the case of some number."""
    groups = case.attributes.get("group", 1)
    outputs = case.w[0] if case.op == "Conv" else case.w[1] * groups
    shapes = {"x": case.x, "w": case.w, "b": (outputs,), "r": output_shape(case)}
    return {name: random(*s, seed=4 * number + k) for k, (name, s) in enumerate(shapes.items())}


def with_decisions(network: Fused, loops: Callable[[int], Config]) -> Program:
    """The program, with answers for the convolution of each number."""
    kernels = []
    for kernel in network.kernels:
        assert kernel.anchor is not None
        number = int(kernel.anchor.inputs[0].name[1:])
        answers = completed(network, kernel, loops(number))
        kernels.append(decided(kernel, Config({}), answers))
    return planned(replace(network, kernels=kernels))


def check_all(network: Fused, program: Program, cases: Sequence[Case], precision: str) -> None:
    """That all results are those of rounded factors, whichever thread is first."""
    numbers = [numbers_of(k, case) for k, case in enumerate(cases)]
    given = [numbers[int(name[1:])][name[0]] for name, *_ in network.imported.inputs]
    for k, (case, result) in enumerate(zip(cases, results_of(program, given), strict=True)):
        check(result, case, numbers[k], precision)


def results_of(program: Program, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the kernels compute, whichever thread is first."""
    emulation = Emulation(program)
    found, again = emulation(inputs), emulation(inputs, backwards=True)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return found


def check(found: np.ndarray, case: Case, numbers: Mapping[str, np.ndarray], precision: str) -> None:
    """That sums are those of rounded factors, up to rounding to float32 at each of their terms."""
    x, w = (as_multiplied(numbers[name], precision) for name in ("x", "w"))
    terms = w[0].size if case.op == "Conv" else w[:, 0].size
    want, size = convolved(case, x, w), convolved(case, abs(x), abs(w))
    exact = convolved(case, *(numbers[n].astype(np.float64) for n in ("x", "w")))
    for name, added in (("bias", "b"), ("add", "r")):
        if name in case.fuse:
            array = numbers[added].astype(np.float64)
            array = array.reshape(-1, *[1] * (x.ndim - 2)) if name == "bias" else array
            want, size, exact = want + array, size + abs(array), exact + array
    if "relu" in case.fuse:
        want, exact = np.maximum(want, 0), np.maximum(exact, 0)
    assert found.shape == want.shape
    error = abs(found - want)
    assert (error <= (terms + 4) * 2.0**-23 * size).all(), f"{case}: {error.max()}"
    assert abs(found - exact).max() <= 1e-2 * size.max()


def convolved(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution alone, by its definition: a product of matrices for each tap."""
    rank = x.ndim - 2
    attributes: Mapping[str, Any] = case.attributes
    groups = attributes.get("group", 1)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * (2 * rank))
    shape = output_shape(case)
    channels = x.shape[1] // groups
    made = np.zeros(shape)
    outputs = shape[1] // groups
    for tap in product(*map(range, w.shape[2:])):
        at = [t * d - p for t, d, p in zip(tap, dilations, pads, strict=False)]
        for g in range(groups):
            ins, outs = (slice(g * n, (g + 1) * n) for n in (channels, outputs))
            if case.op == "Conv":
                weight = w[(outs, slice(None), *tap)]
                for o, i in _pairs(shape[2:], x.shape[2:], strides, at):
                    read = x[(slice(None), ins, *i)]
                    made[(slice(None), outs, *o)] += np.einsum("oc,nc...->no...", weight, read)
            else:
                weight = w[(ins, slice(None), *tap)]
                for i, o in _pairs(x.shape[2:], shape[2:], strides, at):
                    read = x[(slice(None), ins, *i)]
                    made[(slice(None), outs, *o)] += np.einsum("co,nc...->no...", weight, read)
    return made


def _pairs(
    extents: Sequence[int], others: Sequence[int], strides: Sequence[int], at: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Places q and q * stride + at, of those that both exist: one pair of boxes, or none."""
    mine: list[slice] = []
    theirs: list[slice] = []
    for extent, other, stride, first in zip(extents, others, strides, at, strict=True):
        here = [q for q in range(extent) if 0 <= q * stride + first < other]
        if not here:
            return
        start = here[0] * stride + first
        mine.append(slice(here[0], here[-1] + 1))
        theirs.append(slice(start, start + (here[-1] - here[0]) * stride + 1, stride))
    yield tuple(mine), tuple(theirs)
