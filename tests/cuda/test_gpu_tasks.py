"""Tasks of a network on a GPU, and what is known of their candidates without measuring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from equivalence import array, model, node

import alt
import alt.cuda.nvcc as nvcc
import alt.headers
from alt.build import build
from alt.compiler import fused
from alt.cuda.nvcc import Image, Images, compile_source
from alt.decisions import decided
from alt.gpu_features import NAMES, Asked, describe_on_gpu, estimate_on_gpu
from alt.headers import header_for_replay, header_of
from alt.policies import policy_of
from alt.propagate import plan_layouts
from alt.replay import network_of_log
from alt.report import reports_of
from alt.report_page import page
from alt.storage import block_of
from alt.target import resolve
from alt.tasks import tasks_of
from tuner.boosted import Boosted
from tuner.config import Config
from tuner.contents import Contents
from tuner.cost_model import Group
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.task import Candidate, Measurement, Status

pytestmark = pytest.mark.cuda_build

SM_90 = {"kind": "cuda", "arch": "sm_90"}


def network():
    """Every kind that leaves something open: blocks, a thin product, a depthwise convolution."""
    nodes = [
        node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w1", "c", group=24, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c", "d"),
        node("Flatten", "d", "e"),
        node("Gemm", "e w2", "y"),
        node("MatMul", "m w3", "n"),
        node("Softmax", "n", "z"),
    ]
    weights = {
        "w0": array(24, 9, 3, 3),
        "w1": array(24, 1, 3, 3, seed=1),
        "w2": array(24, 50, seed=2),
        "w3": array(70, 130, seed=3),
    }
    inputs = {"x": array(1, 9, 15, 16), "m": array(65, 70)}
    return model(nodes, inputs, ["y", "z"], weights)


@pytest.fixture(scope="module")
def made():
    return fused(network(), SM_90)


@pytest.fixture(scope="module")
def tasks(made):
    plan = plan_layouts(made.graph, made.kernels, made.machine)
    return list(tasks_of(made.kernels, made.graph.constants, made.machine, plan).values())


def samples(task, count=12):
    rng = np.random.default_rng(0)
    space = task.loops(task.layouts.default())
    return [space.default(), *(space.sample(rng) for _ in range(count))]


def test_kernels_that_leave_something_open_are_tasks(tasks):
    assert [task.kernel.anchor.op for task in tasks] == ["conv", "conv", "matmul", "matmul"]
    for task in tasks:
        assert bool(task.layouts.default()) == (task.kernel.anchor.op == "conv")
        assert len(set(samples(task))) > 2


def test_features_and_estimates_tell_candidates_apart(tasks):
    groups = []
    for task in tasks:
        layout = task.layouts.default()
        candidates = [Candidate(layout, loops) for loops in dict.fromkeys(samples(task))]
        features = task.features(candidates)
        assert features.shape == (len(candidates), len(NAMES))
        assert np.isfinite(features).all()
        assert len(np.unique(features, axis=0)) == len(candidates)
        seconds = np.array([task.estimate(c) for c in candidates])
        assert (seconds > 0).all() and np.isfinite(seconds).all()
        if len(candidates) >= 4:
            groups.append(Group(features, seconds))
    ranked = Boosted(seed=0)
    ranked.fit(groups)


def test_more_work_is_expected_to_take_longer(tasks, made):
    nodes = [node("MatMul", "m w", "y")]
    large = model(nodes, {"m": array(512, 512)}, ["y"], {"w": array(512, 512, seed=1)})
    other = fused(large, SM_90)
    (kernel,) = other.kernels
    constants = other.graph.constants
    small = tasks[-1]
    times = [small.estimate(Candidate(Config({}), small.loops(Config({})).default()))]
    times.append(estimate_on_gpu(Asked.of(kernel, {}, constants, Config({}), made.machine)))
    assert times[0] < times[1]
    few, many = (
        dict(zip(NAMES, describe_on_gpu(Asked.of(k, {}, c, Config({}), made.machine)), strict=True))
        for k, c in ((small.kernel, small.constants), (kernel, constants))
    )
    assert few["operations"] < many["operations"] == np.log2(2 * 512**3)
    assert few["is matmul"] == many["is matmul"] == 1


def test_answers_are_replayed_strictly(made, tasks):
    task = tasks[0]
    loops = dict(task.loops(Config({})).default())
    plan = plan_layouts(made.graph, made.kernels, made.machine)

    def source(answers):
        kernels = [
            decided(k, Config({}), Config(answers)) if k is task.kernel else k for k in made.kernels
        ]
        plan = plan_layouts(made.graph, kernels, made.machine)
        return build(made.graph, plan, made.machine).library.source

    assert source(loops) == build(made.graph, plan, made.machine).library.source
    with pytest.raises(TuningError, match="no decision asks for nonsense"):
        source({**loops, "nonsense": 1})
    with pytest.raises(TuningError, match="depth may not be 7"):
        source({**loops, "depth": 7})


def test_layouts_of_convolutions_are_searched_too(made, tasks):
    task, other = tasks[0], tasks[1]
    rows = task.layouts.default()
    channels = task.layouts.project({"read": "NHWC", "write": "NHWC"})
    assert task.blocks(rows) == (1, 1)
    assert task.blocks(channels) == (9, 24)
    assert other.blocks(other.layouts.project({"read": "NHWC", "write": "NCHWc"})) == (24, 4)
    some = [Candidate(layout, task.loops(layout).default()) for layout in (rows, channels)]
    assert not np.array_equal(*task.features(some))
    best = {k: some[1] if k is task.kernel else None for k in made.kernels}
    kernels = [k if c is None else decided(k, c.layout, c.loops) for k, c in best.items()]
    plan = plan_layouts(made.graph, kernels, made.machine)
    (planned,) = [k for k in plan.kernels if k.output == task.kernel.output]
    assert planned.anchor is not None
    ends = planned.anchor.inputs[0], planned.output
    assert [block_of(plan.layouts[v]) for v in ends] == [9, 24]
    # What was answered for the kernel alone answers the questions of the one in the network.
    build(made.graph, plan, made.machine)


def test_the_default_of_a_task_is_the_layout_that_the_network_has_by_rule():
    made = fused(network(), SM_90)
    policy = policy_of("NHWC")
    plan = plan_layouts(made.graph, made.kernels, made.machine, policy=policy)
    conv = next(iter(tasks_of(made.kernels, made.graph.constants, made.machine, plan).values()))
    assert conv.layouts.default() == Config({"read": "NHWC", "write": "NHWC"})


def record(log, header):
    candidate = Candidate(Config({}), Config({"a": 1}))
    measured = Measurement(Status.ok, (1.0,))
    log.headers[header.id] = header
    log.append(header.record("k", candidate, measured, "2026-01-01T00:00:00+00:00", "k"))


def test_without_a_gpu_a_log_says_which_one_is_meant(monkeypatch):
    monkeypatch.setattr(alt.headers, "device_refusal", lambda *_: "none is here")
    gpu, other = resolve(SM_90), resolve({"kind": "cuda", "arch": "sm_80"})
    assert header_of(gpu, 1, "A").target_id != header_of(gpu, 1, "B").target_id
    log = TuningLog(Contents({}, (), ()))
    assert header_for_replay(log, gpu, 1) == header_of(gpu, 1)
    record(log, header_of(gpu, 1, "H200"))
    record(log, header_of(other, 1, "A100"))
    assert header_for_replay(log, gpu, 1).target["device"] == "H200"
    assert header_for_replay(log, other, 1).target["device"] == "A100"
    record(log, header_of(gpu, 1, "H100"))
    with pytest.raises(TuningError, match=r"H100 .*, H200"):
        header_for_replay(log, gpu, 1)
    # The same GPU with fewer multiprocessors: only defaults depend on how many there are.
    smaller = TuningLog(Contents({}, (), ()))
    record(smaller, header_of(replace(gpu, cores=114), 1, "H100 PCIe"))
    assert header_for_replay(smaller, gpu, 1).target["cores"] == 114


def test_a_log_is_replayed_where_no_gpu_is(made, tasks, monkeypatch, tmp_path):
    monkeypatch.setattr(alt.headers, "device_refusal", lambda *_: "none is here")
    header, path = header_of(made.machine, 1, "H200"), tmp_path / "log.jsonl"
    log = TuningLog.open(path, header)
    best = {}
    for task in tasks:
        default, *others = dict.fromkeys(samples(task))
        best[task.key] = others[-1]
        for loops, seconds in ((default, 2.0), (others[-1], 1.0)):
            measured = Measurement(Status.ok, (seconds,))
            candidate = Candidate(task.layouts.default(), loops)
            log.append(
                header.record(task.key, candidate, measured, "2026-01-01T00:00:00+00:00", task.name)
            )

    def source(kernels):
        plan = plan_layouts(made.graph, kernels, made.machine)
        return build(made.graph, plan, made.machine).library.source

    kernels = network_of_log(made, path, 1).kernels
    answers = [k.anchor.attrs["loops"] for k in kernels if k.anchor and "loops" in k.anchor.attrs]
    assert answers == list(best.values())
    assert source(kernels) == source(network_of_log(made, path, 1).kernels)
    assert source(kernels) != source(made.kernels)
    other = fused(network(), {"kind": "cuda", "arch": "sm_80"})
    with pytest.raises(TuningError, match=r"0/4 tasks applied.*arch=sm_90.*here arch=sm_80"):
        network_of_log(other, path, 1)
    (report,) = reports_of(log)
    assert "device H200, cores 132" in page("log.jsonl", [report])


def test_images_are_made_once(tmp_path, monkeypatch):
    made_from = []

    def compile_(_, source, arch, place):
        made_from.append((source, arch))
        assert place == tmp_path
        return Image(b"\0\n\xff" + arch.encode(), {"k": 32}, {"k": 4})

    monkeypatch.setattr(nvcc, "_compile", compile_)
    monkeypatch.setattr(nvcc, "require_nvcc", lambda: "nvcc")
    one, two = (f'head\nextern "C" __global__ void k() {{ {n}; }}\n' for n in (1, 2))
    known = Images(tmp_path)
    (first,) = compile_source(one, "sm_90", 1, known)
    (again,) = compile_source(one, "sm_90", 1, Images(tmp_path))
    assert again == first
    assert again.code == b"\0\n\xffsm_90"
    compile_source(two, "sm_90", 1, known)
    compile_source(one, "sm_80", 1, known)
    assert made_from == [(one, "sm_90"), (two, "sm_90"), (one, "sm_80")]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(alt.AltError, match="on this machine only"):
        alt.tune(network(), SM_90, trials=1, rpc="127.0.0.1:9190", key="gpu")
    with pytest.raises(alt.AltError, match="device=1 is for GPUs"):
        alt.tune(network(), trials=1, device=1)
