"""The inside of a worker: builds candidates, compares their results, times them.

A worker does what it is told, one request at a time, and answers each. What Python can catch is
answered; what it cannot, ends the process, and the other side sees that.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from alt.build import build
from alt.expected import Runnable, error_bound, error_of, expected, random_values, runnable
from alt.graph import Graph, Value
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
from alt.propagate import Plan, copy_kernel
from alt.target import Machine, last_cache_bytes
from alt.tasks import KernelTask
from alt.threads import use_threads
from alt.timing import (
    ColdWeights,
    cold_samples,
    fastest_call,
    network_bytes,
    samples_of,
    seconds_of,
)
from primitives import Layout
from tuner.task import Measurement, Status

WEIGHT_BYTES = 256 << 20
"""A worker keeps so much of the weights that it packed last."""

_OUT_OF_MEMORY = re.compile(r"bad_alloc|out of memory|cannot allocate|MemoryError", re.IGNORECASE)


def status_of(message: str, otherwise: Status) -> Status:
    """What a failure is, by its message."""
    return Status.memory if _OUT_OF_MEMORY.search(message) else otherwise


def one_line(text: str, most: int = 300) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:most] if lines else ""


@dataclass
class _Held:
    """A candidate that was built."""

    task: KernelTask
    program: Any
    bound: float
    ready: Runnable | None = None


@dataclass
class Worker:
    """What a worker knows.

    Attributes:
        job: the network and the options.
        tasks: the tasks by key, made before the worker was forked.
        machine: what the code is for.
    """

    job: Job
    tasks: Mapping[str, KernelTask]
    machine: Machine
    weights: RecentArrays = field(default_factory=lambda: RecentArrays(WEIGHT_BYTES))
    held: dict[int, _Held] = field(default_factory=dict)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, dict[Value, np.ndarray]] = field(default_factory=dict)
    packed: dict[tuple[Value, Layout], np.ndarray] = field(default_factory=dict)
    current: str = ""

    @cached_property
    def cold(self) -> ColdWeights:
        """Memory for weights that are not in the caches."""
        constants = (a for task in self.tasks.values() for a in task.constants.values())
        return ColdWeights(network_bytes(constants), last_cache_bytes())

    def serve(self, connection: Connection) -> None:
        """Answer requests until the other side is gone."""
        while True:
            try:
                request: Request = connection.recv()
            except (EOFError, ConnectionError):
                return
            _allow_memory(self.job.memory_bytes)
            connection.send(self.answer(request))

    def answer(self, request: Request) -> Reply:
        """Do what is asked; whatever goes wrong is the answer."""
        failed = Status.build if isinstance(request, Build) else Status.run
        try:
            return self._do(request)
        except Exception as problem:  # noqa: BLE001 - a candidate may raise anything
            message = f"{type(problem).__name__}: {one_line(str(problem))}"
            return Measurement(status_of(message, failed), message=message)

    def _do(self, request: Request) -> Reply:
        match request:
            case Refer(key):
                return self._reference(key)
            case Build(number, named):
                start = time.perf_counter()
                self.held[number] = self._build(named)
                return Built(time.perf_counter() - start)
            case Run():
                return self._run(request)
            case Check():
                return self._check(request)
            case Convert():
                return self._convert(request)

    def _select(self, key: str) -> None:
        """Inputs are kept for one task at a time."""
        if key != self.current:
            self.references.clear()
            self.inputs.clear()
            self.packed.clear()
            self.inputs[key] = random_values(self.tasks[key].inputs, self.job.seed)
            self.current = key

    def _reference(self, key: str) -> np.ndarray:
        self._select(key)
        if key not in self.references:
            self._use_threads()
            task = self.tasks[key]
            values = dict(self.inputs[key])
            self.references[key] = expected(task.kernel, values, task.constants, self.machine)
        return self.references[key]

    def _build(self, named: Named) -> _Held:
        task = self.tasks[named.key]
        program = task.program(named.candidate, self.weights)
        # Machine code is made when a function is first asked for.
        program.library["main"]
        return _Held(task, program, error_bound(str(named.layout.get("algorithm", ""))))

    def _run(self, request: Run) -> Measurement:
        held = self.held.pop(request.number)
        self._select(held.task.key)
        if request.reference is not None:
            self.references[held.task.key] = request.reference
        self._use_threads()
        output = held.task.kernel.output
        if held.ready is None:
            inputs = self.inputs[held.task.key]
            held.ready = runnable(held.program, inputs, [output], self.packed)
        reference = None if request.checked else self.references[held.task.key]
        found = self._measured(
            held.ready, output, held.bound, reference, request.timing, request.best
        )
        if found.ok and not request.last:
            self.held[request.number] = held
        return found

    def _check(self, request: Check) -> Measurement:
        start = time.perf_counter()
        held = self._build(request.named)
        seconds = time.perf_counter() - start
        self._use_threads()
        task = held.task
        values = random_values(task.inputs, request.seed)
        reference = expected(task.kernel, dict(values), task.constants, self.machine)
        ready = runnable(held.program, values, [task.kernel.output])
        found = self._measured(ready, task.kernel.output, held.bound, reference, request.timing)
        return replace(found, build_seconds=seconds)

    def _convert(self, request: Convert) -> Measurement:
        start = time.perf_counter()
        source, target = (Value(n, request.shape, request.dtype) for n in ("source", "target"))
        kernel = copy_kernel(source, target)
        layouts = {source: Layout.parse(request.stored), target: Layout.parse(request.wanted)}
        plan = Plan([kernel], layouts, [target])
        program = build(Graph([source], [target], [], {}), plan, self.machine, alone=True)
        program.library["main"]
        seconds = time.perf_counter() - start
        self._use_threads()
        values = random_values([source], self.job.seed)
        ready = runnable(program, values, [target])
        found = self._measured(ready, target, 0.0, values[source], request.timing)
        return replace(found, build_seconds=seconds)

    def _measured(
        self,
        ready: Runnable,
        output: Value,
        bound: float,
        reference: np.ndarray | None,
        timing: Timing,
        best: float = inf,
    ) -> Measurement:
        """Run once, compare, time; without a reference only time."""
        first = seconds_of(ready)
        error = None
        if reference is not None:
            error = error_of(ready, output, reference)
            if not error <= bound:
                message = f"differs by {error:.2g} of the largest element, {bound:g} is allowed"
                return Measurement(Status.wrong, error=error, message=message)
        fastest = fastest_call(ready, timing, first, timing.hopeless * best)
        if fastest > timing.hopeless * best:
            return Measurement(Status.ok, (fastest,), error)
        if timing.cold_weights and not timing.flush_bytes:
            samples = cold_samples(ready, timing, fastest, self.cold)
        else:
            samples = samples_of(ready, timing, fastest)
        return Measurement(Status.ok, samples, error)

    def _use_threads(self) -> None:
        use_threads(self.job.threads, self.job.threads)


def _allow_memory(more: int) -> None:
    """Let this process take so many bytes more than now, where the system can hold it to that."""
    if sys.platform == "linux":
        import resource  # there is none on Windows

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - twice as fast
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))
