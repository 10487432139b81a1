"""From measurements to a network: which candidate every kernel gets.

Neighbours may be fastest in different layouts, and a conversion in between costs time. The labels
of the whole network are chosen exactly from what was measured (`alt.assign`); leaving every layout
as the compiler would have it is always among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alt.assign import assign
from alt.assignment import Problem, Read, Task, Tensor
from alt.blocks import COMPLEX
from alt.decisions import decided, storage_of
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

LIMIT_SECONDS = 60.0
"""For graphs that no known network resembles: then the best labels found so far are taken."""

Measured = Mapping[Candidate, Measurement]
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
        labels: of each such kernel, its best candidate by (read, write) blocks; those of the
            default come first.
    """

    graph: Graph
    kernels: Sequence[Kernel]
    tasks: Mapping[Kernel, KernelTask]
    labels: Mapping[Kernel, Mapping[tuple[int, int], tuple[Candidate, float]]]

    def conversions(self) -> list[Conversion]:
        """Every conversion that some choice of labels may need, each once."""
        found: dict[Conversion, None] = {}
        for read in self._reads():
            for stored in self._stored(read.producer):
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
            stored = tuple(str(s) for s in self._stored(producer))
            costs = {
                (str(c.stored), str(c.wanted)): s
                for c, s in seconds.items()
                if (c.shape, c.dtype) == (value.shape, value.dtype)
            }
            name = _CALLER if producer is None else self._name(producer)
            made.append(Tensor(value.name, name, stored, tuple(reads), costs))
        return Problem(tuple(tasks), tuple(made))

    def decide(self, variant: Variant, seconds: Mapping[Conversion, float]) -> list[Kernel]:
        """The kernels, with what was chosen for each."""
        best: Mapping[str, str] = {}
        if variant == "joint":
            best = assign(self.problem(seconds), limit_seconds=LIMIT_SECONDS).labels
        kernels: list[Kernel] = []
        for kernel in self.kernels:
            labels = self.labels.get(kernel)
            if labels is None or variant == "default":
                kernels.append(kernel)
                continue
            label = next(iter(labels))
            if best:
                read, write = best[self._name(kernel)].split(",")
                label = int(read), int(write)
            candidate, _ = labels[label]
            kernels.append(decided(kernel, candidate.layout, candidate.loops))
        return kernels

    # --- who reads what from whom ---------------------------------------------------------------

    def _name(self, kernel: Kernel) -> str:
        return f"{self._numbers[kernel]} {kernel.name}"

    @property
    def _numbers(self) -> dict[Kernel, int]:
        return {kernel: number for number, kernel in enumerate(self.kernels)}

    def _stored(self, producer: Kernel | None) -> list[int]:
        return [1] if producer is None else [write for _, write in self.labels[producer]]

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
) -> Choices:
    """What is known about the kernels of a network.

    Args:
        graph: the network.
        kernels: how it was fused.
        tasks: its tasks by key.
        measured: measurements by task; tasks without an ok one are left to the compiler.
    """
    of_kernel: dict[Kernel, KernelTask] = {}
    labels: dict[Kernel, Mapping[tuple[int, int], tuple[Candidate, float]]] = {}
    known: dict[str, Mapping[tuple[int, int], tuple[Candidate, float]]] = {}
    for kernel, task in tasks_by_kernel(kernels, tasks):
        if task.key not in known:
            known[task.key] = _labels(task, measured.get(task.key, {}))
        if known[task.key]:
            of_kernel[kernel], labels[kernel] = task, known[task.key]
    return Choices(graph, kernels, of_kernel, labels)


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


def _labels(task: KernelTask, measured: Measured) -> dict[tuple[int, int], tuple[Candidate, float]]:
    """The best candidate for each pair of layouts; that of the default's layouts comes first."""
    best: dict[tuple[int, int], tuple[Candidate, float]] = {}
    for candidate, measurement in measured.items():
        if not measurement.ok or not task.layouts.contains(candidate.layout):
            continue
        storage = storage_of(
            decided(task.kernel, candidate.layout, candidate.loops),
            task.machine,
            task.policy,
            task.winograd,
        )
        label = (storage.read, storage.write) if storage is not None else (1, 1)
        if label not in best or measurement.best < best[label][1]:
            best[label] = candidate, measurement.best
    own = storage_of(task.kernel, task.machine, task.policy, task.winograd)
    default = (own.read, own.write) if own is not None else (1, 1)
    if default not in best:
        return {}
    others = sorted((s, label) for label, (_, s) in best.items() if label != default)
    kept = [default, *(label for _, label in others[: MOST_LABELS - 1])]
    return {label: best[label] for label in kept}
