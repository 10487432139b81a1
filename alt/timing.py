"""How long a candidate takes: with caches as a network leaves them.

A kernel that is timed over and over has its weights in the caches. In its network, all other
kernels read theirs in between. Its input it finds there in both cases.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cached_property
from itertools import cycle, islice
from math import ceil
from typing import Any

import numpy as np
import tvm

from alt.expected import Runnable
from alt.memory import ALIGNMENT, SLACK_BYTES, aligned, aligned_empty
from alt.messages import Timing

CACHES = 1.5
"""What reads so many times the last cache finds nothing in it of what it read before."""


class ColdWeights:
    """Copies of weights to be used in turns, so that each was last used as long ago as it would be.

    Args:
        network_bytes: weights of the whole network.
        cache_bytes: of the last cache.
    """

    def __init__(self, network_bytes: int, cache_bytes: int) -> None:
        """Memory is taken when it is needed."""
        self.bytes = min(network_bytes, int(CACHES * cache_bytes))

    @cached_property
    def _block(self) -> np.ndarray:
        return aligned_empty(self.bytes + SLACK_BYTES)

    def copies(self, weights: np.ndarray, most: int) -> list[Any]:
        """Tensors with these weights.

        Args:
            weights: bytes.
            most: so many are enough.
        """
        stride = aligned(weights.size + SLACK_BYTES)
        count = min(self.bytes // stride, most)
        if count < 2 or weights.size <= ALIGNMENT:
            return [tvm.runtime.from_dlpack(weights)]
        found: list[Any] = []
        for number in range(count):
            copy = self._block[number * stride :][: weights.size]
            copy[...] = weights
            found.append(tvm.runtime.from_dlpack(copy))
        return found


def network_bytes(constants: Iterable[np.ndarray]) -> int:
    """The weights of a network, each array once."""
    return sum(array.nbytes for array in {id(a): a for a in constants}.values())


def seconds_of(ready: Runnable) -> float:
    """The seconds of one call."""
    start = time.perf_counter()
    ready.run()
    return time.perf_counter() - start


def fastest_call(ready: Runnable, timing: Timing, first: float, hopeless: float) -> float:
    """The fastest of as many calls as fill a sample, or as show that it is no good.

    Args:
        ready: ran once before.
        timing: how long a sample is.
        first: how long that took.
        hopeless: what is no good, in seconds.
    """
    # The first call touched its memory for the first time; one slow call more may be bad luck, as
    # many as fill a sample are not.
    fastest = spent = first
    warm = False
    while spent < timing.min_seconds and (fastest > hopeless or not warm):
        seconds = seconds_of(ready)
        fastest, spent, warm = min(fastest, seconds), spent + seconds, True
    return fastest


def _calls(timing: Timing, seconds: float) -> int:
    """How many calls fill a sample."""
    return max(1, ceil(timing.min_seconds / max(seconds, 1e-7)))


def samples_of(ready: Runnable, timing: Timing, fastest: float) -> tuple[float, ...]:
    """The seconds of a call, a few times, with the caches as a call leaves them, or flushed."""
    evaluate = ready.program.library.mod.time_evaluator(
        ready.program.entry,
        tvm.cpu(),
        number=1 if timing.flush_bytes else _calls(timing, fastest),
        repeat=timing.repeats,
        min_repeat_ms=0,
        cache_flush_bytes=timing.flush_bytes,
    )
    return tuple(float(s) for s in evaluate(*ready.tensors).results)


def cold_samples(
    ready: Runnable, timing: Timing, fastest: float, cold: ColdWeights
) -> tuple[float, ...]:
    """The seconds of a call, a few times, with weights that are not in the caches."""
    calls = _calls(timing, fastest)
    *before, _, arena = ready.tensors
    copies = cold.copies(ready.program.weights, calls * timing.repeats)
    turns = cycle([(*before, weights, arena) for weights in copies])
    main = ready.program.library[ready.program.entry]
    found: list[float] = []
    for _ in range(timing.repeats):
        arguments = list(islice(turns, calls))
        start = time.perf_counter()
        for each in arguments:
            main(*each)
        found.append((time.perf_counter() - start) / calls)
    return tuple(found)
