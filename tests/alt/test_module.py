"""The callable: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import mmap
import threading

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper
from small_models import arithmetic, model_of, network, random

import alt
from alt.module import Benchmark, random_inputs

pytestmark = pytest.mark.llvm

A, B = random(4, 33, seed=1), random(4, 1, seed=2)
INDEX = np.array([5, 0, 3, 3, 1])


@pytest.fixture(scope="module")
def module():
    return alt.compile(arithmetic())


@pytest.fixture(scope="module")
def images():
    return alt.compile(network())


def check_arithmetic(result, a=A, b=B, index=INDEX):
    total, taken, largest = result
    np.testing.assert_allclose(total, a + 2 * b, rtol=1e-6)
    np.testing.assert_array_equal(taken, random(6, 7, seed=4)[index])
    assert largest.shape == ()
    assert float(largest) == float(a.max())


# What it takes


def test_by_position_by_name_and_both(module):
    check_arithmetic(module(A, B, INDEX))
    check_arithmetic(module(index=INDEX, b=B, a=A))
    check_arithmetic(module(A, index=INDEX, b=B))


def test_signatures(module):
    assert list(map(str, module.inputs)) == [
        "a: float32[4, 33]",
        "b: float32[4, 1]",
        "index: int64[5]",
    ]
    assert [s.name for s in module.outputs] == ["total", "taken", "largest"]
    assert [s.shape for s in module.outputs] == [(4, 33), (5, 7), ()]


def unaligned(array):
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = (4 - raw.ctypes.data) % 64
    found = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    assert found.ctypes.data % 64
    return found


def read_only(array):
    found = array.copy()
    found.flags.writeable = False
    return found


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.broadcast_to(a, (2, *a.shape))[1],
        unaligned,
        read_only,
    ],
)
def test_arrays_however_they_lie_in_memory(change, module):
    given = [change(array) for array in (A, B, INDEX)]
    for array, original in zip(given, (A, B, INDEX), strict=True):
        np.testing.assert_array_equal(array, original)
    check_arithmetic(module(*given))
    for array, original in zip(given, (A, B, INDEX), strict=True):
        np.testing.assert_array_equal(array, original)


def test_lists_and_numbers():
    kind = (TensorProto.FLOAT, [])
    nodes = [helper.make_node("Exp", ["x"], ["y"], "exp")]
    module = alt.compile(model_of(nodes, {"x": kind}, {"y": kind}))
    for given in (1.0, np.float32(1.0), np.array(1.0, np.float32)):
        found = module(given)
        assert found.shape == ()
        assert float(found) == pytest.approx(np.e, rel=1e-6)
    with pytest.raises(alt.AltError, match="shape"):
        module([1.0])


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (1, 5, 1), (3, 1, 1, 1)])
def test_axes_of_size_one(shape):
    kind = (TensorProto.FLOAT, shape)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"], "square"),
        helper.make_node("Add", ["s", "x"], ["y"], "add"),
    ]
    x = random(*shape)
    found = alt.compile(model_of(nodes, {"x": kind}, {"y": kind}))(x)
    assert found.shape == shape
    np.testing.assert_allclose(found, x * x + x, rtol=1e-6)


def test_other_dlpack_tensors_come_out_as_they_went_in(module):
    given = [tvm.runtime.tensor(array) for array in (A, B, INDEX)]
    result = module(*given)
    assert {type(t) for t in result} == {type(given[0])}
    check_arithmetic([t.numpy() for t in result])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_torch_tensors():
    import torch

    module = alt.compile(arithmetic())
    result = module(*(torch.from_numpy(array.copy()) for array in (A, B, INDEX)))
    assert all(isinstance(t, torch.Tensor) for t in result)
    check_arithmetic([t.numpy() for t in result])
    with pytest.raises(alt.AltError, match="float64"):
        module(torch.from_numpy(A.astype(np.float64)), torch.from_numpy(B), torch.tensor(INDEX))


# What it gives


def test_results_are_the_callers(module):
    first = module(A, B, INDEX)
    kept = [array.copy() for array in first]
    module(A + 1, B, INDEX)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.writeable


def test_results_outlive_their_module():
    module = alt.compile(arithmetic())
    result = module(A, B, INDEX)
    del module
    gc.collect()
    check_arithmetic(result)


def test_one_output_is_no_tuple(module):
    kind = (TensorProto.FLOAT, [3])
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    found = alt.compile(model_of(nodes, {"x": kind}, {"y": kind}))(np.float32([-1, 0, 2]))
    np.testing.assert_array_equal(found, [0, 0, 2])


# What it refuses


@pytest.mark.parametrize(
    ("args", "named", "mentioned"),
    [
        ((A, B), {}, ["'index'", "missing"]),
        ((A, B, INDEX, A), {}, ["4 inputs", "takes 3", "index: int64[5]"]),
        ((A, B, INDEX), {"a": A}, ["'a'", "twice"]),
        ((A, B), {"indices": INDEX}, ["'indices'", "index: int64[5]"]),
        ((A.T, B, INDEX), {}, ["'a'", "(33, 4)", "(4, 33)"]),
        ((A.astype(np.float64), B, INDEX), {}, ["'a'", "float64", "float32"]),
        ((A, B, INDEX.astype(np.int32)), {}, ["'index'", "int32", "int64"]),
        ((A, B, "abc"), {}, ["'index'", "str"]),
        ((A, B, None), {}, ["'index'", "NoneType"]),
        ((object(), B, INDEX), {}, ["'a'", "object"]),
    ],
)
def test_inputs_that_do_not_fit(args, named, mentioned, module):
    with pytest.raises(alt.AltError) as caught:
        module(*args, **named)
    message = str(caught.value)
    assert "\n" not in message
    for text in mentioned:
        assert text in message
    check_arithmetic(module(A, B, INDEX))


# Memory


@pytest.fixture
def fence():
    """Arrays that end where the process's memory ends: reading on is a crash."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    kept = []

    def put(array):
        pages = -(-array.nbytes // page)
        block = mmap.mmap(-1, (pages + 1) * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(block))
        assert libc.mprotect(ctypes.c_void_p(base + pages * page), page, 0) == 0
        kept.append((block, base + pages * page))
        start = pages * page - array.nbytes
        found = np.frombuffer(block, array.dtype, array.size, start).reshape(array.shape)
        found[...] = array
        assert found.ctypes.data % 64 == 0, "would be copied"
        return found

    yield put
    for _, end in kept:
        libc.mprotect(ctypes.c_void_p(end), page, mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize("columns", [16, 20, 48])
def test_nothing_is_read_behind_the_inputs(columns, fence):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", group=2),
        helper.make_node("MaxPool", ["x"], ["p"], "pool", kernel_shape=[3, 3]),
        helper.make_node("MatMul", ["x", "m"], ["q"], "product"),
        helper.make_node("Softmax", ["x"], ["s"], "softmax"),
        helper.make_node("Transpose", ["x"], ["t"], "transpose", perm=[0, 1, 3, 2]),
    ]
    shape = [1, 4, 4, columns]
    weights = {"w": random(6, 2, 2, 3), "m": random(columns, 5)}
    outputs = dict.fromkeys("cpqst", (TensorProto.FLOAT, None))
    model = model_of(nodes, {"x": (TensorProto.FLOAT, shape)}, outputs, weights)
    module = alt.compile(model)
    x = random(*shape)
    for a, b in zip(module(fence(x)), module(x), strict=True):
        np.testing.assert_array_equal(a, b)


# Threads


def test_calls_from_several_threads(images):
    inputs = [random(1, 3, 15, 17, seed=s) for s in range(4)]
    expected = [images(x) for x in inputs]
    wrong = []

    def work(x, result):
        for _ in range(20):
            found = images(x)
            if not all(np.array_equal(a, b) for a, b in zip(found, result, strict=True)):
                wrong.append(x)

    workers = [
        threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_one_thread_and_two_give_equal_results():
    x = random(1, 3, 15, 17)
    one, two = (alt.compile(network(), threads=n) for n in (1, 2))
    assert (one.threads, two.threads) == (1, 2)
    for a, b in zip(one(x), two(x), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one(x), two(x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_threads_is_refused():
    with pytest.raises(alt.AltError, match="at least 1"):
        alt.compile(network(), threads=0)


# Timing


def test_benchmark(images):
    found = images.benchmark(repeats=5)
    assert len(found.samples_seconds) == 5
    assert 0 < found.p10_seconds <= found.median_seconds <= found.p90_seconds
    assert "5 calls" in str(found)
    longer = images.benchmark(repeats=1, min_seconds=0.01)
    assert sum(longer.samples_seconds) >= 0.01
    images.benchmark(repeats=1, inputs={"x": random(1, 3, 15, 17)})
    with pytest.raises(alt.AltError, match="'z'"):
        images.benchmark(inputs={"z": random(1)})


def test_quantiles():
    found = Benchmark(tuple(i / 10 for i in range(11)))
    assert (found.p10_seconds, found.median_seconds, found.p90_seconds) == (0.1, 0.5, 0.9)


def test_random_inputs_are_seeded_and_valid_indices(module):
    first, again, other = (random_inputs(module.inputs, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], other["a"])
    assert set(first["index"].tolist()) <= {0, 1}
    for signature in module.inputs:
        assert first[signature.name].shape == signature.shape
        assert str(first[signature.name].dtype) == signature.dtype
