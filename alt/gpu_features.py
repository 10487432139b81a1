"""What a cost model sees of a candidate on a GPU, and what it should take by rule of thumb.

Both come from asking the sketch what it would do, which takes about a millisecond: what it was
answered, in the order of its questions, and the launch that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2, prod

import numpy as np

from alt.cuda.gpu import Gpu
from alt.graph import Value
from alt.kernels import Kernel, operations
from alt.sketches import sketch_for
from alt.sketches.gpu.scope import GpuScope
from alt.storage import block_of
from primitives import Layout
from tuner.choices import Answer, Decision, Given
from tuner.config import Config

ANCHORS = ("conv", "conv_transpose", "winograd_product", "matmul", "attention")
"""What trees tell apart, so that they may read the answers that follow."""

ANSWERS = 16
"""So many answers are seen, the first ones."""

NAMES = (
    "operations",
    "elements read",
    "elements written",
    "reduction",
    "blocks",
    "threads",
    "blocks by multiprocessors",
    "imbalance",
    "results of a thread",
    "estimated cycles",
    *(f"is {anchor}" for anchor in ANCHORS),
    "channels next to each other read",
    "channels next to each other written",
    *(f"answer {number}" for number in range(ANSWERS)),
)
"""What each number means; sizes are logarithms to base 2."""

CYCLES_PER_SECOND = 1.7e9
"""Only ratios of estimates matter."""

START_CYCLES = 2000.0
"""Until the first block begins, and after the last one ends."""

ISSUED_A_CYCLE = 128.0
"""Products of one multiprocessor, if its threads had nothing else to do."""

BUSY_THREADS = 512
"""Threads of a multiprocessor that can hide how long it takes memory to answer."""

MEMORY_BYTES_A_CYCLE = 12.0
"""For each multiprocessor, if all read."""


@dataclass(frozen=True)
class Asked:
    """A kernel, after its sketch was asked what it would do.

    Attributes:
        scope: with what it noted.
        decisions: what was answered, in the order of its questions.
    """

    scope: GpuScope
    decisions: Sequence[Decision]

    @staticmethod
    def of(
        kernel: Kernel,
        layouts: Mapping[Value, Layout],
        constants: Mapping[Value, np.ndarray],
        loops: Config,
        gpu: Gpu,
    ) -> Asked:
        """Ask.

        Args:
            kernel: of a task.
            layouts: how the tensors at its ends are stored; by rows where not listed.
            constants: contents of the weights.
            loops: the answers of its sketch.
            gpu: what the code is for.
        """
        choose = Given(loops, strict=False)
        scope = GpuScope(kernel, layouts, constants, gpu, choose, asking=True)
        sketch_for(scope)(scope)
        return Asked(scope, list(choose.decisions.values()))


def describe_on_gpu(asked: Asked) -> list[float]:
    """One number for each of `NAMES`."""
    scope, decisions = asked.scope, asked.decisions
    kernel, gpu, layouts = scope.kernel, scope.gpu, scope.layouts
    anchor = kernel.anchor
    assert anchor is not None
    blocks, threads = _launch(scope)
    work, written = _operations(kernel), max(kernel.output.size, 1)
    answers = [_number(decision) for decision in decisions[:ANSWERS]]
    return [
        log2(work),
        log2(_read(kernel)),
        log2(written),
        log2(max(work / (2 * written), 1)),
        log2(blocks),
        log2(threads),
        log2(blocks / gpu.cores),
        -(-blocks // gpu.cores) * gpu.cores / blocks,
        log2(written / (blocks * threads)),
        log2(_cycles(scope)),
        *(float(anchor.op == name) for name in ANCHORS),
        *(log2(_together(v, layouts)) for v in (anchor.inputs[0], kernel.output)),
        *answers,
        *(-1.0 for _ in range(ANSWERS - len(answers))),
    ]


def estimate_on_gpu(asked: Asked) -> float:
    """What the sketch expects; where it says nothing, arithmetic and memory, in seconds.

    Good for telling hopeless candidates, not for ranking the rest.
    """
    return _cycles(asked.scope) / CYCLES_PER_SECOND


def _launch(scope: GpuScope) -> tuple[int, int]:
    """Blocks, and threads of each."""
    return prod(scope.notes.get("grid", [1])), prod(scope.notes.get("threads", [1]))


def _cycles(scope: GpuScope) -> float:
    kernel, gpu = scope.kernel, scope.gpu
    if scope.cycles is not None:
        return START_CYCLES + scope.cycles
    blocks, threads = _launch(scope)
    together = max(1, min(-(-blocks // gpu.cores), gpu.core_threads // max(threads, 1)))
    busy = min(1.0, together * threads / BUSY_THREADS)
    active = min(blocks, gpu.cores)
    arithmetic = _operations(kernel) / 2 / (ISSUED_A_CYCLE * active * busy)
    memory = 4.0 * (_read(kernel) + kernel.output.size) / (MEMORY_BYTES_A_CYCLE * active * busy)
    return START_CYCLES + max(arithmetic, memory)


def _together(value: Value, layouts: Mapping[Value, Layout]) -> int:
    """How many channels of a tensor lie next to each other."""
    layout = layouts.get(value)
    return 1 if layout is None else block_of(layout)


def _operations(kernel: Kernel) -> float:
    assert kernel.anchor is not None
    return float(max(operations(kernel.anchor) or 0, 2))


def _read(kernel: Kernel) -> int:
    return max(sum(value.size for value in kernel.inputs), 1)


def _number(decision: Decision) -> float:
    """An answer as a number: sizes by their logarithm, names by their place among the options."""
    answer: Answer = decision.answer
    if isinstance(answer, bool):
        return float(answer)
    if isinstance(answer, int | float):
        return log2(max(answer, 0.5))
    return float(decision.options.index(answer)) if answer in decision.options else 0.0
