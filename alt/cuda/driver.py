"""The CUDA driver, as far as TVM does not call it for us.

Source: CUDA Driver API.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


class DriverError(Exception):
    """The CUDA driver refused something."""


class Driver:
    """What is needed of the CUDA driver, with errors as exceptions; handles are numbers.

    Args:
        library: the driver, loaded.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by name.

        Raises:
            DriverError: if it fails, with what the driver calls the error, or is not there.
        """
        function = getattr(self._library, name, None)
        if function is None:
            raise DriverError(f"{name}: this driver is too old to have it")
        code = function(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            said = (text.value or b"unknown error").decode()
            raise DriverError(f"{name}: {said} ({code})")

    def made(self, name: str, *arguments: Any) -> int:
        """The handle that a function stores behind its first argument."""
        found = ctypes.c_void_p()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value or 0

    def context(self) -> int:
        """The context that is current in this thread; 0 if none is."""
        return self.made("cuCtxGetCurrent")

    def make_current(self, context: int) -> None:
        """Let calls of this thread go to a context."""
        self.call("cuCtxSetCurrent", handle(context))

    def is_recorded(self, stream: int) -> bool:
        """Whether somebody records what is started on a stream."""
        status = ctypes.c_int()
        self.call("cuStreamIsCapturing", handle(stream), ctypes.byref(status))
        return status.value != 0

    def seconds_between(self, start: ctypes.c_void_p, end: ctypes.c_void_p) -> float:
        """What passed between two events, which the device has reached; to half a microsecond."""
        milliseconds = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value * 1e-3


def handle(value: int) -> ctypes.c_void_p:
    """A handle as an argument: a plain number would be passed in 32 bits."""
    return ctypes.c_void_p(value)


@cache
def driver() -> Driver | None:
    """The driver of this machine; None where there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return Driver(ctypes.CDLL(name))
        except OSError:
            continue
    return None
