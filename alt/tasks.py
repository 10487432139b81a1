"""Tuning tasks: the distinct kernels of a network that leave something open.

A task is a fused kernel. Its candidates say how the tensors at its ends are stored (`layout`) and
how its loops run (`loops`); the answers of the compiler's rules are the first candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from alt.build import Program, build, build_together, kernel_key
from alt.cuda.gpu import Gpu
from alt.decisions import COMPLEX, decide_storage, decided, storage_of, with_storage
from alt.features import Subject, describe_candidate, estimate_seconds
from alt.gpu_features import Asked, describe_on_gpu, estimate_on_gpu
from alt.gpu_formats import Label, block_in, decide_label, label_in
from alt.gpu_formats import layouts_of as stored_on_gpu
from alt.gpu_winograd import PRODUCT, winograd_on_gpu
from alt.graph import Graph, Value, fresh_names
from alt.kernels import Kernel, operations
from alt.memory import RecentArrays
from alt.policies import JOINT, LayoutPolicy
from alt.propagate import Plan, wanted_border
from alt.sketches import scope_of, sketch_for
from alt.storage import channels_blocked
from alt.target import Hardware, Machine
from primitives import Layout
from tuner.choices import Choose, Given
from tuner.config import Config
from tuner.space import Floats, Space
from tuner.task import Candidate

TUNED = frozenset({*COMPLEX, "matmul", "attention"})
"""Anchors whose sketches leave something open."""


@dataclass(frozen=True, eq=False)
class KernelTask:
    """A kernel to tune; see `tuner.task.Task`.

    Attributes:
        kernel: the first of the network's kernels that are alike.
        constants: contents of the weights.
        machine: what the code is for.
        weight: how many kernels of the network are alike.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
        border: cells of zeros around the spatial axes of the output in the network.
        planned: the formats that a GPU's network has by rule.
    """

    kernel: Kernel
    constants: Mapping[Value, np.ndarray]
    machine: Hardware
    weight: int = 1
    policy: LayoutPolicy = JOINT
    winograd: bool = True
    border: tuple[tuple[int, int], ...] = ()
    planned: Label | None = None
    _variants: dict[Config, _Variant] = field(default_factory=dict, repr=False)
    _features: dict[Candidate, list[float]] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """A readable name, and a digest of the computation."""
        return self._key

    @cached_property
    def _key(self) -> str:
        text = kernel_key(self.kernel, {}, self.constants)
        return f"{self.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def of(self, kernel: Kernel) -> KernelTask:
        """The task of another kernel of the same network."""
        return replace(self, kernel=kernel, _variants={}, _features={})

    @property
    def name(self) -> str:
        """The operators and the shapes of the anchor."""
        anchor = self.kernel.anchor
        assert anchor is not None
        shapes = [v.shape for v in (*anchor.inputs[:2], anchor.output)]
        return " ".join([self.kernel.name, *("x".join(map(str, s)) or "scalar" for s in shapes)])

    @property
    def operations(self) -> float:
        """Additions and multiplications of direct summation."""
        assert self.kernel.anchor is not None
        return float(operations(self.kernel.anchor) or 0)

    @property
    def layouts(self) -> Space:
        """Layouts and algorithms; empty for anything but convolutions."""
        return Space(self._decide_layout)

    def _decide_layout(self, choose: Choose) -> None:
        anchor = self.kernel.anchor
        assert anchor is not None
        if isinstance(self.machine, Gpu):
            self._label_by(choose, self.machine)
        elif anchor.op in COMPLEX:
            decide_storage(choose, anchor, self.machine, self.policy, self.winograd)

    def blocks(self, layout: Config) -> tuple[int, int]:
        """How many channels lie next to each other in what is read and written; 1 by rows."""
        anchor = self.kernel.anchor
        assert anchor is not None
        if isinstance(self.machine, Gpu):
            label, lanes = self._label(layout, self.machine), self.machine.lanes()
            if label is None:
                return 1, 1
            read = block_in(anchor.inputs[0], label.read, lanes)
            return read, block_in(self.kernel.output, label.write, lanes)
        chosen = decided(self.kernel, layout, Config({}))
        storage = storage_of(chosen, self.machine, self.policy, self.winograd)
        return (1, 1) if storage is None else (storage.read, storage.write)

    def _label(self, layout: Config, gpu: Gpu) -> Label | None:
        """The formats that answers stand for."""
        return self._label_by(Given(layout, strict=False), gpu)

    def _label_by(self, choose: Choose, gpu: Gpu) -> Label | None:
        planned = self.planned
        return decide_label(choose, self.kernel, gpu, self.policy, planned, self.winograd)

    def loops(self, layout: Config) -> Space:
        """What the sketch leaves open, given the layouts."""
        variant = self._variant(layout)

        def ask(choose: Choose) -> None:
            for kernel in variant.kernels:
                scope = scope_of(
                    kernel, variant.layouts, self.constants, self.machine, choose, asking=True
                )
                sketch_for(scope)(scope)

        return Space(ask)

    def features(self, candidates: Sequence[Candidate]) -> Floats:
        """See `alt.features`, and `alt.gpu_features`."""
        for candidate in candidates:
            if candidate not in self._features:
                self._features[candidate] = self._described(candidate)
        return np.array([self._features[c] for c in candidates], dtype=np.float64)

    def _described(self, candidate: Candidate) -> list[float]:
        if isinstance(self.machine, Gpu):
            asked = self._asked(candidate, self.machine)
            return describe_on_gpu(asked[PRODUCT] if len(asked) > 1 else asked[0])
        return describe_candidate(self._subject(candidate, self.machine))

    def _asked(self, candidate: Candidate, gpu: Gpu) -> list[Asked]:
        variant = self._variant(candidate.layout)
        given = variant.layouts, self.constants, candidate.loops, gpu
        return [Asked.of(kernel, *given) for kernel in variant.kernels]

    def _subject(self, candidate: Candidate, machine: Machine) -> Subject:
        variant = self._variant(candidate.layout)
        return Subject(variant.kernels, variant.layouts, self.constants, candidate.loops, machine)

    def estimate(self, candidate: Candidate) -> float:
        """See `alt.features`, and `alt.gpu_features`."""
        if isinstance(self.machine, Gpu):
            return sum(map(estimate_on_gpu, self._asked(candidate, self.machine)))
        return estimate_seconds(self._subject(candidate, self.machine))

    def program(self, candidate: Candidate, packed: RecentArrays | None = None) -> Program:
        """Compile a candidate alone: its inputs and output are stored as the candidate says.

        Args:
            candidate: what to compile.
            packed: weights of candidates that were compiled before.
        """
        return build(*self._part(candidate), self.machine, alone=True, packed=packed)

    def programs(
        self, candidates: Sequence[Candidate], packed: RecentArrays | None = None
    ) -> list[Program]:
        """Compile candidates: for a CPU into one library, which takes less time; see `program`."""
        if len(candidates) == 1 or isinstance(self.machine, Gpu):
            return [self.program(candidate, packed) for candidate in candidates]
        parts = [self._part(candidate) for candidate in candidates]
        return build_together(parts, self.machine, packed)

    def _part(self, candidate: Candidate) -> tuple[Graph, Plan]:
        variant = self._variant(candidate.layout)
        kernels = list(variant.kernels)
        which = PRODUCT if isinstance(self.machine, Gpu) and len(kernels) > 1 else -1
        kernels[which] = decided(kernels[which], candidate.layout, candidate.loops)
        graph = Graph(self.inputs, [self.kernel.output], [], dict(self.constants))
        return graph, Plan(kernels, variant.layouts, [self.kernel.output])

    @cached_property
    def inputs(self) -> list[Value]:
        """What the kernel reads and that is not known at compile time."""
        return [v for v in self.kernel.inputs if v not in self.constants]

    def layouts_of(self, candidate: Candidate) -> dict[Value, Layout]:
        """How the tensors at the candidate's ends are stored; by rows where not listed."""
        return self._variant(candidate.layout).layouts

    def _variant(self, layout: Config) -> _Variant:
        if layout not in self._variants:
            self._variants[layout] = self._make(layout)
        return self._variants[layout]

    def _make(self, layout: Config) -> _Variant:
        anchor, output = self.kernel.anchor, self.kernel.output
        assert anchor is not None
        chosen = decided(self.kernel, layout, Config({}))
        layouts: dict[Value, Layout] = {}
        if isinstance(self.machine, Gpu):
            label = self._label(layout, self.machine)
            if label is not None:
                lanes = self.machine.lanes()
                layouts = stored_on_gpu(self.kernel, self.constants, label, lanes)
            if label is not None and label.tile:
                kernels = winograd_on_gpu(self.kernel, label.tile, fresh_names("between"))
                return _Variant(tuple(kernels), layouts)
            return _Variant((self.kernel,), layouts)
        storage = storage_of(chosen, self.machine, self.policy, self.winograd)
        if storage is None:
            return _Variant((self.kernel,), layouts)
        kernels = with_storage(chosen, storage, self.machine, "transformed")
        x = anchor.inputs[0]
        first = kernels[0].anchor
        assert first is not None
        border = wanted_border(first, storage.read > 1)
        layouts[x] = channels_blocked(x.shape, storage.read, border)
        layouts[output] = channels_blocked(output.shape, storage.write, self.border)
        for value in self.inputs:
            # What is added to the result mostly comes from a neighbour that stores alike.
            if value not in layouts and value.shape == output.shape:
                layouts[value] = channels_blocked(value.shape, storage.write, ())
        return _Variant(tuple(kernels), layouts)


