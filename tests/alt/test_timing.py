"""Timing with weights that are not in the caches.

Bugs the author planted, and what caught each:
- all calls use the first copy: `test_copies_are_used_in_turns`;
- one copy overlaps the next: `test_copies_hold_the_weights_each_in_its_own_memory`;
- weights that several kernels share counted once a kernel: `test_shared_weights_count_once`.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tvm

from alt.memory import aligned_empty
from alt.messages import Timing
from alt.timing import CACHES, ColdWeights, cold_samples, fastest_call, network_bytes

pytestmark = pytest.mark.llvm


def weights_of(size):
    made = aligned_empty(size)
    made[...] = np.arange(size) % 251
    return made


@pytest.mark.parametrize(
    ("size", "network", "cache", "most", "expected"),
    [
        (1000, 10_000, 1 << 20, 100, 7),  # 1000 and some slack, 1280 with it
        (1000, 10_000, 1 << 20, 3, 3),
        (1000, 1 << 20, 4000, 100, int(4000 * CACHES) // 1280),
        (9000, 10_000, 1 << 20, 100, 1),
        (64, 10_000, 1 << 20, 100, 1),  # room that a kernel without weights has, too
    ],
)
def test_copies_hold_the_weights_each_in_its_own_memory(size, network, cache, most, expected):
    weights = weights_of(size)
    copies = ColdWeights(network, cache).copies(weights, most)
    assert len(copies) == expected
    arrays = [np.from_dlpack(copy) for copy in copies]
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(array, weights)
        array[...] = number
    if expected > 1:
        assert [set(array.tolist()) for array in arrays] == [{n} for n in range(expected)]


def address(tensor):
    return np.from_dlpack(tensor).ctypes.data


def recorder(size):
    """A program that notes what it is called with."""
    calls = []

    def main(*tensors):
        calls.append([address(tensor) for tensor in tensors])

    arrays = [weights_of(256), weights_of(128), weights_of(size), weights_of(512)]
    program = SimpleNamespace(weights=arrays[2], library={"main": main}, entry="main")
    tensors = [tvm.runtime.from_dlpack(array) for array in arrays]
    run = SimpleNamespace(program=program, tensors=tensors, run=lambda: main(*tensors))
    return run, calls


def test_copies_are_used_in_turns():
    run, calls = recorder(1000)
    timing = Timing(repeats=3, min_seconds=4e-3)
    samples = cold_samples(run, timing, 1e-3, ColdWeights(6000, 1 << 20))
    assert len(samples) == 3 and all(s > 0 for s in samples)
    assert len(calls) == 3 * 4
    counts = Counter(call[2] for call in calls)
    assert len(counts) == 4 and set(counts.values()) == {3}
    assert len({tuple(call[:2] + call[3:]) for call in calls}) == 1
    assert calls[0][0] == address(run.tensors[0])


def test_a_call_that_may_be_bad_luck_is_repeated():
    run, calls = recorder(64)
    assert fastest_call(run, Timing(min_seconds=1.0), first=0.1, hopeless=0.05) < 0.05
    assert len(calls) == 1
    assert fastest_call(run, Timing(min_seconds=0.1), first=0.2, hopeless=0.05) == 0.2
    assert len(calls) == 1
    assert fastest_call(run, Timing(min_seconds=1e-3), first=1e-4, hopeless=0.0) < 1e-4
    assert len(calls) > 3  # nothing is that fast: as many as fill a sample are no bad luck


def test_shared_weights_count_once():
    one, other = np.zeros(10, "float32"), np.zeros(3, "float32")
    assert network_bytes([one, other, one]) == 52
