"""Measures candidates in worker processes: `tuner.task.Measurer` for the kernels of a network.

A candidate that crashes, hangs, takes all memory or computes something else costs itself only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import tvm

from alt.batch import Batch
from alt.compiler import Model
from alt.errors import AltError
from alt.memory import RecentArrays
from alt.messages import (
    Build,
    Built,
    Check,
    Convert,
    Job,
    Named,
    Refer,
    Reply,
    Request,
    Run,
    Timing,
)
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.pool import Hand, Pool
from alt.storage import channels_blocked
from alt.target import physical_cores, resolve
from primitives import Layout
from tuner.task import Candidate, Measurement, Status, Task

REFERENCE_BYTES = 256 << 20
"""References are kept up to this size, so that each is computed once and not in every worker."""

REFERENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Limits:
    """What a candidate may take.

    Attributes:
        build_seconds: for building it.
        run_seconds: for running and timing it.
        memory_bytes: for either; by default an equal share of half of the memory for each worker.
    """

    build_seconds: float = 10.0
    run_seconds: float = 10.0
    memory_bytes: int | None = None


class Runner:
    """Builds, checks and times candidates of a network's tasks.

    Args:
        model: as for `alt.compile`, like the options up to `layouts`.
        target: this machine.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        threads: threads that candidates run on; one a physical core by default.
        winograd: whether Winograd's algorithm may be used.
        layouts: which layouts there are.
        workers: processes that build at the same time; one a physical core by default.
        timing: how long and how often candidates run.
        limits: what they may take.
        overlap: build and run at the same time: faster, and times are worth little.
        seed: makes the inputs that results are compared on.
        setup: `module:function` that changes the tasks in the workers; for tests.

    Raises:
        AltError: if the model cannot be compiled.
    """

    def __init__(
        self,
        model: Model,
        target: Any = "llvm",
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
        winograd: bool = True,
        layouts: str | LayoutPolicy = JOINT,
        workers: int | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        overlap: bool = False,
        seed: int = 0,
        setup: str = "",
    ) -> None:
        machine = resolve(target, threads)
        if workers is not None and workers < 1:
            raise AltError(f"cannot measure with {workers} workers: give at least 1")
        size = workers or physical_cores()
        self.timing = timing or Timing()
        self.limits = limits or Limits()
        self.overlap = overlap
        self.spent = {"build": 0.0, "run": 0.0, "refer": 0.0}
        """Seconds of workers by what they did."""
        job = Job(
            _portable(model),
            str(target) if isinstance(target, tvm.target.Target) else target,
            shapes,
            constants,
            threads,
            threads or min(machine.cores, physical_cores()),
            policy_of(layouts),
            winograd,
            seed,
            self.limits.memory_bytes or _half_of_memory() // size,
            setup,
        )
        self._best: dict[str, float] = {}
        self._references = RecentArrays(REFERENCE_BYTES)
        self._pool: Pool | None = Pool(job, size)

    # --- what can be asked ----------------------------------------------------------------------

    def measure(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        *,
        rounds: int = 1,
        best: float = inf,
    ) -> list[Measurement]:
        """A measurement for each candidate, in their order; never raises for a bad one.

        Args:
            task: one of the network's.
            candidates: of the task.
            rounds: how often each is timed, in turns, so that what disturbs the machine for a while
                hits all alike; a measurement holds the samples of all rounds.
            best: a time known from elsewhere, in seconds. What is `timing.hopeless` times slower
                than this, or than what was measured of the task before, is timed once only.

        Raises:
            AltError: if the task is not one of the network's, or no worker can be started.
        """
        pool = self._open(task.key)
        batch: Batch[Hand] = Batch(len(candidates), rounds, self.overlap)
        best = min(best, self._best.get(task.key, inf))
        course = _Course(self, pool, batch, task.key, candidates, best)
        try:
            course.run()
        except BaseException:
            # Ctrl-C, for one: what workers are doing is of no use any more.
            pool.drop(pool.hands)
            raise
        self._best[task.key] = course.best
        return [batch.results[n] for n in range(len(candidates))]

    def check(self, task: Task, candidate: Candidate, seed: int) -> Measurement:
        """Build a candidate anew, compare it on other inputs, and time it.

        Args:
            task: one of the network's.
            candidate: of the task.
            seed: makes the inputs.
        """
        self._open(task.key)
        seconds = self.limits.build_seconds + self.limits.run_seconds + REFERENCE_SECONDS
        return self._alone(Check(Named.of(task.key, candidate), seed, self.timing), seconds)

    def time_conversion(
        self,
        shape: Sequence[int],
        dtype: str,
        stored: Layout | str | int,
        wanted: Layout | str | int,
    ) -> Measurement:
        """Time the copy of a tensor from one layout to another.

        Args:
            shape: of the tensor.
            dtype: of the tensor.
            stored: its layout before, as a value or a text; a number stands for that many channels
                next to each other.
            wanted: its layout after.

        Raises:
            LayoutError: if a text is not a layout.
            AltError: if a layout is one of another shape.
        """
        self._open()
        shape = tuple(shape)
        texts = [str(_layout(shape, layout)) for layout in (stored, wanted)]
        request = Convert(shape, dtype, texts[0], texts[1], self.timing)
        return self._alone(request, self.limits.build_seconds + self.limits.run_seconds)

    # --- life -----------------------------------------------------------------------------------

    @property
    def processes(self) -> list[int]:
        """The workers that are alive."""
        return [hand.process for hand in self._pool.hands] if self._pool else []

    def close(self) -> None:
        """End all processes. What is asked afterwards is refused."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------

    def _open(self, key: str | None = None) -> Pool:
        if self._pool is None:
            raise AltError("this runner was closed: make another one")
        if key is not None and key not in self._pool.keys:
            raise AltError(f"task {key} is not one of this network's {len(self._pool.keys)} tasks")
        return self._pool

    def _alone(self, request: Request, seconds: float) -> Measurement:
        """Ask one worker, while the others have nothing to do."""
        pool = self._open()
        pool.fill()
        hand = pool.hands[0]
        try:
            pool.send(hand, request, seconds)
            _, reply, _ = pool.wait()[0]
        except BaseException:
            pool.drop(pool.hands)
            raise
        assert isinstance(reply, Measurement), reply
        return reply


