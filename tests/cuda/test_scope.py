"""What sketches for GPUs are made of: launches of any rank, shared memory, lanes, barriers."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import SM_90, Emulation, emulate, needs_gxx, planned
from equivalence import array, model, node
from tvm import tirx

import alt
from alt.compiler import fused
from alt.sketches.gpu import GPU_SKETCHES
from alt.sketches.gpu.grid import MOST_POSITION, Region, over_elements
from alt.sketches.gpu.scope import threads_for
from alt.sketches.gpu.team import team_of
from alt.sketches.scope import allocate, i32, seq

pytestmark = [pytest.mark.cuda_build, needs_gxx]


def network(shape):
    """A softmax: sketches of these tests take its place, and compute something else."""
    inputs = {"x": array(*shape)}
    return model([node("Softmax", "x", "y", axis=-1)], inputs, ["y"]), inputs


@pytest.fixture
def run(monkeypatch):
    def with_sketch(sketch, shape):
        monkeypatch.setitem(GPU_SKETCHES, "softmax", sketch)
        proto, inputs = network(shape)
        return emulate(proto, inputs)[0], inputs["x"]

    return with_sketch


def turned(dynamic, sync=True):
    """Each row backwards, through shared memory."""

    def sketch(scope):
        x = scope.kernel.inputs[0]
        rows, length = x.shape
        kept = scope.shared(length, dynamic=dynamic)

        def work(block, thread):
            put = tirx.BufferStore(kept, scope.load(x, [block, thread]), [thread])
            back = tirx.BufferLoad(kept, [i32(length - 1) - thread])
            wait = scope.sync() if sync else None
            return allocate(kept, put, wait, scope.store([block, thread], back))

        return scope.launch((rows,), (length,), work)

    return sketch


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_shared_memory(run, dynamic):
    found, x = run(turned(dynamic), (3, 100))
    np.testing.assert_array_equal(found, x[:, ::-1])


def test_much_shared_memory_is_asked_for_at_the_launch(monkeypatch):
    def sketch(scope):
        kept = scope.shared(50000, dynamic=True)

        def work(block, thread):
            at = thread * 49
            value = scope.load(scope.kernel.inputs[0], [block, thread])
            put = tirx.BufferStore(kept, value, [at])
            return allocate(kept, put, scope.store([block, thread], tirx.BufferLoad(kept, [at])))

        return scope.launch((2,), (1000,), work)

    monkeypatch.setitem(GPU_SKETCHES, "softmax", sketch)
    proto, inputs = network((2, 1000))
    program = planned(fused(proto, SM_90))
    (launch,) = program.library.launches.values()
    assert launch.shape.dynamic_bytes == 200000
    assert launch.tags[-1] == "tirx.use_dyn_shared_memory"
    found = Emulation(program)(list(inputs.values()))
    np.testing.assert_array_equal(found[0], inputs["x"])


def test_the_emulation_notices_a_missing_barrier(run):
    with pytest.raises(AssertionError, match="Mismatched elements"):
        run(turned(False, sync=False), (3, 100))


def test_the_emulation_notices_a_barrier_that_some_threads_miss(monkeypatch):
    def sketch(scope):
        def work(block, thread):
            store = scope.store(
                [block, thread], scope.load(scope.kernel.inputs[0], [block, thread])
            )
            return seq(tirx.IfThenElse(thread < 5, scope.sync(), None), store)

        return scope.launch((2,), (64,), work)

    monkeypatch.setitem(GPU_SKETCHES, "softmax", sketch)
    proto, inputs = network((2, 64))
    with pytest.raises(alt.AltError, match="barrier"):
        planned(fused(proto, SM_90))
    monkeypatch.setattr("alt.cuda.legality._Check.call", lambda *_: None)
    emulation = Emulation(planned(fused(proto, SM_90)))
    with pytest.raises(AssertionError, match="wait for each other"):
        emulation(list(inputs.values()))


@pytest.mark.parametrize("distance", [1, 4, 16])
def test_lanes(run, distance):
    def sketch(scope):
        x = scope.kernel.inputs[0]
        other = scope.local(1, name="other")

        def work(block, thread):
            told = scope.other_lane(scope.load(x, [block, thread]), distance, 32)
            found = tirx.BufferLoad(other, [i32(0)])
            put = tirx.BufferStore(other, told, [i32(0)])
            return allocate(other, put, scope.store([block, thread], found))

        return scope.launch((2,), (64,), work)

    found, x = run(sketch, (2, 64))
    np.testing.assert_array_equal(found, x[:, np.arange(64) ^ distance])


def test_launches_of_three_dimensions(run):
    def sketch(scope):
        x = scope.kernel.inputs[0]

        def work(bx, by, bz, tx, ty, tz):
            row = (bz * 2 + by) * 2 + tz
            column = (bx * 5 + ty) * 7 + tx
            return scope.store([row, column], scope.load(x, [row, column]) + tirx.const(1.0))

        return scope.launch((3, 2, 2), (7, 5, 2), work)

    found, x = run(sketch, (8, 105))
    np.testing.assert_array_equal(found, x + 1)


@pytest.mark.parametrize("narrow", [False, True], ids=["32 bits", "beyond"])
def test_regions_share_a_launch(run, monkeypatch, narrow):
    """Also where the position of the last threads would not fit into an index."""
    if narrow:
        monkeypatch.setattr("alt.sketches.gpu.grid.MOST_POSITION", 300)
    assert MOST_POSITION == 2**31 - 1

    def sketch(scope):
        x = scope.kernel.inputs[0]

        def part(first, sign):
            def body(i, j):
                value = scope.load(x, [i + first, j]) * tirx.const(sign)
                return scope.store([i + first, j], value)

            return body

        regions = [Region((2, 101), part(0, 1.0)), Region((0, 101), part(9, 1.0))]
        return over_elements(scope, *regions, Region((3, 101), part(2, -1.0)))

    found, x = run(sketch, (5, 101))
    np.testing.assert_array_equal(found, np.concatenate([x[:2], -x[2:]]))


def test_little_work_still_reaches_every_multiprocessor():
    gpu = fused(network((2, 3))[0], SM_90).machine
    assert threads_for(10**7, gpu) == 256
    assert threads_for(264 * 128, gpu) == 128
    assert threads_for(1, gpu) == 64


def test_teams_grow_with_their_rows():
    sizes = [team_of(length, 1024) for length in (1, 256, 257, 4096, 10**6)]
    assert sizes == [32, 32, 64, 512, 1024]
