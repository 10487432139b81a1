"""CUDA graphs: launches that are recorded once, and started together from then on.

TVM's own graphs belong to the virtual machine of Relax, which ALT does without; what `main`
launches is recorded from a stream instead, through the CUDA driver. Between two kernels of a graph
there is a microsecond or less, between two launches the time that the host takes for one, two to
four; so what will be replayed is timed that way, too.

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
from itertools import pairwise
from typing import Any

import tvm_ffi

from alt.cuda.driver import Driver, DriverError, driver, handle

logger = logging.getLogger(__name__)

MOST_GRAPHS = 8
"""So many sets of addresses have a graph at a time."""

_MOST_SEEN = 64
_NON_BLOCKING, _THREAD_LOCAL = 1, 1


class Recorder:
    """Makes graphs of what TVM launches on a device; to be closed in the end.

    Args:
        cuda: the driver.
        device: TVM's.
    """

    def __init__(self, cuda: Driver, device: Any) -> None:
        self.cuda = cuda
        self._device = tvm_ffi.device("cuda", device.index)
        self._streams: list[int] = []

    def record(self, launch: Callable[[], Any]) -> int:
        """An executable graph of what a function launches on TVM's current stream.

        Nothing of it runs, and whatever goes wrong, recording has ended when this returns.

        Raises:
            DriverError: if it cannot be recorded.
        """
        if not self._streams:
            # Work of others on the default stream would otherwise end the recording.
            self._streams.append(self.cuda.made("cuStreamCreate", _NON_BLOCKING))
        stream, recorded = handle(self._streams[0]), ctypes.c_void_p()
        try:
            # To free memory is not allowed meanwhile, whosever it is.
            with tvm_ffi.use_raw_stream(self._device, self._streams[0]), _no_garbage_collection():
                self.cuda.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
                try:
                    launch()
                except Exception as error:
                    said = str(error).strip() or type(error).__name__
                    raise DriverError(said.splitlines()[-1]) from error
                finally:
                    self.cuda.call("cuStreamEndCapture", stream, ctypes.byref(recorded))
            return self.cuda.made("cuGraphInstantiateWithFlags", recorded, ctypes.c_ulonglong(0))
        finally:
            if recorded:
                self.cuda.call("cuGraphDestroy", recorded)

    def close(self) -> None:
        """Give back what recording took; graphs stay."""
        with contextlib.suppress(DriverError):
            while self._streams:
                self.cuda.call("cuStreamDestroy_v2", handle(self._streams.pop()))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def seconds_of_replays(
    cuda: Driver, device: Any, launch: Callable[[], Any], repeats: int
) -> list[float]:
    """Time what a function launches, as one graph on the default stream, by the device's clock.

    A first replay is not timed. The timed ones are queued behind it at once, so that the device
    does not wait for the host between two of them.

    Args:
        cuda: the driver.
        device: TVM's; its context must be current.
        launch: starts kernels on TVM's current stream; what it works on must stay where it is.
        repeats: how many replays to time.

    Returns:
        Seconds of each.

    Raises:
        DriverError: if this cannot be recorded, or fails when it runs.
    """
    with contextlib.ExitStack() as stack:
        recorder = Recorder(cuda, device)
        stack.callback(recorder.close)
        graph, default = handle(recorder.record(launch)), handle(0)
        stack.callback(cuda.call, "cuGraphExecDestroy", graph)
        events: list[ctypes.c_void_p] = []
        for _ in range(repeats + 1):
            events.append(handle(cuda.made("cuEventCreate", 0)))
            stack.callback(cuda.call, "cuEventDestroy_v2", events[-1])
        for event in events:
            cuda.call("cuGraphLaunch", graph, default)
            cuda.call("cuEventRecord", event, default)
        cuda.call("cuEventSynchronize", events[-1])
        return [cuda.seconds_between(*pair) for pair in pairwise(events)]


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
        cuda = driver() if enabled else None
        self._recorder = Recorder(cuda, device) if cuda is not None else None
        self._graphs: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._seen: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._patience = 2
        if self._recorder is not None:
            finalizer = weakref.finalize(self, _free, self._recorder, self._graphs)
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
        recorder = self._recorder
        if recorder is None or (stream and recorder.cuda.is_recorded(stream)):
            self._launch(*arguments)
            return
        key = tuple(tensor.data_ptr() for tensor in arguments[:changing])
        graph = self._graphs.get(key)
        if graph is None and self._is_due(key):
            try:
                graph = recorder.record(lambda: self._launch(*arguments))
            except DriverError as error:
                logger.warning("runs without a CUDA graph: %s", error)
                self._recorder = None
            else:
                self._keep(recorder.cuda, key, graph)
        if graph is None:
            self._launch(*arguments)
            return
        self._graphs.move_to_end(key)
        recorder.cuda.call("cuGraphLaunch", handle(graph), handle(stream))

    def _is_due(self, key: tuple[int, ...]) -> bool:
        seen = self._seen.pop(key, 0) + 1
        self._seen[key] = seen
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return seen >= self._patience

    def _keep(self, cuda: Driver, key: tuple[int, ...], graph: int) -> None:
        del self._seen[key]
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            cuda.call("cuGraphExecDestroy", handle(oldest))
            self._patience *= 2


def _free(recorder: Recorder, graphs: OrderedDict[tuple[int, ...], int]) -> None:
    with contextlib.suppress(DriverError):
        for graph in graphs.values():
            recorder.cuda.call("cuGraphExecDestroy", handle(graph))
    recorder.close()
