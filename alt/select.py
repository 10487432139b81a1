"""From measurements to a network: which candidate every kernel gets.

Neighbours may be fastest in different layouts, and a conversion in between costs time. The labels
of the whole network are chosen exactly from what was measured (`alt.assign`); leaving every layout
as the compiler would have it is always among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from alt.assign import assign
from alt.assignment import Problem, Read, Task, Tensor
from alt.blocks import COMPLEX
from alt.cuda.gpu import Gpu
from alt.decisions import decided
from alt.graph import Graph, Value
from alt.kernels import Kernel
from alt.tasks import KernelTask
from tuner.config import Config
from tuner.task import Candidate, Measurement

Variant = Literal["joint", "loops", "default"]
"""How much of what was found a network uses: layouts and loops, loops only, or nothing."""

VARIANTS: tuple[Variant, ...] = ("joint", "loops", "default")

MOST_LABELS = 4
"""So many layouts of a task take part in the assignment, the fastest ones and the default."""

RIVALS = 4
"""So many candidates of a task in one layout are timed within the network."""

LIMIT_SECONDS = 60.0
"""For graphs that no known network resembles: then the best labels found so far are taken."""

MARGIN = 0.99
"""The compiler's own choice stays unless something takes less than this part of its time."""

Measured = Mapping[Candidate, Measurement]
Label = tuple[int, int]
"""Which blocks of channels a kernel reads and writes."""

_CALLER = "the caller"


@dataclass(frozen=True)
class Conversion:
    """A change of layout that may be needed: of a tensor, from one block of channels to another."""

    shape: tuple[int, ...]
    dtype: str
    stored: int
    wanted: int

    @property
    def key(self) -> str:
        """The name it has in logs."""
        return f"conversion {self.dtype} {'x'.join(map(str, self.shape))}"

    @property
    def candidate(self) -> Candidate:
        """The layouts, as the candidate of a task."""
        return Candidate(Config({"from": self.stored, "to": self.wanted}), Config({}))


