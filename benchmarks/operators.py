"""The convolutions and products of a network, one by one: as ONNX, and as Relax makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from alt.errors import AltError
from alt.tasks import KernelTask

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Operator:
    """A convolution or a matrix product with constant weights, then a bias and a ReLU.

    Attributes:
        x: shape of the input: N C spatial..., or anything times K.
        w: shape of the weights: O C/groups kernel..., or K x N.
        pads: before and after each spatial axis; empty for products, like the next two.
        count: how often it occurs in the network.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    count: int = 1

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product."""
        return not self.strides

    @property
    def name(self) -> str:
        """For tables."""
        x, w = ("x".join(map(str, shape)) for shape in (self.x, self.w))
        if self.is_product:
            return f"matmul {x} {w}"
        extra = f" /{self.strides[-1]}" if max(self.strides) > 1 else ""
        return f"conv {x} {w}{extra}" + (f" g{self.groups}" if self.groups > 1 else "")

    def arrays(self, seed: int) -> tuple[Array, Array, Array]:
        """Seeded input, weights and bias."""
        rng = np.random.default_rng(seed)
        channels = self.w[-1] if self.is_product else self.w[0]
        bias = (channels,) if self.is_product else (channels, *[1] * (len(self.w) - 2))
        x, w, b = (rng.standard_normal(s, dtype=np.float32) for s in (self.x, self.w, bias))
        depth = self.w[0] if self.is_product else prod(self.w[1:])
        return x, w / np.float32(np.sqrt(depth)), b

    def model(self, seed: int) -> onnx.ModelProto:
        """The same as ONNX, weights included."""
        _, w, b = self.arrays(seed)
        if self.is_product:
            first = helper.make_node("MatMul", ["x", "w"], ["y0"])
        else:
            pads = [lo for lo, _ in self.pads] + [hi for _, hi in self.pads]
            first = helper.make_node(
                "Conv", ["x", "w"], ["y0"], strides=self.strides, pads=pads,
                dilations=self.dilations, group=self.groups,
            )  # fmt: skip
        nodes = [
            first,
            helper.make_node("Add", ["y0", "b"], ["y1"]),
            helper.make_node("Relu", ["y1"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "operator",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return onnx.shape_inference.infer_shapes(made)

    def function(self) -> Any:
        """What Relax makes of it: a TensorIR function of x, w, b and y; w may be laid out anew."""
        x, w, b = (
            relax.Var(name, relax.TensorType(a.shape, "float32"))
            for name, a in zip("xwb", self.arrays(0), strict=True)
        )
        build = relax.BlockBuilder()
        with build.function("main", [x, w, b]):
            with build.dataflow():
                total = build.emit(relax.op.add(build.emit(self._anchor(x, w)), b))
                result = build.emit_output(relax.op.nn.relu(total))
            build.emit_func_output(result)
        fuse = tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
            ]
        )
        functions = [f for _, f in fuse(build.get()).functions_items() if not is_relax(f)]
        if len(functions) != 1:
            raise AltError(f"{self.name}: Relax makes {len(functions)} functions of it, not one")
        return functions[0].with_attrs({"global_symbol": "main", "layout_free_buffers": [1]})

    def _anchor(self, x: Any, w: Any) -> Any:
        if self.is_product:
            return relax.op.matmul(x, w)
        rank = len(self.strides)
        kinds = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
        return kinds[rank](
            x,
            w,
            strides=self.strides,
            padding=[lo for lo, _ in self.pads] + [hi for _, hi in self.pads],
            dilation=self.dilations,
            groups=self.groups,
        )


def is_relax(function: Any) -> bool:
    """Whether a function of a module is one of Relax, and not of TensorIR."""
    return isinstance(function, relax.Function)


def operators_of(tasks: Iterable[KernelTask]) -> list[Operator]:
    """The convolutions and products of a network's tasks, each shape once."""
    found: dict[Operator, int] = {}
    for task in tasks:
        anchor = task.kernel.anchor
        assert anchor is not None
        if len(anchor.inputs) < 2 or anchor.inputs[1] not in task.constants:
            continue
        x, w = (tuple(v.shape) for v in anchor.inputs[:2])
        a = anchor.attrs
        if anchor.op == "conv":
            pads = tuple((lo, hi) for lo, hi in a["pads"])
            operator = Operator(
                x, w, tuple(a["strides"]), pads, tuple(a["dilation"]), a["groups"]
            )  # fmt: skip
        elif anchor.op == "matmul" and len(x) > 1 and len(w) == 2:
            operator = Operator(x, w)
        else:
            continue
        found[operator] = found.get(operator, 0) + task.weight
    return [
        Operator(o.x, o.w, o.strides, o.pads, o.dilations, o.groups, count)
        for o, count in found.items()
    ]