@dataclass
class _Course:
    """One call of `measure`."""

    runner: Runner
    pool: Pool
    batch: Batch[Hand]
    key: str
    candidates: Sequence[Candidate]
    best: float
    reference: np.ndarray | None = None
    doing: dict[Hand, tuple[Request, float]] = field(default_factory=dict)
    build_seconds: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        self.reference = self.runner._references.find(self.key)
        while not self.batch.done:
            self.pool.fill()
            for hand in self.pool.hands:
                if not hand.busy:
                    self.give(hand)
            for hand, reply, alive in self.pool.wait():
                request, start = self.doing.pop(hand)
                kind = type(request).__name__.lower()
                self.runner.spent[kind] += time.monotonic() - start
                if not alive:
                    self.batch.lose(hand)
                self.take(hand, request, reply)

    def give(self, hand: Hand) -> None:
        """Find something to do for a worker."""
        limits = self.runner.limits
        busy = bool(self.doing)
        if self.reference is None and not any(isinstance(r, Refer) for r, _ in self.doing.values()):
            self.ask(hand, Refer(self.key), REFERENCE_SECONDS)
        elif (number := self.batch.to_build()) is not None:
            named = Named.of(self.key, self.candidates[number])
            self.ask(hand, Build(number, named), limits.build_seconds)
        elif self.reference is not None and (number := self.batch.to_run(hand, busy)) is not None:
            before = self.batch.rounds_of(number)
            request = Run(
                number,
                self.runner.timing,
                None if hand.knows == self.key else self.reference,
                self.best,
                last=before + 1 >= self.batch.rounds,
                checked=before > 0,
            )
            hand.knows = self.key
            self.ask(hand, request, limits.run_seconds)

    def ask(self, hand: Hand, request: Request, seconds: float) -> None:
        self.doing[hand] = request, time.monotonic()
        self.pool.send(hand, request, seconds)

    def take(self, hand: Hand, request: Request, reply: Reply) -> None:
        """Note what a worker answered, or what became of it."""
        match request, reply:
            case Refer(), np.ndarray():
                self.reference = reply
                hand.knows = self.key
                self.runner._references.keep(self.key, reply)
            case Refer(), Measurement():
                # Nothing can be believed of this task.
                message = f"there is no reference: {reply.message}"
                for number in range(self.batch.count):
                    self.batch.finish(number, replace(reply, message=message))
            case Build(number), Built(seconds):
                self.batch.built(hand, number)
                self.build_seconds[number] = seconds
            case Build(number), Measurement():
                self.batch.finish(number, _saying("building", reply, self.runner.limits))
            case Run(number), Measurement():
                self.best = min(self.best, reply.best)
                seconds = self.build_seconds[number]
                reply = _saying("running", reply, self.runner.limits)
                self.batch.ran(number, replace(reply, build_seconds=seconds))


def _saying(doing: str, failure: Measurement, limits: Limits) -> Measurement:
    """The measurement; a failure with what was being done."""
    if failure.ok or failure.status is Status.wrong:
        return failure
    if failure.status is Status.timeout:
        most = limits.build_seconds if doing == "building" else limits.run_seconds
        return replace(failure, message=f"{doing} it took more than {most:g} s")
    return replace(failure, message=f"{doing} it: {failure.message}")


def _portable(model: Model) -> str | bytes:
    """The model as another process can read it."""
    if isinstance(model, str | Path):
        return str(Path(model).absolute())
    if not isinstance(model, onnx.ModelProto):
        return bytes(model)
    try:
        return model.SerializeToString()
    except ValueError as cause:
        raise AltError(
            "this model is too large to be handed to other processes: save it and pass its path"
        ) from cause


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _layout(shape: tuple[int, ...], given: Layout | str | int) -> Layout:
    if isinstance(given, int):
        return channels_blocked(shape, given, ())
    layout = given if isinstance(given, Layout) else Layout.parse(given)
    if layout.logical_shape != shape:
        raise AltError(f"layout {layout} is not one of a tensor of shape {shape}")
    return layout
