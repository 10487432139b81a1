"""A session on a device behind TVM's RPC: libraries and arrays go there, kernels run there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from alt.errors import AltError
from alt.memory import SLACK_BYTES


class LostError(Exception):
    """A server went away, or ended a session because its time was over.

    Attributes:
        timeout: whether it was the time.
    """

    def __init__(self, message: str, timeout: bool) -> None:
        """Say which, and why."""
        super().__init__(message)
        self.timeout = timeout


@dataclass(frozen=True)
class Session:
    """A session on a server, for one user; it ends when nothing refers to it any more.

    Attributes:
        address: of the server.
        remote: TVM's session.
        seconds: after which the server ends it.
    """

    address: str
    remote: Any
    seconds: float

    def use_threads(self, count: int) -> None:
        """Let kernels run on so many threads.

        Raises:
            AltError: if the server was started with fewer.
        """
        self.remote.get_function("runtime.config_threadpool")(1, count)
        running = int(self.remote.get_function("runtime.NumThreads")())
        if running != count:
            raise AltError(
                f"server {self.address} runs kernels on {running} threads, {count} were asked "
                f"for: start it with TVM_NUM_THREADS={count} in its environment"
            )

    def load(self, name: str, code: bytes) -> Any:
        """Send a library and load it.

        Args:
            name: of the file; another one for every library of a session.
            code: its content.
        """
        self.remote.upload(bytearray(code), name)
        return self.remote.load_module(name)

    def place(self, array: np.ndarray, copied: bool = True) -> Any:
        """A tensor there, with room that vectors may read behind its end.

        Args:
            array: its shape, dtype and content.
            copied: whether the content matters.
        """
        device = self.remote.cpu()
        room = tvm.runtime.empty((array.nbytes + SLACK_BYTES,), "uint8", device)
        tensor = room._create_view(array.shape, str(array.dtype))
        return tensor.copyfrom(array) if copied else tensor

    def time(
        self, library: Any, tensors: Sequence[Any], calls: int, repeats: int, flush_bytes: int = 0
    ) -> list[float]:
        """Seconds of a call of `main`, by the device's clock.

        Args:
            library: loaded there.
            tensors: what `main` takes.
            calls: a sample is the mean of so many.
            repeats: how many samples.
            flush_bytes: so much memory is written before each sample.
        """
        evaluate = library.time_evaluator(
            "main",
            self.remote.cpu(),
            number=calls,
            repeat=repeats,
            min_repeat_ms=0,
            cache_flush_bytes=flush_bytes,
        )
        return [float(s) for s in evaluate(*tensors).results]

    @contextmanager
    def translated(self) -> Iterator[None]:
        """What is raised inside because the session is over becomes a `LostError`."""
        try:
            yield
        except Exception as problem:
            if type(problem).__name__ == "RPCSessionTimeoutError":
                over = f"server {self.address}: it took more than {self.seconds:g} s"
                raise LostError(over, timeout=True) from problem
            if not self._answers():
                raise LostError(f"server {self.address} was lost", timeout=False) from problem
            raise

    def _answers(self) -> bool:
        try:
            self.remote.get_function("runtime.NumThreads")()
        except Exception:  # noqa: BLE001 - TVM raises several kinds
            return False
        return True
