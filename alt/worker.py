"""The inside of a worker: builds candidates, compares their results, times them.

A worker does what it is told, one request at a time, and answers each. What Python can catch is
answered; what it cannot, ends the process, and the other side sees that.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from alt.build import Program, build
from alt.cuda.gpu import Gpu
from alt.errors import AltError
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
from alt.target import Hardware, Machine, last_cache_bytes, require_cpu
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
class Held:
    """A candidate, or a conversion, that was built.

    Attributes:
        program: with its weights.
        inputs: in the order of its parameters.
        output: what it computes.
        bound: the error that is allowed.
        key: of the task; of a conversion empty.
        file: its code, as the name and content of a file, if it is to run elsewhere.
        linked: its code with that of its kernels, once it was loaded on a GPU.
        ready: the program with its memory, once it has run.
    """

    program: Program
    inputs: list[Value]
    output: Value
    bound: float
    key: str = ""
    file: tuple[str, bytes] | None = None
    linked: Any = None
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
    machine: Hardware
    weights: RecentArrays = field(default_factory=lambda: RecentArrays(WEIGHT_BYTES))
    held: dict[int, Held] = field(default_factory=dict)
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
            self._limit_memory()
            connection.send(self.answer(request))

    def answer(self, request: Request) -> Reply:
        """Do what is asked; whatever goes wrong is the answer."""
        failed = Status.build if isinstance(request, Build) else Status.run
        try:
            return self._do(request)
        except Exception as problem:  # noqa: BLE001 - a candidate may raise anything
            # Behind the first line of ours is what shows it; TVM's last one says what it is.
            said = str(problem)
            said = said.partition("\n")[0] if isinstance(problem, AltError) else said
            message = f"{type(problem).__name__}: {one_line(said)}"
            return Measurement(status_of(message, failed), message=message)

    def _do(self, request: Request) -> Reply:
        match request:
            case Refer(key, seed):
                return self._reference(key, seed)
            case Build(numbers, named):
                start = time.perf_counter()
                self.held.update(zip(numbers, self._built(named), strict=True))
                return Built((time.perf_counter() - start) / len(numbers))
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

    def _reference(self, key: str, seed: int | None) -> np.ndarray:
        if seed is not None:
            return self._expected(key, random_values(self.tasks[key].inputs, seed))
        self._select(key)
        if key not in self.references:
            self.references[key] = self._expected(key, self.inputs[key])
        return self.references[key]

    def _expected(self, key: str, inputs: Mapping[Value, np.ndarray]) -> np.ndarray:
        self._use_threads()
        task = self.tasks[key]
        return expected(task.kernel, dict(inputs), task.constants, self.here)

    def _built(self, named: Sequence[Named]) -> list[Held]:
        """Candidates of one task."""
        task = self.tasks[named[0].key]
        precision = self.machine.precision if isinstance(self.machine, Gpu) else "fp32"
        programs = task.programs([each.candidate for each in named], self.weights)
        found: list[Held] = []
        for each, program in zip(named, programs, strict=True):
            # On a GPU the algorithm is the size of Winograd's tile, or 0.
            tile = each.layout.get("winograd")
            algorithm = "winograd" if tile else str(each.layout.get("algorithm", ""))
            bound = error_bound(algorithm, precision)
            held = Held(program, task.inputs, task.kernel.output, bound, each.key)
            self._finish(held)
            found.append(held)
        return found

    def _run(self, request: Run) -> Measurement:
        held = self.held.pop(request.number)
        self._select(held.key)
        if request.reference is not None:
            self.references[held.key] = request.reference
        if held.ready is None:
            inputs = self.inputs[held.key]
            held.ready = runnable(held.program, inputs, [held.output], self.packed)
        reference = None if request.checked else self.references[held.key]
        found = self._measured(held, held.ready, reference, request.timing, request.best)
        if found.ok and not request.last:
            self.held[request.number] = held
        return found

    def _check(self, request: Check) -> Measurement:
        start = time.perf_counter()
        (held,) = self._built([request.named])
        seconds = time.perf_counter() - start
        values = random_values(held.inputs, request.seed)
        ready = runnable(held.program, values, [held.output])
        found = self._measured(held, ready, request.reference, request.timing)
        return replace(found, build_seconds=seconds)

    def _convert(self, request: Convert) -> Measurement:
        start = time.perf_counter()
        source, target = (Value(n, request.shape, request.dtype) for n in ("source", "target"))
        layouts = {source: Layout.parse(request.stored), target: Layout.parse(request.wanted)}
        plan = Plan([copy_kernel(source, target)], layouts, [target])
        program = build(Graph([source], [target], [], {}), plan, self.machine, alone=True)
        held = Held(program, [source], target, 0.0)
        self._finish(held)
        seconds = time.perf_counter() - start
        values = random_values([source], self.job.seed)
        ready = runnable(program, values, [target])
        found = self._measured(held, ready, values[source], request.timing)
        return replace(found, build_seconds=seconds)

    # --- where candidates run -------------------------------------------------------------------

    @property
    def here(self) -> Machine:
        """The machine that computes references."""
        return require_cpu(self.machine)

    def _limit_memory(self) -> None:
        """Let this process take as much as a candidate may, from now on."""
        _allow_memory(self.job.memory_bytes)

    def _finish(self, held: Held) -> None:
        """The last step of building."""
        # Machine code is made when a function is first asked for.
        held.program.library[held.program.entry]

    def _measured(
        self,
        held: Held,
        ready: Runnable,
        reference: np.ndarray | None,
        timing: Timing,
        best: float = inf,
    ) -> Measurement:
        """Run once, compare, time; without a reference only time."""
        self._use_threads()
        first = seconds_of(ready)
        error = None
        if reference is not None:
            error = error_of(ready, held.output, reference)
            if not error <= held.bound:
                return wrong(error, held.bound)
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


def wrong(error: float, bound: float, where: str = "") -> Measurement:
    """The measurement of a candidate that computes something else."""
    message = f"{where}differs by {error:.2g} of the largest element, {bound:g} is allowed"
    return Measurement(Status.wrong, error=error, message=message)


def _allow_memory(more: int) -> None:
    """Let this process take so many bytes more than now, where the system can hold it to that."""
    if sys.platform == "linux":
        import resource  # there is none on Windows

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - twice as fast
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))
