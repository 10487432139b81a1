"""Measures candidates in worker processes: `tuner.task.Measurer` for the kernels of a network.

A candidate that crashes, hangs, takes all memory or computes something else costs itself only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import tvm

from alt.batch import Batch
from alt.compiler import Model
from alt.course import REFERENCE_SECONDS, WORK, Course, no_reference
from alt.errors import AltError
from alt.memory import RecentArrays
from alt.messages import Check, Convert, Job, Limits, Named, Refer, Reply, Request, Timing
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.pool import Hand, Pool
from alt.storage import channels_blocked
from alt.target import physical_cores, require_cpu, resolve
from primitives import Layout
from tuner.task import Candidate, Measurement, Task

TOGETHER = 8
"""So many candidates are compiled into one library, at most."""

REFERENCE_BYTES = 256 << 20
"""References are kept up to this size, so that each is computed once and not in every worker."""


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
        limits: what they may take; those that are built together share the time for one. By default
            as much as `timing` needs.
        overlap: build and run at the same time: faster, and times are worth little.
        seed: makes the inputs that results are compared on.
        setup: `module:function` that changes the tasks in the workers; for tests.
        precision: what a GPU may multiply, as for `alt.compile`.

    Attributes:
        together: how many candidates a worker builds at once, at most.

    Raises:
        AltError: if the model cannot be compiled.
    """

    together = TOGETHER
    _pool: Pool | None = None

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
        precision: str = "fp32",
    ) -> None:
        machine = resolve(target, threads, precision)
        if workers is not None and workers < 1:
            raise AltError(f"cannot measure with {workers} workers: give at least 1")
        size = workers or physical_cores()
        self._machine = machine
        self.timing = timing or Timing()
        self.limits = limits or Limits().allowing(self.timing)
        self.overlap = overlap
        self.spent = dict.fromkeys(WORK, 0.0)
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
            precision,
        )
        self._best: dict[str, float] = {}
        self._references = RecentArrays(REFERENCE_BYTES)
        self._pool = self._start(job, size)

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
            Unmeasurable: if there is no reference to compare with.
            AltError: if the task is not one of the network's, or no worker can be started.
        """
        pool = self._open(task.key)
        batch: Batch[Hand] = Batch(len(candidates), rounds, self.overlap, pool.size, self.together)
        best = min(best, self._best.get(task.key, inf))
        reference = self._references.find(task.key)
        course = Course(
            pool, batch, task.key, candidates, self.timing, self.limits, best, reference
        )
        try:
            course.run()
        except BaseException:
            # Ctrl-C, for one: what workers are doing is of no use any more.
            pool.drop(pool.hands)
            raise
        finally:
            for what, seconds in course.spent.items():
                self.spent[what] += seconds
        self._best[task.key] = course.best
        if course.reference is not None:
            self._references.keep(task.key, course.reference)
        return [batch.results[n] for n in range(len(candidates))]

    def check(self, task: Task, candidate: Candidate, seed: int) -> Measurement:
        """Build a candidate anew, compare it on other inputs, and time it.

        Args:
            task: one of the network's.
            candidate: of the task.
            seed: makes the inputs.

        Raises:
            Unmeasurable: if there is no reference to compare with.
        """
        self._open(task.key)
        reference = self._alone(Refer(task.key, seed), REFERENCE_SECONDS)
        if isinstance(reference, Measurement):
            raise no_reference(reference)
        assert isinstance(reference, np.ndarray), reference
        check = Check(Named.of(task.key, candidate), seed, self.timing, reference)
        return self._measurement(check)

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
        return self._measurement(request)

    # --- life -----------------------------------------------------------------------------------

    @property
    def processes(self) -> list[int]:
        """The zygote, then the workers that are alive."""
        return self._pool.processes if self._pool else []

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

    def _start(self, job: Job, size: int) -> Pool:
        require_cpu(self._machine)
        return Pool(job, size)

    def _require_working(self) -> None:
        """Copy a small tensor with every worker, so that what fails later is a candidate's fault.

        Raises:
            AltError: if that does not work.
        """
        pool = self._open()
        same = str(Layout.identity((1, 8)))
        request = Convert((1, 8), "float32", same, same, self.timing)
        pool.fill()
        for hand in pool.hands:
            pool.send(hand, request, self.limits.build_seconds + self.limits.run_seconds)
        while any(hand.busy for hand in pool.hands):
            for _, reply, _ in pool.wait():
                if isinstance(reply, Measurement) and not reply.ok:
                    raise AltError(f"a copy of 8 numbers does not work: {reply.message}")

    def _open(self, key: str | None = None) -> Pool:
        if self._pool is None:
            raise AltError("this runner was closed: make another one")
        if key is not None and key not in self._pool.keys:
            raise AltError(f"task {key} is not one of this network's {len(self._pool.keys)} tasks")
        return self._pool

    def _measurement(self, request: Check | Convert) -> Measurement:
        reply = self._alone(request, self.limits.build_seconds + self.limits.run_seconds)
        assert isinstance(reply, Measurement), reply
        return reply

    def _alone(self, request: Request, seconds: float) -> Reply:
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
        return reply


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
