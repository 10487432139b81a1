"""The benchmark on a GPU, as far as no GPU is needed: networks in torch, tables, resumption."""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest

from benchmarks.__main__ import main
from benchmarks.gpu import session
from benchmarks.gpu.measure import Measured, Record
from benchmarks.gpu.problems import networks, operators, work_of
from benchmarks.gpu.rivals import RECORDED, OnDevice
from benchmarks.gpu.session import NOT_HERE, STEPS, STOPPED, Step, run_steps
from benchmarks.gpu.tables import report
from benchmarks.networks import inputs_for
from benchmarks.protocol import relative_error

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on many threads take longer, above all when others need the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(name):
    from benchmarks.gpu import command as module

    return getattr(module, name)


# --- networks in torch --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnet3d18", "bert_tiny"])
def test_networks_in_torch_compute_what_onnx_runtime_does(name):
    from benchmarks.gpu.torch_network import torch_network

    (problem,) = networks([name], [2], small=True)
    model = problem.build(3)
    inputs = inputs_for(model, 3)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, inputs)
    tensors = [torch.from_numpy(a) for a in inputs.values()]
    for dtype, channels_last in ((torch.float64, False), (torch.float32, True)):
        network = torch_network(model, dtype, channels_last)
        with torch.no_grad():
            found = [t.float().numpy() for t in network(*tensors)]
        assert relative_error(found, expected) < 1e-5, (dtype, channels_last)


def test_attention_gelu_and_linear_are_one_call_each():
    """Otherwise PyTorch would be measured on what exporters write, not on what users do."""
    from benchmarks.gpu.torch_network import torch_network

    (problem,) = networks(["bert_tiny"], [1], small=True)
    graph = torch_network(problem.build(0)).graph
    called = [node.target.__name__ for node in graph.nodes if node.op == "call_function"]
    assert called.count("scaled_dot_product_attention") == called.count("gelu") == 2
    assert called.count("linear") == 2 * 6 + 1
    assert not {"erf", "softmax", "matmul"} & set(called)


def test_what_no_benchmark_uses_is_refused():
    from benchmarks.gpu.torch_network import torch_network

    (problem,) = operators([(2, 3, 4)])
    model = problem.build(0)
    model.graph.node[0].op_type = "Det"
    with pytest.raises(ValueError, match="no benchmark uses Det"):
        torch_network(model)


def test_products():
    (problem,) = operators([(3, 5, 7)])
    assert (problem.title, work_of(problem.title)) == ("matmul 3x5x7", 210.0)
    (value,) = problem.build(0).graph.output
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [3, 7]


# --- records and tables -------------------------------------------------------------------------


def measured(*samples, error=1e-6, **more):
    return Measured(samples, error, 1.0, **more)


def record(problem="resnet18 b1", precision="fp32", **results):
    named = {name.replace("_", "."): found for name, found in results.items()}
    return Record(problem, precision, "cuda", named, "a GPU", {"torch": "1"})


def test_ratios_are_taken_within_rounds_and_only_between_right_answers():
    found = record(ours=measured(1.0, 2.0, 4.0), torch=measured(3.0, 4.0, 6.0))
    assert found.speedup("torch") == 2.0
    assert Record.parse(json.loads(json.dumps(found.to_dict()))) == found
    for wrong in (measured(1.0, error=2e-4), measured(error=1e-6), Measured(problem="broke")):
        assert record(ours=wrong, torch=measured(3.0)).speedup("torch") is None
        assert record(ours=measured(1.0), torch=wrong).speedup("torch") is None
    assert record(precision="tf32", ours=measured(1.0, error=2e-4)).right("ours")
    infinite = record(ours=measured(1.0, error=float("inf")))
    assert not Record.parse(json.loads(json.dumps(infinite.to_dict()))).right("ours")


