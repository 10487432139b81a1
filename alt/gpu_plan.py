"""Layouts for every tensor of a network on a GPU, chosen together.

Every kernel has labels: the formats that it can read and write. What a label costs, and what a
conversion between two of them costs, is estimated, and `alt.assign` finds the best labels for all.
The caller sees row-major tensors only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from alt.assign import assign
from alt.assignment import Problem, Read, Task, Tensor
from alt.cuda.gpu import Gpu
from alt.errors import AltError
from alt.gpu_costs import conversion_seconds, kernel_seconds
from alt.gpu_formats import (
    COMPLEX,
    Format,
    Label,
    block_in,
    decide_label,
    ends_of,
    formats_of,
    layout_in,
)
from alt.gpu_winograd import sizes_on_gpu, winograd_on_gpu
from alt.graph import Graph, Value, fresh_names
from alt.kernels import Kernel, reading, with_anchor
from alt.plan import Plan, copy_kernel
from alt.policies import LayoutPolicy
from tuner.choices import Given

MARGIN = 0.95
"""By estimate alone, rows stay unless something takes less than this part of their time."""

_CALLER = "the caller"
_LOG = logging.getLogger(__name__)


def plan_for_gpu(
    graph: Graph,
    kernels: Sequence[Kernel],
    gpu: Gpu,
    policy: LayoutPolicy,
    winograd: bool = True,
) -> Plan:
    """Choose a format for every value and insert the conversions that remain.

    Args:
        graph: the network.
        kernels: how it was fused.
        gpu: what the code is for.
        policy: one format for all convolutions, or the choice of the best.
        winograd: whether Winograd's algorithm may be used.

    Raises:
        AltError: if the policy means nothing on a GPU.
    """
    return _Planner(graph, kernels, gpu, policy, winograd).plan()


class _Planner:
    def __init__(
        self,
        graph: Graph,
        kernels: Sequence[Kernel],
        gpu: Gpu,
        policy: LayoutPolicy,
        winograd: bool,
    ) -> None:
        self.graph, self.gpu, self.winograd = graph, gpu, winograd
        self.lanes = gpu.lanes()
        self.formats = formats_of(policy)
        self.forced = policy.format is not None
        self.decided: dict[Kernel, Label | None] = {}
        for kernel in kernels:
            label = _decided(kernel, gpu, policy, winograd)
            self.decided[kernel if label is None else _without_layout(kernel)] = label
        self.kernels = list(self.decided)
        self.ends = {k: ends_of(k, graph.constants) for k in self.kernels}
        self.labels = {k: self._labels(k) for k in self.kernels}
        self.names = {k: f"{number} {k.name}" for number, k in enumerate(self.kernels)}

    # --- what may be chosen ---------------------------------------------------------------------

    def _labels(self, kernel: Kernel) -> list[Label]:
        """The first one leaves the kernel as it is, if that is allowed."""
        label = self.decided[kernel]
        if label is not None:
            return [label]
        ends, anchor = self.ends[kernel], kernel.anchor
        only = anchor is not None and anchor.op in COMPLEX and self.forced
        every = self.formats if only else tuple(dict.fromkeys(("NCHW", *self.formats)))
        found: dict[tuple[int, ...], Label] = {}
        for read in every:
            for write in every if ends.free else (read,):
                label = Label(self._given(kernel, read), write)
                # Formats that come to the same are one label.
                found.setdefault(self._blocks(kernel, label), label)
        return [self._fastest(kernel, label) for label in found.values()]

    def _fastest(self, kernel: Kernel, label: Label) -> Label:
        """With Winograd's algorithm or without: none of its neighbours can tell."""
        if not self.winograd or label != Label("NCHW", "NCHW"):
            return label
        ways = [label, *(replace(label, tile=m) for m in sizes_on_gpu(kernel, self.gpu))]
        return min(ways, key=lambda way: kernel_seconds(kernel, way, self.gpu))

    def _given(self, kernel: Kernel, fmt: Format) -> Format:
        """The format in which a kernel reads: few channels of the caller's are not worth a copy."""
        anchor = kernel.anchor
        if anchor is not None and anchor.op in COMPLEX:
            x = anchor.inputs[0]
            if x in self.graph.inputs and x.shape[1] < self.lanes:
                return "NCHW"
        return fmt

    def _blocks(self, kernel: Kernel, label: Label) -> tuple[int, ...]:
        ends = self.ends[kernel]
        read = (block_in(v, ends.wants(v, label), self.lanes) for v in kernel.inputs)
        return (*read, block_in(kernel.output, ends.stores(label), self.lanes))

    def problem(self) -> Problem:
        """The choice of labels as costs."""
        tasks = [Task(_CALLER, {"NCHW": 0.0})]
        for kernel, labels in self.labels.items():
            seconds = {str(la): kernel_seconds(kernel, la, self.gpu) for la in labels}
            tasks.append(Task(self.names[kernel], seconds))
        readers: dict[Value, list[Read]] = {}
        for kernel in self.kernels:
            for value in kernel.inputs:
                wants = self._wants(kernel, value)
                readers.setdefault(value, []).append(Read(self.names[kernel], wants))
        for value in dict.fromkeys(self.graph.outputs):
            readers.setdefault(value, []).append(Read(_CALLER, ("NCHW",)))
        stored: dict[Value, tuple[str, tuple[str, ...]]] = dict.fromkeys(
            self.graph.inputs, (_CALLER, ("NCHW",))
        )
        for kernel in self.kernels:
            ends = self.ends[kernel]
            formats = tuple(ends.stores(label) for label in self.labels[kernel])
            stored[kernel.output] = self.names[kernel], formats
        tensors = [
            Tensor(v.name, *stored[v], tuple(reads), self._conversions(v, stored[v][1], reads))
            for v, reads in readers.items()
            if v in stored and self._may_differ(v)
        ]
        return Problem(tuple(tasks), tuple(tensors))

    def _wants(self, kernel: Kernel, value: Value) -> tuple[str, ...]:
        ends = self.ends[kernel]
        return tuple(ends.wants(value, label) for label in self.labels[kernel])

    def _may_differ(self, value: Value) -> bool:
        return any(block_in(value, f, self.lanes) > 1 for f in self.formats)

    def _conversions(
        self, value: Value, stored: Sequence[str], reads: Sequence[Read]
    ) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        blocks: dict[str, int] = {
            f: block_in(value, f, self.lanes) for f in dict.fromkeys(("NCHW", *self.formats))
        }
        for s in stored:
            for w in (w for read in reads for w in read.wants):
                same = blocks[s] == blocks[w]
                found[s, w] = 0.0 if same else conversion_seconds(value, self.gpu)
        return found

    def _chosen(self) -> dict[Kernel, Label]:
        first = {kernel: labels[0] for kernel, labels in self.labels.items()}
        if all(len(labels) == 1 for labels in self.labels.values()):
            return first
        try:
            best = assign(self.problem(), "elimination")
        except AltError as refusal:
            # Compiling takes seconds, and an estimate is not worth minutes of an integer program.
            _LOG.info("layouts by estimate: %s; they stay as they are", refusal)
            return first
        estimated = not self.forced and not any(self.decided.values())
        if estimated and best.seconds > MARGIN * best.unchanged_seconds:
            return first
        return {
            kernel: next(la for la in labels if str(la) == best.labels[self.names[kernel]])
            for kernel, labels in self.labels.items()
        }

    # --- the plan -------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Kernels with the conversions between them."""
        chosen = self._chosen()
        plan = Plan([], {}, [])
        names = fresh_names("stored")
        formats: dict[Value, Format] = {}
        copies: dict[tuple[Value, int], Value] = {}

        def keep(value: Value, fmt: Format) -> None:
            formats[value] = fmt
            if block_in(value, fmt, self.lanes) > 1:
                plan.layouts[value] = layout_in(value, fmt, self.lanes)

        def stored_in(value: Value, fmt: Format, why: str) -> Value:
            """The value, or a copy of it, in this format."""
            block = block_in(value, fmt, self.lanes)
            if block_in(value, formats.get(value, "NCHW"), self.lanes) == block:
                return value
            if (value, block) not in copies:
                copy = Value(next(names), value.shape, value.dtype)
                keep(copy, fmt)
                plan.kernels.append(copy_kernel(value, copy))
                plan.conversions[plan.kernels[-1]] = why
                copies[value, block] = copy
            return copies[value, block]

        for kernel in self.kernels:
            ends, label = self.ends[kernel], chosen[kernel]
            instead: dict[Value, Value] = {}
            for value in kernel.inputs:
                if value not in self.graph.constants:
                    fmt = ends.wants(value, label)
                    why = f"{kernel.name} {kernel.output.name} reads {fmt}"
                    instead[value] = stored_in(value, fmt, why)
            changed = {v: copy for v, copy in instead.items() if copy is not v}
            kernel = reading(kernel, changed)
            whole = [kernel] if not label.tile else winograd_on_gpu(kernel, label.tile, names)
            plan.kernels.extend(whole)
            keep(kernel.output, ends.stores(label))
        why = "the caller gets row-major tensors"
        plan.outputs = [stored_in(value, "NCHW", why) for value in self.graph.outputs]
        return plan


def _decided(kernel: Kernel, gpu: Gpu, policy: LayoutPolicy, winograd: bool) -> Label | None:
    """The label of a kernel that was decided upon, as its measurements know it."""
    if kernel.anchor is None or "layout" not in kernel.anchor.attrs:
        return None
    answers = kernel.anchor.attrs["layout"]
    # What was answered is how it is stored, also where the policy would not offer that.
    given = {"read", "write"} <= set(answers)
    default = Label(answers["read"], answers["write"]) if given else None
    return decide_label(Given(answers, strict=False), kernel, gpu, policy, default, winograd)


def _without_layout(kernel: Kernel) -> Kernel:
    """The kernel without what the plan says, so that equal kernels share a function."""
    anchor = kernel.anchor
    assert anchor is not None
    attrs = {k: v for k, v in anchor.attrs.items() if k != "layout"}
    return with_anchor(kernel, replace(anchor, attrs=attrs))
