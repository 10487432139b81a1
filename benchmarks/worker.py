"""A process for one contender, stopped whenever another one is being measured.

Thread pools of inference runtimes spin for a while after each call, in the hope of the next one. In
an interleaved measurement that would slow down whoever comes next, so a worker that is not at work
is held with SIGSTOP: it can neither spin nor wake.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Arrays, Contender

TOOK_LONGER = "took longer than"
"""What a `WorkerError` says of a contender that was stopped."""


class WorkerError(Exception):
    """A contender could not do what it was asked; the message says which and why."""


class Worker:
    """Runs one contender in a process of its own, until closed.

    Args:
        contender: unprepared, hence picklable.
        timeout_seconds: how long any one request may take before the process is killed.
        service: what answers requests there.
    """

    def __init__(
        self,
        contender: Contender,
        timeout_seconds: float = 600.0,
        service: type[Service] | None = None,
    ) -> None:
        self.name = contender.name
        self._timeout_seconds = timeout_seconds
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(service or Service, contender, theirs))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    def prepare(self, model: Path, threads: int, inputs: Arrays) -> float:
        """Compile `model` and keep `inputs`; returns the compile time.

        Units: seconds, from the file to a callable, imports not included.
        """
        return self._ask("prepare", model, threads, inputs)

    def outputs(self) -> list[NDArray[Any]]:
        """The outputs of one inference."""
        return self._ask("outputs")

    def sample(self, seconds: float) -> float:
        """Seconds per inference, the mean over at least `seconds`.

        Inferences for a tenth of that go before untimed: threads wake, caches fill.
        """
        return self._ask("sample", seconds)

    def peak_bytes(self) -> int:
        """The most memory that the process has held."""
        return self._ask("peak_bytes")

    def close(self) -> None:
        """Kill the process; also right when it is stopped or gone."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()

    def _ask(self, request: str, *arguments: object) -> Any:
        """Wake the process, put one request to it, and stop it again."""
        try:
            os.kill(self.pid, signal.SIGCONT)
            self._pipe.send((request, arguments))
            if not self._pipe.poll(self._timeout_seconds):
                self._process.kill()
                raise WorkerError(
                    f"{self.name}: {request} {TOOK_LONGER} {self._timeout_seconds:g} s"
                )
            answer, problem = self._pipe.recv()
            os.kill(self.pid, signal.SIGSTOP)
        except (EOFError, ConnectionError, ProcessLookupError) as error:
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(
                f"{self.name}: process ended during {request}, exit code {code}"
            ) from error
        if problem is not None:
            raise WorkerError(f"{self.name}: {request}: {problem}")
        return answer


class Service:
    """The worker's side: one method for each request."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._inputs: Arrays = {}

    def prepare(self, model: Path, threads: int, inputs: Arrays) -> float:
        self._inputs = inputs
        self._contender.load()
        start = time.perf_counter()
        self._contender.prepare(model, threads)
        return time.perf_counter() - start

    def outputs(self) -> list[NDArray[Any]]:
        return [np.array(output) for output in self._contender.run(self._inputs)]

    def sample(self, seconds: float) -> float:
        self._repeat(seconds / 10)
        return self._repeat(seconds)

    def _repeat(self, seconds: float) -> float:
        run, inputs = self._contender.run, self._inputs
        runs, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or runs == 0:
            run(inputs)
            runs += 1
        return elapsed / runs

    def peak_bytes(self) -> int:
        return peak_bytes()


def _serve(kind: type[Service], contender: Contender, pipe: Connection) -> None:
    service = kind(contender)
    while True:
        try:
            request, arguments = pipe.recv()
        except EOFError:
            return
        try:
            reply = (getattr(service, request)(*arguments), None)
        except Exception as error:  # noqa: BLE001 - what goes wrong in a contender is a result
            first_line = next(iter(str(error).splitlines()), "")
            reply = (None, f"{type(error).__name__}: {first_line}")
        pipe.send(reply)


def peak_bytes() -> int:
    """The most memory that this process has held since it started its program.

    Linux starts `ru_maxrss` of a new program at its parent's size, so there the kernel's
    high-water mark of the address space is read instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