def test_the_table_has_the_newest_of_each_and_says_what_is_missing():
    text = report(
        [
            record(ours=measured(1e-3, 1e-3), torch=measured(9e-3, 9e-3)),
            record(ours=measured(2e-3, 2e-3), torch_compile=Measured(problem="too old")),
            record(ours=measured(2e-3, 2e-3), torch=measured(1e-3, 1e-3)),
            record("bert_tiny b1", ours=measured(1e-3), torch=measured(2e-3)),
            record("matmul 100x100x100", ours=measured(1e-6), cublas=measured(5e-7)),
        ],
        "command",
    )
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert "| fp32 | 2.000 (2.000..2.000) | 1e-06 | 0.50 | - |" in rows["resnet18 b1"]
    assert "| 2.0 |" in rows["matmul 100x100x100"] and "| 0.50 |" in rows["matmul 100x100x100"]
    assert "- resnet18 b1, fp32: too old" in text
    networks_text = text[: text.index("## Matrix products")]
    assert "| geometric mean | fp32 |  |  | 1.00 | - |" in networks_text
    assert "Nothing" in report([], "command")


def test_only_what_is_missing_is_measured():
    missing = command("missing")
    whole = record(ours=measured(1.0), torch=measured(2.0))

    def left(records, *names):
        return missing(records, "resnet18 b1", "fp32", "cuda", ["ours", *names])

    assert left([whole], "torch") == []
    assert left([whole], "torch", "cublas") == ["ours", "cublas"]
    assert left([], "torch") == ["ours", "torch"]
    assert missing([whole], "resnet18 b1", "fp16", "cuda", ["ours"]) == ["ours"]
    failed = record(ours=measured(1.0), torch=Measured(problem="torch: ValueError: no"))
    assert left([failed], "torch") == []
    stopped = record(ours=measured(1.0), torch=Measured(problem="torch: took longer than 9 s"))
    assert left([stopped], "torch") == ["ours", "torch"]
    without_us = record(ours=Measured(problem="ours: broke"), torch=measured(1.0))
    assert left([without_us], "torch") == ["ours", "torch"]


# --- the commands -------------------------------------------------------------------------------


def test_a_run_without_a_gpu(tmp_path, capsys):
    """Two contenders on the CPU; the second call finds all of it measured."""
    options = ["--networks", "bert_tiny", "--batch", "1", "--rounds", "2", "--sample-ms", "1"]
    options += ["--rivals", "torch,tensorrt", "--device", "cpu", "--results", str(tmp_path)]
    assert main(["gpu", *options]) == 0
    (line,) = (tmp_path / "gpu.jsonl").read_text().splitlines()
    found = Record.parse(json.loads(line))
    assert found.right("ours") and found.right("torch") and found.speedup("torch") is not None
    assert all(len(m.samples) == 2 for m in found.results.values())
    assert "bert_tiny b1 (cpu)" in (tmp_path / "gpu.md").read_text()
    told = capsys.readouterr().err
    assert "without tensorrt: " in told and "2 rounds of ours, torch" in told

    with (tmp_path / "gpu.jsonl").open("a") as log:
        log.write('{"problem": "cut sh')
    assert main(["gpu", *options]) == 0
    told = capsys.readouterr().err
    assert "compiles" not in told and "no record" in told


def test_without_a_gpu_it_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("here is one")
    assert main(["gpu", "--results", str(tmp_path)]) == 2
    assert "no GPU that PyTorch can use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--networks", "vgg"], ["--precision", "fp8"], ["--rivals", "x"], ["--minutes", "0"],
     ["--batch", "0"], ["--results", "nowhere/at/all"]],
)  # fmt: skip
def test_wrong_options(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["gpu", *options])
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_tvm_compiles_a_network_for_a_gpu(tmp_path):
    """The way of MetaSchedule, without trials: TVM's rules schedule every function."""
    from tvm import relax
    from tvm.target import Target

    from benchmarks.gpu.runtimes import compiled_by_tvm

    (problem,) = networks(["bert_tiny"], [1], small=True)
    onnx.save(problem.build(0), tmp_path / "model.onnx")
    target = Target({"kind": "cuda", "arch": "sm_90"}, host="llvm")
    tuned = relax.get_pipeline(
        "static_shape_tuning", total_trials=0, target=target, work_dir=str(tmp_path)
    )
    compiled = compiled_by_tvm(tmp_path / "model.onnx", target, tuned)
    assert "main" in compiled.as_text()


def python(name, code, minutes=1.0):
    return Step(name, ("-c", code), minutes)


