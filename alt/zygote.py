"""A process that holds a network's tasks and forks workers that hold them, too.

Importing TVM and reading the model take seconds, forking takes milliseconds. This process runs no
kernel and has one thread, so that it may be forked; it lives as long as the process that started
it, and its workers live no longer.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection

from alt.compiler import fused
from alt.errors import AltError
from alt.messages import Job
from alt.propagate import plan_layouts
from alt.remote_worker import RemoteJob, RemoteWorker
from alt.target import Machine, require_cpu
from alt.tasks import KernelTask, tasks_of
from alt.worker import Worker

_DIE_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux."""


def tasks_for(job: Job) -> tuple[dict[str, KernelTask], Machine]:
    """The tasks of a job's network by key, and the machine they are for.

    Raises:
        AltError: if the network cannot be compiled.
    """
    network = fused(
        job.model,
        job.target,
        shapes=job.shapes,
        constants=job.constants,
        threads=job.schedule_threads,
        precision=job.precision,
    )
    machine, known = require_cpu(network.machine), network.graph.constants
    plan = plan_layouts(network.graph, network.kernels, machine, job.winograd, job.policy)
    tasks = tasks_of(network.kernels, known, machine, plan, job.policy, job.winograd)
    if job.setup:
        module, _, function = job.setup.partition(":")
        tasks = getattr(importlib.import_module(module), function)(tasks)
    return tasks, machine


def serve(control: Connection) -> None:
    """Read a job, then fork and bury workers as told, until the other side is gone.

    The first answer is the keys of the tasks, or an `AltError`. `fork` is followed by two files, a
    worker's connection and its log, and answered by its process id; `("bury", id)` waits for the
    end of one and is answered by its exit code as `subprocess` gives it.
    """
    job: Job = control.recv()
    try:
        tasks, machine = tasks_for(job)
    except AltError as problem:
        control.send(problem)
        return
    kind = RemoteWorker if isinstance(job, RemoteJob) else Worker
    libc = ctypes.CDLL(None)
    # Objects made so far are shared with the workers: collecting garbage would copy their pages.
    gc.collect()
    gc.freeze()
    control.send(sorted(tasks))
    alive: set[int] = set()
    try:
        while True:
            match control.recv():
                case "fork":
                    connection, log = _received(control)
                    own = os.getpid()
                    process = os.fork()
                    if process == 0:
                        control.close()
                        _work(libc, own, kind(job, tasks, machine), connection, log)
                    os.close(connection)
                    os.close(log)
                    alive.add(process)
                    control.send(process)
                case "bury", int(process):
                    alive.discard(process)
                    control.send(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    except (EOFError, ConnectionError):
        pass
    finally:
        for process in alive:
            os.kill(process, signal.SIGKILL)


def _received(control: Connection) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(control.fileno())) as channel:
        _, files, _, _ = socket.recv_fds(channel, 1, 2)
    connection, log = files
    return connection, log


def _work(libc: ctypes.CDLL, parent: int, worker: Worker, connection: int, log: int) -> None:
    """The life of a worker; never returns."""
    try:
        if sys.platform == "linux":
            libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # it died before we asked
                return
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        worker.serve(Connection(connection))
    except BaseException:  # noqa: BLE001 - nothing may go on as a second zygote
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def main() -> None:
    """Run on the control connection whose number is the last argument."""
    # Who started us ends us; Ctrl-C is for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import resource
    except ImportError:
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(int(sys.argv[-1])))


if __name__ == "__main__":
    main()
