"""CUDA graphs: the launches of a network recorded once, and started together from then on.

TVM's own graphs belong to the virtual machine of Relax, which ALT does without; what `main`
launches is recorded from a stream instead, through the CUDA driver.

Source: CUDA Driver API, graph management and stream capture.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import tvm_ffi

logger = logging.getLogger(__name__)

MOST_GRAPHS = 8
"""So many sets of addresses have a graph at a time."""

_MOST_SEEN = 64
_NON_BLOCKING, _THREAD_LOCAL = 1, 1


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
            DriverError: if it fails, with what the driver calls the error.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            said = (text.value or b"unknown error").decode()
            raise DriverError(f"{name}: {said} ({code})")

    def made(self, name: str, *arguments: Any) -> int:
        """The handle that a function stores behind its first argument."""
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def context(self) -> int:
        """The context that is current in this thread; 0 if none is."""
        return self.made("cuCtxGetCurrent")

    def make_current(self, context: int) -> None:
        """Let calls of this thread go to a context."""
        self.call("cuCtxSetCurrent", _handle(context))

    def is_recorded(self, stream: int) -> bool:
        """Whether somebody records what is started on a stream."""
        status = ctypes.c_int()
        self.call("cuStreamIsCapturing", _handle(stream), ctypes.byref(status))
        return status.value != 0


def _handle(value: int) -> ctypes.c_void_p:
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


class Graphs:
    """Starts a network, as a graph where it works on the same memory again.

    A graph holds the addresses that were passed when it was recorded. So there is one for each set
    of them, of which few are kept; and one is made only when a set comes back, as recording takes
    longer than running. Who makes more sets than are kept soon gets none: each one that had to make
    room doubles how often a set must come back.

    Args:
        launch: starts every kernel on TVM's current stream of the device.
        device: TVM's.
        enabled: whether to record at all.
    """

    def __init__(self, launch: Callable[..., Any], device: Any, enabled: bool) -> None:
        self._launch = launch
        self._device = tvm_ffi.device("cuda", device.index)
        self._driver = driver() if enabled else None
        self._streams: list[int] = []
        self._graphs: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._seen: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._patience = 2
        if self._driver is not None:
            finalizer = weakref.finalize(self, _free, self._driver, self._graphs, self._streams)
            finalizer.atexit = False  # the driver may be gone by then

    def __len__(self) -> int:
        """How many graphs are kept."""
        return len(self._graphs)

    def run(self, arguments: Sequence[Any], changing: int, stream: int) -> None:
        """Start the network on a stream, which is TVM's current one.

        Args:
            arguments: tensors on the device.
            changing: so many of them, from the first, may lie elsewhere in the next call.
            stream: handle of the stream.
        """
        if self._driver is None or (stream and self._driver.is_recorded(stream)):
            self._launch(*arguments)
            return
        key = tuple(tensor.data_ptr() for tensor in arguments[:changing])
        graph = self._graphs.get(key)
        if graph is None and self._is_due(key):
            try:
                graph = self._record(arguments)
            except DriverError as error:
                logger.warning("runs without a CUDA graph: %s", error)
                self._driver = None
            else:
                self._keep(key, graph)
        if graph is None:
            self._launch(*arguments)
            return
        assert self._driver is not None
        self._graphs.move_to_end(key)
        self._driver.call("cuGraphLaunch", _handle(graph), _handle(stream))

    def _is_due(self, key: tuple[int, ...]) -> bool:
        seen = self._seen.pop(key, 0) + 1
        self._seen[key] = seen
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return seen >= self._patience

    def _keep(self, key: tuple[int, ...], graph: int) -> None:
        assert self._driver is not None
        del self._seen[key]
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            self._driver.call("cuGraphExecDestroy", _handle(oldest))
            self._patience *= 2

    def _record(self, arguments: Sequence[Any]) -> int:
        """A graph of what one call launches; nothing of it runs.

        Raises:
            DriverError: if it cannot be recorded.
        """
        assert self._driver is not None
        if not self._streams:
            # Work of others on the default stream would otherwise end the recording.
            self._streams.append(self._driver.made("cuStreamCreate", _NON_BLOCKING))
        stream = _handle(self._streams[0])
        problem: Exception | None = None
        # To free memory is not allowed meanwhile, whosever it is.
        with tvm_ffi.use_raw_stream(self._device, self._streams[0]), _no_garbage_collection():
            self._driver.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
            try:
                self._launch(*arguments)
            except Exception as error:  # noqa: BLE001 - the stream must stop recording first
                problem = error
            recorded = ctypes.c_void_p()
            self._driver.call("cuStreamEndCapture", stream, ctypes.byref(recorded))
        try:
            if problem is not None:
                raise DriverError(str(problem).strip().splitlines()[-1]) from problem
            return self._driver.made("cuGraphInstantiateWithFlags", recorded, ctypes.c_ulonglong(0))
        finally:
            self._driver.call("cuGraphDestroy", recorded)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _free(library: Driver, graphs: OrderedDict[tuple[int, ...], int], streams: list[int]) -> None:
    with contextlib.suppress(DriverError):
        for graph in graphs.values():
            library.call("cuGraphExecDestroy", _handle(graph))
        for stream in streams:
            library.call("cuStreamDestroy_v2", _handle(stream))
