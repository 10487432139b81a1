"""A worker that builds here and runs there: each run has a session on a server of its own.

What is compared is computed here. Linking, sending and the session take about 0.2 s a candidate
more than running here does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf

import numpy as np

from alt.errors import AltError
from alt.expected import Runnable, error_of
from alt.linker import linked
from alt.messages import Job, Timing
from alt.servers import Servers
from alt.session import LostError, Session
from alt.target import Machine, resolve
from alt.worker import Held, Worker, wrong
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


@dataclass
class RemoteWorker(Worker):
    """See `alt.worker.Worker`; the machine is the one that code is for, not this one."""

    @cached_property
    def here(self) -> Machine:
        """This one."""
        return resolve("llvm")

    def _finish(self, held: Held) -> None:
        held.file = linked(held.program.library, self.machine.description)

    def _measured(
        self,
        held: Held,
        ready: Runnable,
        reference: np.ndarray | None,
        timing: Timing,
        best: float = inf,
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
                return _on_device(session, job.threads, held, ready, reference, timing, best)
        except LostError as problem:
            status = Status.timeout if problem.timeout else Status.crash
            return Measurement(status, message=str(problem))
        except AltError as problem:
            return NoDevice(Status.run, message=str(problem))


def _on_device(
    session: Session,
    threads: int,
    held: Held,
    ready: Runnable,
    reference: np.ndarray | None,
    timing: Timing,
    best: float,
) -> Measurement:
    assert held.file is not None
    session.use_threads(threads)
    library = session.load(*held.file)
    *filled, arena = ready.arrays
    tensors = [*(session.place(array) for array in filled), session.place(arena, copied=False)]
    error = None
    if reference is not None:
        library["main"](*tensors)
        stored = ready.arrays[len(held.inputs)]
        stored[...] = tensors[len(held.inputs)].numpy()
        error = error_of(ready, held.output, reference)
        if not error <= held.bound:
            return wrong(error, held.bound, f"server {session.address}: ")
    once = session.time(library, tensors, 1, 1)[0]
    calls = max(1, ceil(timing.min_seconds / max(once, 1e-7)))
    if once > timing.hopeless * best:
        # One slow call may be bad luck; as many as fit into a sample are not.
        samples = session.time(library, tensors, calls, 1)
    else:
        calls = 1 if timing.flush_bytes else calls
        samples = session.time(library, tensors, calls, timing.repeats, timing.flush_bytes)
    return Measurement(Status.ok, tuple(samples), error)