@dataclass(frozen=True)
class _Variant:
    """A task in one layout."""

    kernels: tuple[Kernel, ...]
    layouts: dict[Value, Layout]


def tasks_of(
    kernels: Sequence[Kernel],
    constants: Mapping[Value, np.ndarray],
    machine: Hardware,
    plan: Plan,
    policy: LayoutPolicy = JOINT,
    winograd: bool = True,
) -> dict[str, KernelTask]:
    """The tasks of a network by key, in execution order.

    Args:
        kernels: how the network was fused.
        constants: contents of the weights.
        machine: what the code is for.
        plan: the network as it would be compiled by rule, for the borders of tensors.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
    """
    found: dict[str, list[Any]] = {}
    for kernel in kernels:
        if kernel.anchor is None or kernel.anchor.op not in TUNED:
            continue
        layout = plan.layouts.get(kernel.output)
        border = layout.border[2:] if layout is not None else ()
        label = label_in(plan, kernel, machine.lanes()) if isinstance(machine, Gpu) else None
        task = KernelTask(kernel, constants, machine, 1, policy, winograd, border, label)
        if isinstance(machine, Gpu) and not task.loops(task.layouts.default()).default():
            continue  # some kernels have one way only
        found.setdefault(task.key, [task, 0])[1] += 1
    tasks: dict[str, KernelTask] = {}
    for key, (task, count) in found.items():
        tasks[key] = replace(task, weight=count, _variants={}, _features={})
    return tasks
