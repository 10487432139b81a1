"""Writes an ONNX graph one node at a time, with seeded weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


class GraphBuilder:
    """Collects nodes and initializers; every method that adds a node returns its output's name.

    Example:
        >>> b = GraphBuilder("affine", seed=0)
        >>> x = b.input("x", (2, 8))
        >>> y = b.op("Relu", b.linear(x, 8, 4))
        >>> [len(node.input) for node in b.model({y: (2, 4)}).graph.node]
        [2, 2, 1]
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, shape: Sequence[int], elem_type: int = TensorProto.FLOAT) -> str:
        """Declare a graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, elem_type, list(shape)))
        return name

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, named `output` or after its position."""
        output = output or f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(
                op_type, list(inputs), [output], name=f"{output}/{op_type}", **attributes
            )
        )
        return output

    def weight(self, values: NDArray[Any], name: str | None = None) -> str:
        """Store `values` as an initializer."""
        name = name or f"weight_{len(self._initializers)}"
        self._initializers[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Store a small constant; equal ones share an initializer."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(values, f"constant_{len(self._constants)}")
        return self._constants[key]

    def scalar(self, value: float) -> str:
        """A float32 scalar constant."""
        return self.constant(np.asarray(value, np.float32))

    def normal(self, shape: Sequence[int], std: float, name: str | None = None) -> str:
        """A float32 weight drawn from a normal distribution of mean zero."""
        values = self.rng.standard_normal(tuple(shape), dtype=np.float32)
        return self.weight(values * np.float32(std), name)

    def linear(self, x: str, inputs: int, outputs: int, *, gain: float = 1.0) -> str:
        """`x @ W + b` over the last axis, spelled MatMul and Add as exporters do for 3-D inputs."""
        w = self.normal((inputs, outputs), math.sqrt(gain / inputs))
        return self.op("Add", self.normal((outputs,), 0.1), self.op("MatMul", x, w))

    def gemm(self, x: str, inputs: int, outputs: int, output: str | None = None) -> str:
        """`x @ W.T + b` for a matrix `x`."""
        w = self.normal((outputs, inputs), math.sqrt(1.0 / inputs))
        bias = self.normal((outputs,), 0.1)
        return self.op("Gemm", x, w, bias, output=output, alpha=1.0, beta=1.0, transB=1)

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        pad: Sequence[int],
        *,
        group: int = 1,
        gain: float = 2.0,
    ) -> str:
        """A convolution without bias whose weights keep the variance of its input.

        Args:
            gain: output variance over input second moment; 2 undoes a preceding ReLU.
        """
        fan_in = inputs // group * math.prod(kernel)
        w = self.normal((outputs, inputs // group, *kernel), math.sqrt(gain / fan_in))
        return self.op(
            "Conv",
            x,
            w,
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=[*pad, *pad],
            dilations=[1] * len(kernel),
            group=group,
        )

    def batch_norm(self, x: str, channels: int, *, gain: float = 1.0) -> str:
        """Inference batch norm: no statistic trivial, deviations scaled by `gain`."""
        variance = self.rng.uniform(0.5, 1.5, channels)
        scale = gain * np.sqrt(variance) * self.rng.uniform(0.8, 1.2, channels)
        bias, mean = (self.rng.normal(0.0, 0.1, channels) for _ in range(2))
        statistics = [self.weight(v.astype(np.float32)) for v in (scale, bias, mean, variance)]
        return self.op("BatchNormalization", x, *statistics, epsilon=1e-5, momentum=0.9)

    def model(self, outputs: dict[str, Sequence[int]]) -> onnx.ModelProto:
        """The finished model; `outputs` maps float32 output names to shapes."""
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in outputs.items()
        ]
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, infos, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="benchmarks"
        )
