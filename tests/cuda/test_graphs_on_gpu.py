"""CUDA graphs, threads and devices; `test_without_gpu.py` runs the same where no GPU is."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import tvm
from launches import EMULATED, counts, counts_since

import alt
from alt.cuda.driver import driver
from alt.cuda.graphs import MOST_GRAPHS
from alt.module import random_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tvm.runtime.cuda(0).exist, reason="there is no GPU that TVM can use"),
]


def graphs_of(compiled):
    return len(compiled._graphs)


def test_graphs_read_what_is_there_now(module, saved):
    """The same memory, other numbers: from the second call on nothing is launched one by one."""
    plain, fresh = alt.load(saved, cuda_graph=False), alt.load(saved)
    before = counts()
    for seed in range(4):
        inputs = random_inputs(module.inputs, seed=seed)
        expected = plain(**inputs)
        for a, b in zip(fresh(**inputs), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (graphs_of(plain), graphs_of(fresh)) == (0, 1)
    if EMULATED:
        kernels = len(module.header["kernels"])
        assert counts_since(before) == {
            "direct": 5 * kernels,  # four calls, and the first of the other
            "recorded": kernels,
            "replayed": 3 * kernels,
            "graphs": 1,
        }


def test_memory_that_is_elsewhere_each_time(module, saved):
    """Many inputs and outputs stay alive; then all is freed, and others take their places."""
    compiled = alt.load(saved)
    device = tvm.runtime.cuda(0)
    for first in (0, 20):
        placed, results = [], []
        for seed in range(first, first + 12):
            inputs = random_inputs(module.inputs, seed=seed % 5)
            placed.append((inputs["x"], tvm.runtime.tensor(inputs["x"], device)))
        for _ in range(3):
            results += [(x, compiled(tensor)) for x, tensor in placed]
        for x, found in results:
            for a, b in zip(found, module(x), strict=True):
                np.testing.assert_array_equal(a.numpy(), b)
    assert graphs_of(compiled) <= MOST_GRAPHS


def test_graphs_are_made_when_memory_comes_back_and_given_back_in_the_end(module, saved):
    if not EMULATED:
        pytest.skip("only the emulation counts graphs")
    at_first = counts()["graphs"]
    compiled = alt.load(saved)
    compiled(**random_inputs(module.inputs))
    assert counts()["graphs"] == at_first
    compiled(**random_inputs(module.inputs))
    assert counts()["graphs"] == at_first + 1
    del compiled
    gc.collect()
    assert counts()["graphs"] == at_first


def test_graphs_are_few_and_soon_none_is_made_in_vain(module, saved):
    """Twelve sets of memory take turns; more than are kept, so that each would make room."""
    compiled = alt.load(saved)
    compiled(**random_inputs(module.inputs))
    expected, sets = [], []
    for seed in range(12):
        image = random_inputs(module.inputs, seed=seed)["x"]
        expected.append(module(image))
        tensors = [compiled._place(image.reshape(-1))]
        tensors += [compiled._room(int(np.prod(s.shape)), s.dtype) for s in compiled.outputs]
        sets.append(tensors)
    at_first = counts()
    rounds = 10
    with compiled._working():
        for _ in range(rounds):
            for tensors in sets:
                compiled._start(tensors)
            for (_, *found), right in zip(sets, expected, strict=True):
                for a, b in zip(found, right, strict=True):
                    np.testing.assert_array_equal(a.numpy(), b.reshape(-1))
    assert 0 < graphs_of(compiled) <= MOST_GRAPHS
    if EMULATED:
        kernels = len(module.header["kernels"])
        passed = counts_since(at_first)
        assert passed["graphs"] == graphs_of(compiled)
        made = passed["recorded"] // kernels
        assert MOST_GRAPHS < made <= MOST_GRAPHS + 4, "patience grows with each that made room"


def test_threads_take_turns(module, saved):
    compiled = alt.load(saved)
    device = tvm.runtime.cuda(0)
    failed = []

    def call(seed):
        inputs = random_inputs(module.inputs, seed=seed)
        expected = [np.asarray(a) for a in results[seed]]
        placed = tvm.runtime.tensor(inputs["x"], device)
        for turn in range(6):
            found = compiled(placed) if (seed + turn) % 2 else compiled(**inputs)
            for a, b in zip(found, expected, strict=True):
                if not np.array_equal(a.numpy() if hasattr(a, "numpy") else a, b):
                    failed.append((seed, turn))

    results = [module(**random_inputs(module.inputs, seed=seed)) for seed in range(4)]
    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_the_current_device_of_the_caller_stays(module):
    cuda = driver()
    before = cuda.context()
    for _ in range(3):
        module(**random_inputs(module.inputs))
        assert cuda.context() == before


def test_other_threads_work_on_the_right_device(module):
    """Kernels need a context, and one who never used a GPU has none."""
    cuda, seen = driver(), []
    module(**random_inputs(module.inputs))

    def look():
        seen.append(cuda.context())
        with module._working():
            seen.append(cuda.context())
        seen.append(cuda.context())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [0, module._context, 0]
    assert module._context


@pytest.mark.skipif(not EMULATED, reason="needs a driver that records nothing")
def test_without_graphs_the_network_runs_all_the_same(module, saved, monkeypatch, caplog):
    compiled = alt.load(saved)
    monkeypatch.setenv("ALT_FAKE_CAPTURE", "0")
    inputs = random_inputs(module.inputs, seed=3)
    for _ in range(3):
        np.testing.assert_array_equal(compiled(**inputs)[0], module(**inputs)[0])
    assert graphs_of(compiled) == 0
    assert sum("without a CUDA graph" in r.getMessage() for r in caplog.records) == 1


def test_calls_that_torch_records(module, saved):
    """What runs in a graph of the caller's reads what is there at each replay."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no GPU")
    compiled = alt.load(saved)
    images = [random_inputs(module.inputs, seed=seed)["x"] for seed in range(3)]
    placed = torch.from_numpy(images[0]).cuda()
    compiled(placed)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = compiled(placed)
    for image in images:
        placed.copy_(torch.from_numpy(image))
        graph.replay()
        for a, b in zip(results, module(image), strict=True):
            np.testing.assert_array_equal(a.cpu().numpy(), b)
