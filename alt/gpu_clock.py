"""How long a candidate takes on a GPU: in a CUDA graph, as it will run in its network.

The host needs two to four microseconds to launch a kernel through TVM. A faster one, which at batch
1 most kernels of a network are, would be timed as the rate of launches, and all its candidates
would look alike. So the calls of a sample are recorded and replayed as one graph.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import ceil
from typing import Any

from alt.cuda.driver import DriverError, driver
from alt.cuda.graphs import seconds_of_replays
from alt.messages import Timing

_LOGGER = logging.getLogger(__name__)

MOST_CALLS = 20_000
"""Of a sample; faster than a call in 0.2 microseconds is nothing."""

LEAST_SECONDS = 1e-4
"""Of a sample: less than a hundredth of it is the start of the graph and the grain of events."""


@dataclass(frozen=True)
class Clock:
    """Times a kernel by events on the device.

    Attributes:
        library: loaded there.
        device: where.
        tensors: what `main` takes.
        stride: bytes from one copy of the weights to the next.
        copies: how many there are.
    """

    library: Any
    device: Any
    tensors: list[Any]
    stride: int
    copies: int = 1

    def samples(self, calls: int, repeats: int) -> tuple[float, ...]:
        """Seconds of a call, some times; each is the mean of so many calls, which are one graph.

        Where they cannot be recorded they are launched, and of a small kernel the launch is timed:
        the driver is too old, say, or the candidate does what is not allowed meanwhile.
        """
        cuda = driver()
        if cuda is None:
            return self.launched(calls, repeats)

        turns = self.library["turns"]

        def launch() -> None:
            turns(*self.tensors, calls, self.copies, self.stride)

        try:
            found = seconds_of_replays(cuda, self.device, launch, repeats)
        except DriverError as error:
            # If the device is lost, launching says so, too.
            _LOGGER.info("timed without a CUDA graph: %s", error)
            return self.launched(calls, repeats)
        return tuple(seconds / calls for seconds in found)

    def launched(self, calls: int, repeats: int) -> tuple[float, ...]:
        """As `samples`, but every call is launched by the host, which does not wait in between."""
        evaluate = self.library.time_evaluator(
            "turns", self.device, number=1, repeat=repeats, min_repeat_ms=0
        )
        found = evaluate(*self.tensors, calls, self.copies, self.stride)
        return tuple(float(s) / calls for s in found.results)

    def flushed(self, timing: Timing) -> tuple[float, ...]:
        """Seconds of single calls, before each of which so much memory was written.

        There is a flush between any two calls, and it is not part of what is timed. That leaves no
        graph of many calls: the host launches each, when the flush is done, and the time of a
        launch, the same for all candidates, is part of each sample.
        """
        evaluate = self.library.time_evaluator(
            "main",
            self.device,
            number=1,
            repeat=timing.repeats,
            min_repeat_ms=0,
            cache_flush_bytes=timing.flush_bytes,
        )
        return tuple(float(s) for s in evaluate(*self.tensors).results)

    def calibrated(self, timing: Timing) -> float:
        """The seconds of a call, when the device has warmed up for a sample.

        A single launch tells how many calls that takes. Beyond that it tells little: for a small
        kernel it takes several times as long as a call in a graph.
        """
        (once,) = self.launched(1, 1)
        calls = calls_of(timing, once)
        return self.samples(calls, 1)[0] if calls > 1 else once


def calls_of(timing: Timing, seconds: float) -> int:
    """How many calls fill a sample."""
    wanted = max(timing.min_seconds, LEAST_SECONDS)
    return min(max(1, ceil(wanted / max(seconds, 1e-9))), MOST_CALLS)
