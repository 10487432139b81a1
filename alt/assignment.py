"""The choice of layouts for a whole network, as data: what may be chosen and what it costs.

Every task (a kernel of the network) has candidates: labels, each with a measured latency. A label
decides in which layout the task stores what it computes and in which it wants what it reads. Where
the two differ, a conversion is paid; tasks that want the same layout of a tensor share one.
`alt.assign` finds the labels of least total time.

What the caller gives and gets in fixed layouts is a task with one candidate of zero seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from alt.errors import AltError

Method = Literal["elimination", "integer program"]


@dataclass(frozen=True)
class Task:
    """A kernel of the network and what it costs with each label.

    Attributes:
        name: unique among the tasks.
        seconds: latency by label. The first label leaves the task as it is.
    """

    name: str
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Read:
    """A task that reads a tensor.

    Attributes:
        task: the reader.
        wants: the layout that it reads with each of its labels, in their order.
    """

    task: str
    wants: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """What one task computes and others read.

    Attributes:
        name: for the report.
        producer: the task that computes it.
        stored: the layout that it has with each of the producer's labels, in their order.
        reads: who reads it.
        seconds: what a conversion from one layout to another costs: (stored, wanted). Pairs that
            differ and can meet must be there.
    """

    name: str
    producer: str
    stored: tuple[str, ...]
    reads: tuple[Read, ...]
    seconds: Mapping[tuple[str, str], float]

    def conversion_seconds(self, stored: str, wanted: str) -> float:
        """What this tensor costs a reader that is the only one to want this layout."""
        return 0.0 if stored == wanted else self.seconds[stored, wanted]


@dataclass(frozen=True)
class Problem:
    """A network: its tasks and the tensors between them. Making one checks it.

    Raises:
        AltError: if a name is unknown or not unique, a list does not match the labels, or a time
            is missing, negative or not finite.
    """

    tasks: tuple[Task, ...]
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if len(self.numbers) < len(self.tasks):
            names = [task.name for task in self.tasks]
            twice = next(name for name in names if names.count(name) > 1)
            raise AltError(f"assign layouts: two tasks are called {twice}; names must be unique")
        for task in self.tasks:
            if not task.seconds:
                raise AltError(
                    f"assign layouts: task {task.name} has no candidate; give at least the one "
                    "that leaves it as it is"
                )
            for label, seconds in task.seconds.items():
                _check_seconds(seconds, f"task {task.name} with {label}")
        for tensor in self.tensors:
            self._check_tensor(tensor)

    def _check_tensor(self, tensor: Tensor) -> None:
        self._check_labels(tensor, tensor.producer, tensor.stored)
        for read in tensor.reads:
            if read.task == tensor.producer:
                raise AltError(
                    f"assign layouts: task {read.task} reads tensor {tensor.name}, which it "
                    "computes itself; a network has no cycles"
                )
            self._check_labels(tensor, read.task, read.wants)
        for pair, seconds in tensor.seconds.items():
            _check_seconds(seconds, f"tensor {tensor.name} from {pair[0]} to {pair[1]}")
        wanted = {layout for read in tensor.reads for layout in read.wants}
        for stored in tensor.stored:
            for layout in sorted(wanted - {stored}):
                if (stored, layout) not in tensor.seconds:
                    raise AltError(
                        f"assign layouts: tensor {tensor.name} may be stored as {stored} and "
                        f"wanted as {layout}, but no seconds are given for that conversion; "
                        "measure it"
                    )

    def _check_labels(self, tensor: Tensor, task: str, layouts: tuple[str, ...]) -> None:
        if task not in self.numbers:
            raise AltError(
                f"assign layouts: tensor {tensor.name} names task {task}, which is not there"
            )
        labels = len(self.tasks[self.numbers[task]].seconds)
        if len(layouts) != labels:
            raise AltError(
                f"assign layouts: tensor {tensor.name} lists {len(layouts)} layouts for task "
                f"{task}, which has {labels} labels; give one for each"
            )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The position of each task."""
        return {task.name: number for number, task in enumerate(self.tasks)}

    def conversions(self, choice: Sequence[int]) -> tuple[Conversion, ...]:
        """What has to be converted if every task uses the label at this position."""
        found: list[Conversion] = []
        for tensor in self.tensors:
            stored = tensor.stored[choice[self.numbers[tensor.producer]]]
            readers: dict[str, list[str]] = {}
            for read in tensor.reads:
                readers.setdefault(read.wants[choice[self.numbers[read.task]]], []).append(
                    read.task
                )
            for wanted, names in readers.items():
                if wanted != stored:
                    seconds = tensor.seconds[stored, wanted]
                    readers_once = tuple(dict.fromkeys(names))
                    found.append(Conversion(tensor.name, stored, wanted, readers_once, seconds))
        return tuple(found)

    def total_seconds(self, choice: Sequence[int]) -> float:
        """What the network costs if every task uses the label at this position."""
        kernels = (
            tuple(task.seconds.values())[label]
            for task, label in zip(self.tasks, choice, strict=True)
        )
        return math.fsum((*kernels, *(c.seconds for c in self.conversions(choice))))


@dataclass(frozen=True)
class Conversion:
    """A tensor that is stored a second time, in another layout."""

    tensor: str
    stored: str
    wanted: str
    readers: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Assignment:
    """The best labels.

    Attributes:
        labels: the label of each task.
        conversions: what has to be converted then.
        seconds: kernels and conversions together.
        unchanged_seconds: the same if every task is left as it is.
        method: how it was found.
        exact: whether nothing is better; only a time limit can make it false.
    """

    labels: Mapping[str, str]
    conversions: tuple[Conversion, ...]
    seconds: float
    unchanged_seconds: float
    method: Method
    exact: bool


def _check_seconds(seconds: float, what: str) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise AltError(
            f"assign layouts: {what} takes {seconds} seconds; times must be finite and not "
            "negative: leave out candidates that failed"
        )
