"""Networks of one convolution, what they should give, and kernels with chosen loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime
from emulated import Emulation, completed, planned
from onnx import TensorProto, helper, numpy_helper

from alt.build import Program
from alt.compiler import Fused, fused
from alt.decisions import decided
from alt.graph import Value
from alt.kernels import Kernel
from alt.sketches import scope_of, sketch_for
from primitives import Layout
from tuner.choices import Choose
from tuner.config import Config
from tuner.space import Space


@dataclass(frozen=True)
class Case:
    """A convolution.

    Attributes:
        x: shape of the input.
        w: shape of the weights.
        attributes: as ONNX has them.
        fuse: what follows: `relu`, `add` (a tensor of the output's shape), `bias`.
        op: `Conv` or `ConvTranspose`.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fuse: tuple[str, ...] = ("bias",)
    op: str = "Conv"

    def __str__(self) -> str:
        """Its shapes, for the name of the test."""
        shapes = ["x".join(map(str, s)) for s in (self.x, self.w)]
        said = [f"{k}{v}" for k, v in self.attributes.items()]
        return " ".join([self.op, *shapes, *said, *self.fuse]).replace(" ", "_")


def model_of(case: Case) -> onnx.ModelProto:
    """The network: input `x`, output `y`; `r` is what is added."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal(case.w).astype(np.float32)
    groups = case.attributes.get("group", 1)
    outputs = case.w[0] if case.op == "Conv" else case.w[1] * groups
    weights = {"w": weight}
    if "bias" in case.fuse:
        weights["b"] = rng.standard_normal(outputs).astype(np.float32)
    nodes = [helper.make_node(case.op, ["x", *weights], ["t0"], **case.attributes)]
    values = {"x": case.x}
    if "add" in case.fuse:
        nodes.append(helper.make_node("Add", [nodes[-1].output[0], "r"], ["t1"]))
        values["r"] = output_shape(case)
    if "relu" in case.fuse:
        nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["t2"]))
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def output_shape(case: Case) -> tuple[int, ...]:
    """What shape inference says, of the convolution alone."""
    inferred = onnx.shape_inference.infer_shapes(model_of(replace(case, fuse=())))
    (output,) = inferred.graph.output
    return tuple(d.dim_value for d in output.type.tensor_type.shape.dim)


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Seeded numbers for every input."""
    rng = np.random.default_rng(11)
    found: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        found[value.name] = rng.standard_normal(shape).astype(np.float32)
    return found


def reference(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime says."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, dict(inputs))[0])


def assert_close(found: np.ndarray, expected: np.ndarray, case: Case) -> None:
    """Sums of float32 in another order: the error grows with the root of their length."""
    length = prod(case.w[1:]) if case.op == "Conv" else case.w[0] * prod(case.w[2:])
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    assert found.shape == expected.shape
    worst = float(np.abs(found - expected).max(initial=0.0))
    assert worst <= 1e-6 * scale * (1 + length**0.5), (worst, scale)


def conv_kernel(network: Fused) -> Kernel:
    """The only kernel with an anchor."""
    (found,) = [k for k in network.kernels if k.anchor is not None]
    return found


def loops_of(network: Fused, layouts: Mapping[Value, Layout] | None = None) -> Space:
    """What its sketch leaves open, as the tuner asks it, where tensors are stored like this."""
    kernel = conv_kernel(network)

    def ask(choose: Choose) -> None:
        constants = network.graph.constants
        scope = scope_of(kernel, layouts or {}, constants, network.machine, choose, asking=True)
        sketch_for(scope)(scope)

    return Space(ask)


def with_loops(network: Fused, loops: Config) -> Program:
    """The program with answers for the convolution."""
    kernels = [
        decided(k, Config({}), completed(network, k, loops)) if k.anchor is not None else k
        for k in network.kernels
    ]
    return planned(replace(network, kernels=kernels))


def run_both_ways(program: Program, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The output, after a run with threads and blocks from the last to the first: no race."""
    emulation = Emulation(program)
    (found,) = emulation(arrays)
    found = found.copy()
    (again,) = emulation(arrays, backwards=True)
    np.testing.assert_array_equal(found, again)
    return found


def network_of(case: Case, arch: str = "sm_90") -> Fused:
    """The network, ready for a GPU."""
    return fused(model_of(case), {"kind": "cuda", "arch": arch})
