"""The command line where it compiles: compile, run, bench, explain; artifacts that are no good."""

from __future__ import annotations

import json
import platform

import numpy as np
import onnx
import pytest
from command_line import alt, assert_refused, convolution, model_of, value
from onnx import TensorProto, helper, numpy_helper

from alt.cli import main

llvm = pytest.mark.llvm


def squeezed():
    """`x` of shape (1, 4, 1) squeezed along the axes that input `axes` names, plus one."""
    nodes = [
        helper.make_node("Squeeze", ["x", "axes"], ["s"], "squeeze"),
        helper.make_node("Add", ["s", "one"], ["y"], "add"),
    ]
    inputs = [value("x", [1, 4, 1]), value("axes", [2], TensorProto.INT64)]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    return model_of(nodes, inputs, [value("y", None)], [one])


def reference(x, model):
    """What ONNX's own evaluator says."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@pytest.fixture
def folder(tmp_path):
    onnx.save(convolution(), tmp_path / "model.onnx")
    return tmp_path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """The convolution, compiled."""
    folder = tmp_path_factory.mktemp("artifact")
    onnx.save(convolution(), folder / "model.onnx")
    result = alt("compile", "model.onnx", folder=folder)
    assert result.returncode == 0, result.stderr
    return folder / "model.alt"


# Compile, run, bench, explain


@llvm
def test_compile_then_run_gives_the_right_numbers(folder, artifact):
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.save(folder / "x.npy", x)
    result = alt(
        "run", artifact, "--input", "x=x.npy", "--output", "results", "--json", folder=folder
    )
    assert result.returncode == 0, result.stderr
    (described,) = json.loads(result.stdout)["outputs"]
    y = np.load(folder / "results" / "y.npy")
    assert [path.name for path in (folder / "results").iterdir()] == ["y.npy"]
    expected = reference(x, convolution())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert described["shape"] == [1, 8, 8, 8]
    assert described["max"] == pytest.approx(float(y.max()))
    assert (folder / described["file"]).samefile(folder / "results" / "y.npy")


@llvm
def test_compile_reports_on_stdout_and_progress_on_stderr(folder):
    result = alt("compile", "model.onnx", "--json", "--threads", 1, folder=folder)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["artifact"] == "model.alt"
    assert report["bytes"] == (folder / "model.alt").stat().st_size
    assert report["threads"] == 1
    assert result.stderr
    assert all(line.startswith("[") for line in result.stderr.splitlines())
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.alt"}


@llvm
def test_compile_verifies_when_asked(folder):
    result = alt("compile", "model.onnx", "--verify", "--quiet", folder=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@llvm
def test_constants_make_inputs_part_of_the_model(folder, capsys):
    onnx.save(squeezed(), folder / "model.onnx")
    path = str(folder / "model.onnx")
    np.save(folder / "axes.npy", np.array([0, 2]))
    for axes in ("[0,2]", f"@{folder / 'axes.npy'}"):
        assert main(["run", path, "--quiet", "--json", "--constant", f"axes={axes}"]) == 0
        (output,) = json.loads(capsys.readouterr().out)["outputs"]
        assert output["shape"] == [4]


@llvm
def test_run_is_reproducible_by_seed(artifact, capsys):
    def maximum(seed):
        assert main(["run", str(artifact), "--json", "--seed", str(seed)]) == 0
        return json.loads(capsys.readouterr().out)["outputs"][0]["max"]

    assert maximum(1) == maximum(1) != maximum(2)


@llvm
def test_bench_and_explain_answer_people_and_machines(artifact, capsys):
    assert main(["bench", str(artifact), "--repeats", "7", "--json"]) == 0
    times = json.loads(capsys.readouterr().out)
    assert len(times["samples_seconds"]) == 7
    assert times["p10_seconds"] <= times["median_seconds"] <= times["p90_seconds"]
    assert main(["bench", str(artifact), "--repeats", "7"]) == 0
    assert "7 calls" in capsys.readouterr().out
    assert main(["explain", str(artifact)]) == 0
    assert "conv" in capsys.readouterr().out
    assert main(["explain", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


# Inputs that do not fit


@llvm
@pytest.mark.parametrize(
    ("name", "array", "mentioned"),
    [
        ("z", np.zeros((1, 3, 8, 8), np.float32), "'z'"),
        ("x", np.zeros((1, 3, 9, 8), np.float32), "(1, 3, 9, 8)"),
        ("x", np.zeros((1, 3, 8, 8), np.float64), "float64"),
    ],
)
def test_inputs_that_do_not_fit(name, array, mentioned, artifact, tmp_path):
    np.save(tmp_path / "a.npy", array)
    result = alt("run", artifact, "--input", f"{name}=a.npy", "--output", "out", folder=tmp_path)
    assert_refused(result, mentioned, "x", folder=tmp_path, left={"a.npy"})


@pytest.mark.parametrize("content", [None, b"", b"x = 1", b"\x93NUMPY\x01\x00v\x00{'descr"])
def test_input_files_that_cannot_be_read(content, folder, capsys):
    file = folder / "x.npy"
    if content is not None:
        file.write_bytes(content)
    assert main(["run", str(folder / "model.onnx"), "--input", f"x={file}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert str(file) in captured.err
    assert "internal error" not in captured.err


def test_input_files_with_objects_are_not_executed(folder, capsys):
    np.save(folder / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert main(["run", str(folder / "model.onnx"), "--input", f"x={folder / 'x.npy'}"]) == 1
    assert "not a .npy file of numbers" in capsys.readouterr().err


# Artifacts that do not fit


@llvm
@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "other"])
def test_corrupted_artifact(damage, artifact, tmp_path):
    content = bytearray(artifact.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    damaged = {
        "empty": b"",
        "short": content[: len(content) * 2 // 3],
        "flipped": content,
        "other": b"PK\x03\x04" + bytes(200),
    }[damage]
    (tmp_path / "bad.alt").write_bytes(damaged)
    result = alt("run", "bad.alt", folder=tmp_path)
    assert_refused(result, "bad.alt", folder=tmp_path, left={"bad.alt"})


def test_missing_artifact(tmp_path):
    result = alt("run", "gone.alt", folder=tmp_path)
    assert_refused(result, "gone.alt", "no such file", folder=tmp_path, left=set())


@llvm
def test_artifact_for_another_cpu(folder):
    here_arm = platform.machine() in ("aarch64", "arm64")
    foreign = "x86_64-linux-gnu" if here_arm else "aarch64-linux-gnu"
    target = json.dumps({"kind": "llvm", "mtriple": foreign})
    result = alt("compile", "model.onnx", "--target", target, "--quiet", folder=folder)
    assert result.returncode == 0, result.stderr
    result = alt("run", "model.alt", folder=folder)
    mentioned = "x86" if here_arm else "aarch64"
    assert_refused(result, "model.alt", mentioned, folder=folder, left={"model.onnx", "model.alt"})


@llvm
@pytest.mark.parametrize("option", [["--shape", "x=2,3,8,8"], ["--precision", "fp16"]])
def test_what_an_artifact_is_was_decided(option, artifact, capsys):
    assert main(["run", str(artifact), *option]) == 1
    assert "compiled already" in capsys.readouterr().err