def test_a_session_goes_on_where_it_stopped(tmp_path):
    told = []
    steps = [python("first", "print('hello')"), python("second", "raise SystemExit(4)")]
    assert run_steps(steps, tmp_path, 5, told.append) == 1
    assert (tmp_path / "gpu-session-first.log").read_text() == "hello\n"
    assert json.loads((tmp_path / "gpu-session.json").read_text()) == {"first": 0, "second": 4}
    told.clear()
    third = python("third", "import time; time.sleep(99)", minutes=0.001)
    times = iter([0.0, 0.0])
    assert run_steps([*steps, third], tmp_path, 0.1, told.append, lambda: next(times)) == 0
    assert [line.partition(":")[0] for line in told] == ["first", "second", "third"]
    assert "no time left" in told[-1]


def test_steps_that_take_too_long_are_stopped_with_all_that_they_started(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.session._LEAST_SECONDS", 0.0)
    started = tmp_path / "pid"
    code = (
        "import subprocess, pathlib; child = subprocess.Popen(['sleep', '600']); "
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); child.wait()"
    )
    assert run_steps([python("slow", code, 0.05)], tmp_path, 1, lambda _: None) == 1
    assert json.loads((tmp_path / "gpu-session.json").read_text()) == {"slow": STOPPED}
    pid = int(started.read_text())

    def is_gone():
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    end = time.monotonic() + 30  # what is killed dies when it gets to it
    while not is_gone() and time.monotonic() < end:
        time.sleep(0.1)
    assert is_gone()


def test_the_session_asks_for_what_there_is(monkeypatch, tmp_path):
    """Every step's options are understood; without a GPU each benchmark ends there."""
    if torch.cuda.is_available():
        pytest.skip("would measure")
    for step in STEPS:
        if step.is_benchmark:
            assert main([*step.command[2:], "--results", str(tmp_path)]) == 2
        else:
            assert "tests/cuda" in step.command
    assert session.main(["--results", str(tmp_path)]) == NOT_HERE
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu-session", "--only", "nothing"])
    with pytest.raises(SystemExit):
        main()


@pytest.mark.parametrize(
    ("names", "unknown"), [("nothing,fp32", "nothing"), ("", "''"), (",", "','")]
)
def test_steps_of_the_session_are_chosen_by_name(names, unknown, capsys):
    with pytest.raises(SystemExit) as refusal:
        session.main(["--only", names])
    assert refusal.value.code == 2
    assert f"unknown: {unknown}; choose from kernels, fp32" in capsys.readouterr().err


def test_half_precision_keeps_hidden_tokens_hidden():
    """The largest float32 is infinite in float16, and infinity times zero no number."""
    from benchmarks.gpu.torch_network import torch_network

    (problem,) = networks(["bert_tiny"], [1], small=True)
    model = problem.build(0)
    inputs = inputs_for(model, 0)
    inputs["attention_mask"][:, 4:] = 0
    tensors = [torch.from_numpy(a) for a in inputs.values()]
    with torch.no_grad():
        (whole, _), (half, _) = (torch_network(model, d)(*tensors) for d in DTYPES)
    assert np.isfinite(half.numpy()).all()
    assert relative_error([half.numpy()], [whole.numpy()]) < 1e-2


DTYPES = (torch.float32, torch.float16)


class FakeCuda:
    """As much of `torch.cuda` as recording takes."""

    def __init__(self):
        self.replays = 0

    def CUDAGraph(self):  # noqa: N802
        return self

    def replay(self):
        self.replays += 1

    def graph(self, graph):
        assert graph is self
        return nullcontext()

    def stream(self, stream):
        return nullcontext()

    def current_stream(self):
        return self

    Stream = current_stream

    def wait_stream(self, stream):
        pass


def test_a_recorded_contender_is_timed_by_replays():
    class Product(OnDevice):
        started = 0

        def start(self, placed):
            self.started += 1

        def time(self, start, runs):
            for _ in range(runs):
                start()
            return 1.0

    cuda = FakeCuda()
    product = Product(recorded=True, torch=SimpleNamespace(cuda=cuda))
    assert product.seconds([], 5 * RECORDED - 1) == 1 / RECORDED
    assert (cuda.replays, product.started) == (5, RECORDED + 3)
    product.seconds([], 1)
    assert (cuda.replays, product.started) == (6, RECORDED + 3)
    plain = Product(torch=product.torch)
    assert plain.seconds([], 7) == 1.0 and plain.started == 7
