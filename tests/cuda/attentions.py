"""Attention on a GPU: networks that are one kernel of it, and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matrix_products import as_multiplied, network, random, results
from onnx import NodeProto, helper

from alt.compiler import Fused
from alt.decisions import decided
from tuner.config import Answer, Config

Shape = tuple[int, ...]

LIMITS = {"fp32": 1e-5, "tf32": 4e-4, "fp16": 4e-4}
"""The largest difference by the largest result, where factors are those that are multiplied."""


@dataclass(frozen=True)
class Attention:
    """softmax(q @ k / scale + mask) @ v, with whatever is fused around it.

    Attributes:
        q: shape of the queries, [..., queries, depth].
        k: of the keys, [..., depth, keys].
        v: of the values, [..., keys, width].
        mask: is added to the scaled scores, if there is one.
        orders: how the operands lie in memory, as permutations of their axes, by name.
        around: what else is done to operands and result: see `nodes`.
    """

    q: Shape
    k: Shape
    v: Shape
    mask: np.ndarray | None = None
    orders: Mapping[str, Sequence[int]] = field(default_factory=dict)
    around: bool = False

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Operands by name, as they are stored."""
        made = {}
        for seed, (name, shape) in enumerate({"q": self.q, "k": self.k, "v": self.v}.items()):
            stored = random(*shape, seed=seed)
            order = self.orders.get(name)
            made[name] = stored if order is None else np.ascontiguousarray(stored.transpose(order))
        if self.mask is not None:
            made["m"] = self.mask
        return made

    @property
    def nodes(self) -> list[NodeProto]:
        """Of the network; `around` doubles the queries, and takes the result by its exponential."""
        nodes, named = [], {}
        for name in "qkv":
            named[name] = name
            if name in self.orders:
                named[name] = f"{name}_turned"
                back = [int(axis) for axis in np.argsort(self.orders[name])]
                nodes.append(helper.make_node("Transpose", [name], [named[name]], perm=back))
        if self.around:
            nodes.append(helper.make_node("Add", [named["q"], named["q"]], ["twice"]))
            named["q"] = "twice"
        nodes += [
            helper.make_node("MatMul", [named["q"], named["k"]], ["product"]),
            helper.make_node("Div", ["product", "scale"], ["scaled"]),
        ]
        scores = "scaled"
        if self.mask is not None:
            nodes.append(helper.make_node("Add", ["scaled", "m"], ["masked"]))
            scores = "masked"
        mixed = "mixed" if self.around else "y"
        nodes += [
            helper.make_node("Softmax", [scores], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", named["v"]], [mixed]),
        ]
        if self.around:
            nodes += [
                helper.make_node("Exp", [mixed], ["power"]),
                helper.make_node("Mul", ["power", mixed], ["y"]),
            ]
        return nodes

    def expected(self, precision: str) -> np.ndarray:
        """In double precision, of the factors that are multiplied."""
        given = self.inputs
        for name, order in self.orders.items():
            given[name] = given[name].transpose(np.argsort(order))
        q, k, v = (np.ascontiguousarray(given[name]) for name in "qkv")
        q = q * np.float32(2) if self.around else q
        q, k, v = (as_multiplied(x, precision) for x in (q, k, v))
        scores = q @ k / self.scale
        if self.mask is not None:
            scores = scores + self.mask
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = powers / powers.sum(-1, keepdims=True) @ v
        return np.exp(mixed) * mixed if self.around else mixed

    @property
    def scale(self) -> np.ndarray:
        """By which scores are divided."""
        return np.array(self.q[-1] ** 0.5, np.float32)

    def fused(
        self, precision: str, arch: str = "sm_90", loops: Mapping[str, Answer] | None = None
    ) -> Fused:
        """The network, which is one kernel; `loops` are answers to what it asks."""
        shape = self.expected("fp32").shape
        made = network(
            self.nodes, self.inputs, {"y": shape}, precision, {"scale": self.scale}, arch
        )
        assert [kernel.anchor.op for kernel in made.kernels if kernel.anchor] == ["attention"]
        if loops is None:
            return made
        kernels = [decided(kernel, Config({}), Config(loops)) for kernel in made.kernels]
        return replace(made, kernels=kernels)

    def check(self, precision: str, loops: Mapping[str, Answer] | None = None) -> None:
        """That results are right, whichever thread is first."""
        made = self.fused(precision, loops=loops)
        (found,) = results(made, [self.inputs[name] for name, *_ in made.imported.inputs])
        wanted = self.expected(precision)
        unknown = np.isnan(wanted)
        np.testing.assert_array_equal(np.isnan(found), unknown)
        if unknown.all():
            return
        largest = np.nanmax(np.abs(wanted))
        assert np.nanmax(np.abs(found - wanted)) <= LIMITS[precision] * largest
        exact = self.expected("fp32")
        assert np.nanmax(np.abs(found - exact)) <= (1e-4 if precision == "fp32" else 1e-2) * largest
