"""The families of layouts of one operator against each other, each with its best loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tvm

from alt.graph import Graph
from alt.kernels import fuse
from alt.target import Machine
from benchmarks.layout_families import Decisions, Stored, candidates, families_of, scheduled
from benchmarks.layout_operators import Array, Convolution, Operator, Product
from benchmarks.protocol import TOLERANCE, Plan, Timing, interleave, median_ratio, relative_error
from primitives.errors import LayoutError
from primitives.reference import pack, pack_joint, unpack


@dataclass(frozen=True)
class Contest:
    """The families of one operator, each with its best loops.

    Attributes:
        op: the operator.
        networks: those that it occurs in.
        timings: by family; those that no candidate came through for are missing.
        decisions: what the best candidate of each family decides.
        tried: how many candidates of each family were measured.
        wrong: how many computed something else.
        refused: how many could not be scheduled or built, and why the last could not.
    """

    op: Operator
    networks: tuple[str, ...]
    timings: Mapping[str, Timing] = field(default_factory=dict)
    decisions: Mapping[str, Decisions] = field(default_factory=dict)
    tried: Mapping[str, int] = field(default_factory=dict)
    wrong: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def gain(self, family: str) -> float | None:
        """How much faster a family is than the first one: the median of ratios in a round."""
        base = self.timings.get(families_of(self.op)[0])
        timing = self.timings.get(family)
        if base is None or timing is None:
            return None
        return median_ratio(base.samples, timing.samples)

    def share(self, family: str, peak: float) -> float | None:
        """The part of the machine's peak that a family reaches."""
        timing = self.timings.get(family)
        return None if timing is None else self.op.flops / timing.median / peak

    @property
    def best(self) -> str | None:
        """The fastest family."""
        gains = {family: t.median for family, t in self.timings.items()}
        return min(gains, key=gains.__getitem__, default=None)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A compiled candidate with its operands: what can be timed."""

    name: str
    decisions: Decisions
    executable: Any
    arguments: Sequence[Any]
    how: Stored

    def result(self) -> Array:
        """Run once; what it computes, in the logical layout."""
        self.executable["main"](*self.arguments)
        return unpack(self.arguments[-1].numpy(), self.how.layouts["out"])

    @cached_property
    def once(self) -> float:
        """Seconds of one run, roughly: the best of three."""
        return min(self._evaluate(1, 3))

    def sample(self, seconds: float) -> float:
        """Seconds of a run, the mean of as many as fill the time given."""
        return self._evaluate(max(1, math.ceil(seconds / self.once)), 1)[0]

    def _evaluate(self, number: int, repeat: int) -> list[float]:
        clock = self.executable.mod.time_evaluator("main", tvm.cpu(), number=number, repeat=repeat)
        return [float(s) for s in clock(*self.arguments).results]


def operators_of(graph: Graph) -> list[Operator]:
    """The distinct convolutions and products with constant weights, in the network's order.

    Grouped convolutions that are not depthwise, dilated and transposed ones are left out.
    """
    found: dict[Operator, None] = {}
    for kernel in fuse(graph):
        node = kernel.anchor
        if node is None or len(node.inputs) < 2 or node.inputs[1] not in graph.constants:
            continue
        x, w = (tuple(v.shape) for v in node.inputs[:2])
        a = node.attrs
        if node.op == "conv" and set(a["dilation"]) == {1}:
            depthwise = a["groups"] == x[1] == w[0] > 1
            if a["groups"] == 1 or depthwise:
                pads = tuple(tuple(p) for p in a["pads"])
                op = Convolution(
                    x[0], x[1], w[0], x[2:], w[2:], tuple(a["strides"]), pads, depthwise
                )
                found[op] = None
        elif node.op == "matmul" and len(w) == 2 and len(x) > 1:
            found[Product(math.prod(x[:-1]), w[0], w[1])] = None
    return list(found)


def compiled(
    op: Operator,
    family: str,
    decisions: Decisions,
    machine: Machine,
    threads: int,
    arrays: Mapping[str, Array],
) -> Candidate:
    """A candidate, its operands packed.

    Raises:
        LayoutError: if the decisions do not fit the shape.
    """
    func, how = scheduled(op, family, decisions, threads)
    executable = tvm.compile(func.with_attr("global_symbol", "main"), machine.target)
    operands: list[Array] = []
    for name, array in arrays.items():
        if how.joint is None or name not in ("w", "b", "bias"):
            operands.append(pack(array, how.layouts[name]))
        elif name != "bias":
            operands.append(pack_joint(array, arrays["bias"], how.joint))
    operands.append(np.full(how.layouts["out"].shape, np.nan, np.float32))
    tensors = [tvm.runtime.tensor(operand) for operand in operands]
    return Candidate(family, decisions, executable, tensors, how)


def contest(
    op: Operator,
    networks: Sequence[str],
    machine: Machine,
    *,
    trials: int,
    threads: int,
    plan: Plan,
    seed: int,
) -> Contest:
    """Find the best loops of each family, then time the families' best ones in turn."""
    rng = np.random.default_rng(seed)
    arrays = op.inputs(rng)
    expected = op.reference(arrays)
    best: dict[str, Candidate] = {}
    tried, wrong = dict.fromkeys(families_of(op), 0), dict.fromkeys(families_of(op), 0)
    refused: dict[str, tuple[int, str]] = {}
    for family in families_of(op):
        for decisions in candidates(op, family, machine, trials):
            try:
                made = compiled(op, family, decisions, machine, threads, arrays)
            except (LayoutError, tvm.error.InternalError) as error:
                refused[family] = (refused.get(family, (0, ""))[0] + 1, str(error))
                continue
            tried[family] += 1
            if relative_error([made.result()], [expected]) > TOLERANCE:
                wrong[family] += 1
            elif family not in best or made.once < best[family].once:
                best[family] = made
    timings, _ = interleave(list(best.values()), plan, rng)
    return Contest(
        op,
        tuple(networks),
        timings,
        {family: made.decisions for family, made in best.items()},
        tried,
        {family: count for family, count in wrong.items() if count},
        refused,
    )