@dataclass(frozen=True)
class Choices:
    """The kernels of a network and what is known about each.

    Attributes:
        graph: the network.
        kernels: how it was fused.
        tasks: the task of each kernel that has one.
        labels: of each such kernel, its best candidate and that one's time alone; those of the
            default come first.
        rivals: of each such kernel, what was fastest alone; the default is one of its label's.
    """

    graph: Graph
    kernels: Sequence[Kernel]
    tasks: Mapping[Kernel, KernelTask]
    labels: Mapping[Kernel, Mapping[Label, tuple[Candidate, float]]]
    rivals: Mapping[Kernel, Mapping[Label, Sequence[Candidate]]]

    def conversions(self) -> list[Conversion]:
        """Every conversion that some choice of labels may need, each once."""
        found: dict[Conversion, None] = {}
        for read in self._reads():
            for stored in self._stored(read.producer, read.value):
                for wanted in read.wants:
                    if stored != wanted:
                        found[Conversion(read.value.shape, read.value.dtype, stored, wanted)] = None
        return list(found)

    def problem(self, seconds: Mapping[Conversion, float]) -> Problem:
        """The choice of labels as costs."""
        tasks = [Task(_CALLER, {"rows": 0.0})]
        for kernel, labels in self.labels.items():
            times = {f"{read},{write}": s for (read, write), (_, s) in labels.items()}
            tasks.append(Task(self._name(kernel), times))
        tensors: dict[tuple[Kernel | None, Value], list[Read]] = {}
        for read in self._reads():
            reader = _CALLER if read.reader is None else self._name(read.reader)
            wants = tuple(str(w) for w in read.wants)
            tensors.setdefault((read.producer, read.value), []).append(Read(reader, wants))
        made: list[Tensor] = []
        for (producer, value), reads in tensors.items():
            stored = tuple(str(s) for s in self._stored(producer, value))
            costs = {
                (str(c.stored), str(c.wanted)): s
                for c, s in seconds.items()
                if (c.shape, c.dtype) == (value.shape, value.dtype)
            }
            name = _CALLER if producer is None else self._name(producer)
            made.append(Tensor(value.name, name, stored, tuple(reads), costs))
        return Problem(tuple(tasks), tuple(made))

    def assigned(
        self, variant: Variant, seconds: Mapping[Conversion, float]
    ) -> dict[Kernel, Label]:
        """The layouts of each kernel that something is known about.

        Args:
            variant: what is chosen.
            seconds: of each of `conversions`, for the joint variant.
        """
        if variant == "default":
            return {}
        if variant == "loops":
            return {kernel: next(iter(labels)) for kernel, labels in self.labels.items()}
        best = assign(self.problem(seconds), limit_seconds=LIMIT_SECONDS).labels
        found: dict[Kernel, Label] = {}
        for kernel in self.labels:
            read, write = best[self._name(kernel)].split(",")
            found[kernel] = int(read), int(write)
        return found

    def candidates(self, labels: Mapping[Kernel, Label]) -> dict[Kernel, Candidate]:
        """The best candidate of each kernel in these layouts."""
        return {kernel: self.labels[kernel][label][0] for kernel, label in labels.items()}

    def rival_candidates(
        self, labels: Mapping[Kernel, Label], rank: int
    ) -> dict[Kernel, Candidate]:
        """Another candidate of each kernel in these layouts; the last one where there are fewer."""
        found: dict[Kernel, Candidate] = {}
        for kernel, label in labels.items():
            rivals = self.rivals[kernel][label]
            found[kernel] = rivals[min(rank, len(rivals) - 1)]
        return found

    def decide(self, variant: Variant, seconds: Mapping[Conversion, float]) -> list[Kernel]:
        """All kernels, with the best candidates in the best layouts."""
        return self.decided(self.candidates(self.assigned(variant, seconds)))

    def decided(self, candidates: Mapping[Kernel, Candidate]) -> list[Kernel]:
        """All kernels, with what was chosen for some."""
        return [
            kernel
            if (candidate := candidates.get(kernel)) is None
            else decided(kernel, candidate.layout, candidate.loops)
            for kernel in self.kernels
        ]

    # --- who reads what from whom ---------------------------------------------------------------

    def _name(self, kernel: Kernel) -> str:
        return f"{self._numbers[kernel]} {kernel.name}"

    @property
    def _numbers(self) -> dict[Kernel, int]:
        return {kernel: number for number, kernel in enumerate(self.kernels)}

    def _stored(self, producer: Kernel | None, value: Value) -> list[int]:
        """How many channels of a value lie together in each of its producer's labels."""
        if producer is None:
            return [1]
        written = [write for _, write in self.labels[producer]]
        if not isinstance(self.tasks[producer].machine, Gpu):
            return written
        # Behind a concatenation all channels are others than those of the producer.
        whole = producer.output.shape[1] if len(producer.output.shape) > 1 else 1
        return [value.shape[1] if block == whole > 1 else block for block in written]

    def _reads(self) -> list[_Read]:
        """Every tensor that a complex operator or the caller reads, traced to who stores it."""
        made = {kernel.output: kernel for kernel in self.kernels}
        found: list[_Read] = []
        for kernel, labels in self.labels.items():
            assert kernel.anchor is not None
            if kernel.anchor.op in COMPLEX:
                value = kernel.anchor.inputs[0]
                wants = tuple(read for read, _ in labels)
                found.append(_Read(self._source(value, made), value, kernel, wants))
        for value in dict.fromkeys(self.graph.outputs):
            source = self._source(value, made)
            if source is not None:
                found.append(_Read(source, value, None, (1,)))
        return found

    def _source(self, value: Value, made: Mapping[Value, Kernel]) -> Kernel | None:
        """The complex operator whose layout a value inherits; None for rows."""
        while value in made:
            kernel = made[value]
            anchor = kernel.anchor
            if anchor is not None and anchor.op in COMPLEX:
                return kernel if kernel in self.labels else None
            if anchor is not None and anchor.op in ("pool", "concat"):
                value = anchor.inputs[0]
            elif anchor is None and all(n.op == "map" for n in kernel.nodes):
                same = [v for v in kernel.inputs if v.shape == value.shape and v in made]
                if not same:
                    return None
                value = same[0]
            else:
                return None
        return None


