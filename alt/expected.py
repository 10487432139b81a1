"""What a kernel should compute, by other means: the reference that candidates are compared with.

Convolutions, matrix products and softmax are done by NumPy, by their definition; what is fused
around them by code that was generated for row-major tensors and has no loops to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import tvm

from alt.build import Program, build
from alt.graph import Graph, Node, Value
from alt.kernels import ON_THE_FLY, Kernel
from alt.memory import SLACK_BYTES, aligned_empty
from alt.propagate import Plan
from alt.sketches.windows import geometry
from alt.storage import border_of
from alt.target import Machine
from primitives import Layout
from primitives.reference import pack, unpack

DIRECT, WINOGRAD = 1e-4, 1e-3
"""Largest errors allowed, relative to the largest magnitude of the result.

Sums of some thousand products in another order differ by about 1e-6, Winograd's by 1e-5.
"""


@dataclass(frozen=True, eq=False)
class Runnable:
    """A program with room for all it needs.

    Attributes:
        program: a kernel compiled alone.
        arrays: the memory of inputs, output, weights and everything in between, in the order of the
            program's parameters.
        tensors: the same as the program takes them.
        output: the output as it is stored.
    """

    program: Program
    arrays: list[np.ndarray]
    tensors: list[Any]
    output: np.ndarray

    def run(self) -> None:
        """Run once, on TVM's threads of this thread."""
        self.program.library[self.program.entry](*self.tensors)


def runnable(
    program: Program,
    inputs: Mapping[Value, np.ndarray],
    outputs: list[Value],
    packed: MutableMapping[tuple[Value, Layout], np.ndarray] | None = None,
) -> Runnable:
    """Give a program its memory, with inputs laid out as it wants them.

    Args:
        program: compiled with `build(..., alone=True)`.
        inputs: contents by value, in the order of its parameters; not laid out.
        outputs: what it computes; one value.
        packed: these inputs as they were laid out before; what is missing is added.
    """
    layouts = program.plan.layouts
    arrays: list[np.ndarray] = []
    for value, array in inputs.items():
        layout = layouts.get(value, Layout.identity(value.shape))
        flat = None if packed is None else packed.get((value, layout))
        if flat is None:
            block = _room(layout.elements * array.dtype.itemsize)
            flat = block.view(array.dtype)[: max(layout.elements, 1)]
            flat[: layout.elements] = pack(array, layout).reshape(-1)
            if packed is not None:
                packed[value, layout] = flat
        arrays.append(flat)
    (output,) = outputs
    layout = layouts.get(output, Layout.identity(output.shape))
    dtype = np.dtype(output.dtype)
    stored = _room(layout.elements * dtype.itemsize).view(dtype)[: max(layout.elements, 1)]
    stored[...] = np.nan if dtype.kind == "f" else 0
    arrays += [stored, program.weights, aligned_empty(program.arena_bytes)]
    tensors = [tvm.runtime.from_dlpack(a) for a in arrays]
    return Runnable(program, arrays, tensors, stored.reshape(layout.shape))


