"""The other side of `alt.zygote`: starts it, asks it for workers, replaces those that died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import connection as mp
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from alt.errors import AltError
from alt.messages import Job, Reply, Request
from alt.worker import one_line, status_of
from alt.zygote import end
from tuner.task import Measurement, Status

TOO_LONG = "took too long"
"""What is said of a worker that did not answer in time."""

_START = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from alt.zygote import main
main()
"""


@dataclass(eq=False)
class Hand:
    """A worker process, as seen from outside.

    Attributes:
        process: its id.
        connection: to talk to it.
        log: what it prints.
        deadline: when it is given up, by the monotonic clock; infinite while it has nothing to do.
        knows: the task whose reference it was given.
    """

    process: int
    connection: Connection
    log: IO[bytes]
    deadline: float = float("inf")
    knows: str = ""

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return self.deadline < float("inf")


@dataclass(eq=False)
class Pool:
    """Workers that all hold the same tasks.

    Attributes:
        job: what they are for.
        size: how many there are.
        hands: those that are alive.
        keys: the tasks they hold.
        forked: how many were started so far.
    """

    job: Job
    size: int
    hands: list[Hand] = field(default_factory=list)
    keys: frozenset[str] = frozenset()
    forked: int = 0

    def __post_init__(self) -> None:
        """Start the zygote and wait for its tasks."""
        ours, theirs = socket.socketpair()
        self._log = _log()
        path = [str(Path(p).absolute()) for p in sys.path]
        # BLAS would start threads in a process that is going to be forked, and workers share cores.
        single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        threads = {
            "TVM_NUM_THREADS": str(self.job.threads),
            # By default they wait for more work in a loop for about 0.1 s, in which others run.
            "TVM_THREAD_POOL_SPIN_COUNT": "3000",
            # Otherwise it asks torch for GPUs, and what is forked from a process in which CUDA
            # was started cannot use it.
            "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1",
        }
        with theirs:
            self._zygote = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **single, **threads},
                # Ctrl-C at a terminal is for us only.
                start_new_session=True,
            )
        self._control = Connection(ours.detach())
        try:
            self._control.send(self.job)
            answer = self._control.recv()
        except (EOFError, ConnectionError) as cause:
            raise self._broken() from cause
        except BaseException:
            self.close()
            raise
        if isinstance(answer, AltError):
            self.close()
            raise answer
        self.keys = frozenset(answer)

    @property
    def processes(self) -> list[int]:
        """The zygote, then the workers."""
        return [self._zygote.pid, *(hand.process for hand in self.hands)]

    def fill(self) -> list[Hand]:
        """Fork until there are as many workers as there should be.

        Returns:
            Workers that were found to have died while they had nothing to do.
        """
        # They say nothing unasked: what can be read is their end.
        dead = [hand for hand in self.hands if not hand.busy and hand.connection.poll()]
        for hand in dead:
            self._bury(hand)
        while len(self.hands) < self.size:
            self.hands.append(self._fork())
        return dead

    def _fork(self) -> Hand:
        ours, theirs = socket.socketpair()
        log = _log()
        with theirs:
            try:
                self._control.send("fork")
                with socket.socket(fileno=os.dup(self._control.fileno())) as channel:
                    socket.send_fds(channel, [b"x"], [theirs.fileno(), log.fileno()])
                process = self._control.recv()
            except (EOFError, ConnectionError) as cause:
                raise self._broken() from cause
        self.forked += 1
        return Hand(process, Connection(ours.detach()), log)

    def send(self, hand: Hand, request: Request, seconds: float) -> None:
        """Ask a worker for something.

        Args:
            hand: which one; not busy.
            request: what it is to do.
            seconds: after which it is killed.
        """
        hand.log.truncate(0)
        hand.deadline = time.monotonic() + seconds
        # A dead one is noticed by `wait`.
        with contextlib.suppress(ConnectionError):
            hand.connection.send(request)

    def wait(self) -> list[tuple[Hand, Reply, bool]]:
        """Wait until a busy worker answers, dies, or runs out of time.

        Returns:
            (worker, its answer, whether it is alive) for one or more workers. Those that are not
            are no longer among `hands`; the answer is what became of them.
        """
        busy = [hand for hand in self.hands if hand.busy]
        left = min(hand.deadline for hand in busy) - time.monotonic()
        ready = mp.wait([hand.connection for hand in busy], max(left, 0.0))
        found: list[tuple[Hand, Reply, bool]] = []
        for hand in busy:
            if hand.connection in ready:
                try:
                    reply = hand.connection.recv()
                except (EOFError, ConnectionError):
                    found.append((hand, self._bury(hand), False))
                else:
                    hand.deadline = float("inf")
                    found.append((hand, reply, True))
            elif hand.deadline <= time.monotonic():
                self.kill(hand)
                found.append((hand, Measurement(Status.timeout, message=TOO_LONG), False))
        return found

    def kill(self, hand: Hand) -> None:
        """End a worker."""
        end(hand.process)
        self._bury(hand)

    def _bury(self, hand: Hand) -> Measurement:
        """What became of a worker that died."""
        self.hands.remove(hand)
        hand.connection.close()
        hand.log.seek(0)
        printed = one_line(hand.log.read().decode(errors="replace"))
        hand.log.close()
        try:
            self._control.send(("bury", hand.process))
            code = self._control.recv()
        except (EOFError, ConnectionError) as cause:
            raise self._broken() from cause
        how = f"ended with {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            # We did not: the system does this when memory runs out.
            return Measurement(Status.memory, message=f"{how}: most likely memory ran out")
        message = f"{how}: {printed}" if printed else how
        return Measurement(status_of(printed, Status.crash), message=message)

    def _broken(self) -> AltError:
        self._log.seek(0)
        printed = one_line(self._log.read().decode(errors="replace"))
        self.close()
        return AltError(f"the process that makes workers ended: {printed or 'it said nothing'}")

    def drop(self, hands: Iterable[Hand]) -> None:
        """Kill these workers."""
        for hand in list(hands):
            self.kill(hand)

    def close(self) -> None:
        """End all processes; may be called again."""
        for hand in self.hands:
            hand.connection.close()
            hand.log.close()
        self.hands.clear()
        # Without us the zygote kills its workers and ends.
        self._control.close()
        try:
            self._zygote.wait(5)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._log.close()


def _log() -> IO[bytes]:
    """A file without a name, written at its end."""
    return tempfile.TemporaryFile("ab+")