@dataclass(frozen=True)
class _Read:
    producer: Kernel | None
    value: Value
    reader: Kernel | None
    wants: tuple[int, ...]


def choices_of(
    graph: Graph,
    kernels: Sequence[Kernel],
    tasks: Mapping[str, KernelTask],
    measured: Mapping[str, Measured],
    placed: Mapping[str, Measured] | None = None,
) -> Choices:
    """What is known about the kernels of a network.

    Args:
        graph: the network.
        kernels: how it was fused.
        tasks: its tasks by key.
        measured: measurements by task; tasks without an ok one are left to the compiler.
        placed: measurements by task within this network. Between candidates in the same layouts
            they decide.
    """
    of_kernel: dict[Kernel, KernelTask] = {}
    labels: dict[Kernel, Mapping[Label, tuple[Candidate, float]]] = {}
    rivals: dict[Kernel, Mapping[Label, Sequence[Candidate]]] = {}
    known: dict[str, Mapping[Label, Sequence[tuple[float, Candidate]]]] = {}
    for kernel, task in tasks_by_kernel(kernels, tasks):
        if task.key not in known:
            known[task.key] = _by_label(task, measured.get(task.key, {}))
        if not known[task.key]:
            continue
        of_kernel[kernel] = task
        own = Candidate(default := task.layouts.default(), task.loops(default).default())
        there = {c: m.best for c, m in (placed or {}).get(task.key, {}).items() if m.ok}
        if own in there:
            there[own] *= MARGIN
        rivals[kernel] = {
            label: _some([candidate for _, candidate in ranked], own)
            for label, ranked in known[task.key].items()
        }
        labels[kernel] = {
            label: (min(rivals[kernel][label], key=lambda c: there.get(c, inf)), ranked[0][0])
            for label, ranked in known[task.key].items()
        }
    return Choices(graph, kernels, of_kernel, labels, rivals)


def _some(ranked: Sequence[Candidate], default: Candidate) -> Sequence[Candidate]:
    """The first few, and the default if it is there at all."""
    few = list(ranked[:RIVALS])
    if default in ranked and default not in few:
        few[-1] = default
    return few


def tasks_by_kernel(
    kernels: Sequence[Kernel], tasks: Mapping[str, KernelTask]
) -> Iterable[tuple[Kernel, KernelTask]]:
    """Each kernel that has a task, with its task."""
    some = next(iter(tasks.values()), None)
    for kernel in kernels:
        if some is not None and kernel.anchor is not None:
            key = some.of(kernel).key
            if key in tasks:
                yield kernel, tasks[key]


def _by_label(task: KernelTask, measured: Measured) -> dict[Label, list[tuple[float, Candidate]]]:
    """Candidates by their layouts, the fastest first; those in the default's layouts come first."""
    found: dict[Label, list[tuple[float, int, Candidate]]] = {}
    for number, (candidate, measurement) in enumerate(measured.items()):
        if not measurement.ok or not task.layouts.contains(candidate.layout):
            continue
        label = task.blocks(candidate.layout)
        found.setdefault(label, []).append((measurement.best, number, candidate))
    default = task.blocks(task.layouts.default())
    ranked = {
        label: fitting
        for label, entries in found.items()
        if (fitting := _fitting(task, sorted(entries, key=lambda entry: entry[:2])))
    }
    if default not in ranked and not isinstance(task.machine, Gpu):
        return {}
    others = sorted((c[0][0], label) for label, c in ranked.items() if label != default)
    # What a GPU's network has by rule depends on more than the task: others may know the task.
    kept = [default] if default in ranked else []
    kept += [label for _, label in others[: MOST_LABELS - len(kept)]]
    return {label: ranked[label] for label in kept}


def _fitting(
    task: KernelTask, ranked: Iterable[tuple[float, int, Candidate]]
) -> list[tuple[float, Candidate]]:
    """The first few that answer what is asked today, and the default if it is there."""
    own = Candidate(default := task.layouts.default(), task.loops(default).default())
    found: list[tuple[float, Candidate]] = []
    for seconds, _, candidate in ranked:
        wanted = len(found) < RIVALS or candidate == own
        if wanted and task.loops(candidate.layout).contains(candidate.loops):
            found.append((seconds, candidate))
    return found