def _room(size: int) -> np.ndarray:
    """Memory that vectors may read beyond its end."""
    block = aligned_empty(-(-max(size, 8) // 8) * 8 + SLACK_BYTES)
    block[...] = 0
    return block


def random_values(task_inputs: list[Value], seed: int) -> dict[Value, np.ndarray]:
    """Seeded contents: normal floats, and integers that are 0 or 1, as indices are at least 0."""
    rng = np.random.default_rng(seed)
    found: dict[Value, np.ndarray] = {}
    for value in task_inputs:
        dtype = np.dtype(value.dtype)
        if dtype.kind == "f":
            found[value] = rng.standard_normal(value.shape, np.float32).astype(dtype)
        else:
            found[value] = rng.integers(0, 2, value.shape).astype(dtype)
    return found


def expected(
    kernel: Kernel,
    inputs: Mapping[Value, np.ndarray],
    constants: Mapping[Value, np.ndarray],
    machine: Machine,
) -> np.ndarray:
    """The kernel's output on these inputs."""
    return _Evaluation(kernel, {**constants, **inputs}, constants, machine).of(kernel.output)


def error_of(found: Runnable, value: Value, reference: np.ndarray) -> float:
    """The largest difference by the largest magnitude of the reference; infinite if not finite.

    Zeros around the spatial axes, which the next convolution reads, are compared too.
    """
    layout = found.program.plan.layouts.get(value, Layout.identity(value.shape))
    result = unpack(found.output, layout)
    if result.size == 0:
        return 0.0
    scale = float(np.max(np.abs(reference), initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        difference = float(np.max(np.abs(result.astype(np.float64) - reference)))
    # What lies behind the last channel is nobody's business.
    border = (((0, 0),) * 2 + border_of(layout))[: len(layout.logical_shape)]
    if any(lo or hi for lo, hi in border):
        grown = zip(layout.logical_shape, border, strict=True)
        around = Layout(tuple(e + lo + hi for e, (lo, hi) in grown))
        cells = list(np.indices(around.shape, sparse=True))
        outside = np.zeros(around.shape, bool)
        for k, (lo, _) in enumerate(border):
            cells[k] = cells[k] - lo
            outside = outside | (cells[k] < 0) | (cells[k] >= layout.logical_shape[k])
        where = np.nonzero(outside)
        logical = [w - lo for w, (lo, _) in zip(where, border, strict=True)]
        zeros = found.output[tuple(layout.forward(logical))]
        # Python's max would forget a NaN.
        difference = float(np.max([difference, np.max(np.abs(zeros), initial=0.0)]))
    return difference / scale if np.isfinite(difference) else float("inf")


class _Evaluation:
    """One call of `expected`."""

    def __init__(
        self,
        kernel: Kernel,
        known: dict[Value, np.ndarray],
        constants: Mapping[Value, np.ndarray],
        machine: Machine,
    ) -> None:
        self.producers = kernel.producers
        self.known = known
        self.constants = constants
        self.machine = machine

    def of(self, value: Value) -> np.ndarray:
        if value not in self.known:
            node = self.producers[value]
            self.known[value] = (
                self.generated(value) if node.op in ON_THE_FLY else self.defined(node)
            )
        return self.known[value]

    def generated(self, value: Value) -> np.ndarray:
        """A value that is computed element by element from known ones."""
        nodes: dict[Node, None] = {}
        inputs: dict[Value, None] = {}

        def visit(v: Value) -> None:
            node = self.producers.get(v)
            if node is None or v in self.known or node.op not in ON_THE_FLY:
                self.of(v)
                inputs[v] = None
                return
            for source in node.inputs:
                visit(source)
            nodes[node] = None

        visit(value)
        kernel = Kernel(None, tuple(nodes), tuple(inputs), value)
        given = [v for v in inputs if v not in self.constants]
        graph = Graph(given, [value], [], dict(self.constants))
        program = build(graph, Plan([kernel], {}, [value]), self.machine, alone=True)
        made = runnable(program, {v: self.known[v] for v in given}, [value])
        made.run()
        return made.output.copy().reshape(value.shape)

    def defined(self, node: Node) -> np.ndarray:
        operands = [self.of(v) for v in node.inputs]
        match node.op:
            case "conv":
                return convolve(node, *operands[:2])
            case "conv_transpose":
                return convolve_transposed(node, *operands[:2])
            case "softmax":
                x, axis = operands[0], node.attrs["axis"]
                powers = np.exp(x - x.max(axis=axis, keepdims=True))
                return powers / powers.sum(axis=axis, keepdims=True)
            case _:
                return np.matmul(operands[0], operands[1])


def convolve(node: Node, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A convolution by its definition: one matrix product a tap."""
    groups, channels, outputs = geometry(node)
    a = node.attrs
    x = np.pad(x, [(0, 0), (0, 0), *a["pads"]])
    batch, spatial = x.shape[0], node.output.shape[2:]
    total = np.zeros((batch, groups, outputs, prod(spatial)), x.dtype)
    w = weight.reshape(groups, outputs, channels, *weight.shape[2:])
    for tap in product(*map(range, weight.shape[2:])):
        window = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, s, n in zip(tap, a["dilation"], a["strides"], spatial, strict=True)
        )
        seen = x[(slice(None), slice(None), *window)].reshape(batch, groups, channels, -1)
        total += w[(slice(None), slice(None), slice(None), *tap)] @ seen
    return total.reshape(node.output.shape)


def convolve_transposed(node: Node, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A transposed convolution by its definition: every input adds its share to a window."""
    groups, channels, outputs = geometry(node)
    a = node.attrs
    batch, spatial = x.shape[0], x.shape[2:]
    kernel = weight.shape[2:]
    reach = [
        max((n - 1) * s + (k - 1) * d + 1, lo + m)
        for n, s, k, d, (lo, _), m in zip(
            spatial, a["strides"], kernel, a["dilation"], a["pads"], node.output.shape[2:],
            strict=True,
        )
    ]  # fmt: skip
    whole = np.zeros((batch, groups * outputs, *reach), x.dtype)
    w = weight.reshape(groups, channels, outputs, *kernel).swapaxes(1, 2)
    flat = x.reshape(batch, groups, channels, -1)
    for tap in product(*map(range, kernel)):
        share = w[(slice(None), slice(None), slice(None), *tap)] @ flat
        window = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, s, n in zip(tap, a["dilation"], a["strides"], spatial, strict=True)
        )
        whole[(slice(None), slice(None), *window)] += share.reshape(
            batch, groups * outputs, *spatial
        )
    inside = tuple(
        slice(lo, lo + n) for (lo, _), n in zip(a["pads"], node.output.shape[2:], strict=True)
    )
    return whole[(slice(None), slice(None), *inside)]


def error_bound(algorithm: str) -> float:
    """The largest error that a candidate may have; see `DIRECT` and `WINOGRAD`."""
    return WINOGRAD if algorithm.startswith("winograd") else DIRECT
