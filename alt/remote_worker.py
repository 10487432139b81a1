"""A worker that builds here and runs there: each run has a session on a server of its own.

What is compared is computed here. Linking, sending and the session take about 0.2 s a candidate
more than running here does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import ceil, inf

import numpy as np

from alt.build import Program, build
from alt.errors import AltError
from alt.expected import Runnable, error_bound, error_of, expected, random_values, runnable
from alt.graph import Graph, Value
from alt.linker import linked
from alt.messages import Build, Built, Check, Convert, Job, Named, Reply, Request, Run, Timing
from alt.propagate import Plan, copy_kernel
from alt.servers import Servers
from alt.session import LostError, Session
from alt.target import Machine, resolve
from alt.worker import Worker
from primitives import Layout
from tuner.task import Measurement, Status


@dataclass(frozen=True)
class RemoteJob(Job):
    """A job whose candidates run elsewhere.

    Attributes:
        servers: where.
        wait_seconds: how long to wait for a server that is free.
        session_seconds: that running and timing a candidate may take.
    """

    servers: Servers
    wait_seconds: float
    session_seconds: float


@dataclass(frozen=True)
class NoDevice(Measurement):
    """A failure that says nothing of the candidate: there is no server that can measure it."""


@dataclass(frozen=True)
class _Shipment:
    """What was built, on its way to a server.

    Attributes:
        key: of the task.
        program: with its weights.
        file: its code, as the name and content of a file.
        inputs: in the order of its parameters.
        output: what it computes.
        bound: the error that is allowed.
    """

    key: str
    program: Program
    file: tuple[str, bytes]
    inputs: list[Value]
    output: Value
    bound: float


@dataclass
class RemoteWorker(Worker):
    """See `alt.worker.Worker`; the machine is the one that code is for, not this one."""

    shipments: dict[int, _Shipment] = field(default_factory=dict)
    here: Machine = field(default_factory=lambda: resolve("llvm"))

    def _do(self, request: Request) -> Reply:
        match request:
            case Build(number, named):
                start = time.perf_counter()
                self.shipments[number] = self._shipment(named)
                return Built(time.perf_counter() - start)
            case Run():
                return self._run(request)
            case Check():
                return self._check(request)
            case Convert():
                return self._convert(request)
            case _:
                return super()._do(request)

    def _expected(self, key: str, inputs: dict[Value, np.ndarray]) -> np.ndarray:
        self._use_threads()
        task = self.tasks[key]
        return expected(task.kernel, inputs, task.constants, self.here)

    def _reference(self, key: str) -> np.ndarray:
        self._select(key)
        if key not in self.references:
            self.references[key] = self._expected(key, dict(self.inputs[key]))
        return self.references[key]

    def _shipment(self, named: Named) -> _Shipment:
        task = self.tasks[named.key]
        program = task.program(named.candidate, self.weights)
        bound = error_bound(str(named.layout.get("algorithm", "")))
        file = linked(program.library, self.machine.description)
        return _Shipment(named.key, program, file, task.inputs, task.kernel.output, bound)

    def _run(self, request: Run) -> Measurement:
        shipment = self.shipments[request.number]
        if request.last:
            del self.shipments[request.number]
        self._select(shipment.key)
        if request.reference is not None:
            self.references[shipment.key] = request.reference
        inputs = self.inputs[shipment.key]
        ready = runnable(shipment.program, inputs, [shipment.output], self.packed)
        reference = None if request.checked else self.references[shipment.key]
        return self._measured(shipment, ready, reference, request.timing, request.best)

    def _check(self, request: Check) -> Measurement:
        start = time.perf_counter()
        shipment = self._shipment(request.named)
        seconds = time.perf_counter() - start
        values = random_values(shipment.inputs, request.seed)
        reference = self._expected(request.named.key, dict(values))
        ready = runnable(shipment.program, values, [shipment.output])
        found = self._measured(shipment, ready, reference, request.timing, inf)
        return replace(found, build_seconds=seconds)

    def _convert(self, request: Convert) -> Measurement:
        start = time.perf_counter()
        source, target = (Value(n, request.shape, request.dtype) for n in ("source", "target"))
        layouts = {source: Layout.parse(request.stored), target: Layout.parse(request.wanted)}
        plan = Plan([copy_kernel(source, target)], layouts, [target])
        program = build(Graph([source], [target], [], {}), plan, self.machine, alone=True)
        file = linked(program.library, self.machine.description)
        shipment = _Shipment("", program, file, [source], target, 0.0)
        seconds = time.perf_counter() - start
        values = random_values([source], self.job.seed)
        ready = runnable(program, values, [target])
        found = self._measured(shipment, ready, values[source], request.timing, inf)
        return replace(found, build_seconds=seconds)

    def _measured(
        self,
        shipment: _Shipment,
        ready: Runnable,
        reference: np.ndarray | None,
        timing: Timing,
        best: float,
    ) -> Measurement:
        """Run on whichever server is free, compare, time; without a reference only time."""
        job = self.job
        assert isinstance(job, RemoteJob)
        try:
            session = job.servers.open(job.wait_seconds, job.session_seconds)
        except AltError as problem:
            return NoDevice(Status.timeout, message=str(problem))
        try:
            with session.translated():
                return _on_device(session, job.threads, shipment, ready, reference, timing, best)
        except LostError as problem:
            status = Status.timeout if problem.timeout else Status.crash
            return Measurement(status, message=str(problem))
        except AltError as problem:
            return NoDevice(Status.run, message=str(problem))


def _on_device(
    session: Session,
    threads: int,
    shipment: _Shipment,
    ready: Runnable,
    reference: np.ndarray | None,
    timing: Timing,
    best: float,
) -> Measurement:
    session.use_threads(threads)
    library = session.load(*shipment.file)
    *filled, arena = ready.arrays
    tensors = [*(session.place(array) for array in filled), session.place(arena, copied=False)]
    error = None
    if reference is not None:
        library["main"](*tensors)
        stored = ready.arrays[len(shipment.inputs)]
        stored[...] = tensors[len(shipment.inputs)].numpy()
        error = error_of(ready, shipment.output, reference)
        if not error <= shipment.bound:
            message = (
                f"server {session.address}: differs by {error:.2g} of the largest element, "
                f"{shipment.bound:g} is allowed"
            )
            return Measurement(Status.wrong, error=error, message=message)
    once = session.time(library, tensors, 1, 1)[0]
    calls = max(1, ceil(timing.min_seconds / max(once, 1e-7)))
    if once > timing.hopeless * best:
        # One slow call may be bad luck; as many as fit into a sample are not.
        samples = session.time(library, tensors, calls, 1)
    else:
        calls = 1 if timing.flush_bytes else calls
        samples = session.time(library, tensors, calls, timing.repeats, timing.flush_bytes)
    return Measurement(Status.ok, tuple(samples), error)
