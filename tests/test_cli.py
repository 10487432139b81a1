"""The command line as its users meet it: help, usage, `alt check`, and models that are no good."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import onnx
import pytest
from command_line import alt, assert_refused, convolution, environment, model_of, value
from onnx import TensorProto, external_data_helper, helper

from alt.cli import main

VERBS = ("compile", "run", "explain", "check", "bench")


def unsupported():
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], "first", domain="com.example"),
        helper.make_node("Frobnicate", ["a"], ["b"], "second", domain="com.example"),
        helper.make_node("NonZero", ["x"], ["c"], "third"),
    ]
    outputs = [value("b", None), value("c", None, TensorProto.INT64)]
    return model_of(nodes, [value("x", [2, 3])], outputs, domains=["com.example"])


@pytest.fixture
def folder(tmp_path):
    onnx.save(convolution(), tmp_path / "model.onnx")
    return tmp_path


# Help and usage


def test_help_names_every_verb_and_shows_how_to_start(tmp_path):
    result = alt("--help", folder=tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    for verb in VERBS:
        assert f"alt {verb}" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_has_examples(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed
    assert "--json" in printed


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        ([], "verb"),
        (["frobnicate"], "frobnicate"),
        (["compile"], "MODEL"),
        (["check", "m.onnx", "--shape", "x"], "NAME=1,3,224,224"),
        (["check", "m.onnx", "--shape", "x=1,-3"], "1,-3"),
        (["check", "m.onnx", "--shape", "x=1,three"], "1,three"),
        (["check", "m.onnx", "--constant", "axes=[1,"], "axes"),
        (["check", "m.onnx", "--constant", 'axes=["a"]'], "numbers"),
        (["check", "m.onnx", "--constant", "axes=[[1],[1,2]]"], "axes"),
        (["run", "m.onnx", "--input", "x.npy"], "NAME=FILE.npy"),
        (["run", "m.onnx", "--threads", "0"], "0"),
        (["bench", "m.onnx", "--repeats", "many"], "many"),
        (["compile", "m.onnx", "--target", "{kind}"], "JSON"),
        (["compile", "m.onnx", "--precision", "bf16"], "tf32"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, mentioned, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("alt: error: ")
    assert mentioned in lines[0]
    assert "--help" in lines[0]


# alt check


def test_check_says_that_a_model_is_supported(folder):
    result = alt("check", "model.onnx", folder=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("model.onnx: supported")
    assert "x: float32[1, 3, 8, 8]" in result.stdout
    assert "1 Conv" in result.stdout


def test_check_lists_every_unsupported_operator_with_its_nodes(folder):
    onnx.save(unsupported(), folder / "odd.onnx")
    result = alt("check", "odd.onnx", "--json", folder=folder)
    assert result.returncode == 1
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["supported"] is False
    found = {item["operator"]: item["nodes"] for item in report["unsupported"]}
    assert found == {"Frobnicate": ["first", "second"], "NonZero": ["third"]}
    assert all(item["reason"] for item in report["unsupported"])


def test_check_says_how_to_bind_a_dimension_and_then_is_content(folder, capsys):
    onnx.save(convolution(batch="n"), folder / "loose.onnx")
    path = str(folder / "loose.onnx")
    assert main(["check", path]) == 1
    assert "--shape x=1,3,8,8" in capsys.readouterr().out
    assert main(["check", path, "--shape", "x=1,3,8,8"]) == 0


# Models that cannot be read or compiled


def test_missing_model(tmp_path):
    for verb in ("compile", "check"):
        result = alt(verb, "gone.onnx", folder=tmp_path)
        assert_refused(result, "gone.onnx", "no such file", folder=tmp_path, left=set())


def test_truncated_model(folder):
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    result = alt("compile", "model.onnx", folder=folder)
    assert_refused(result, "model.onnx", "cut short", folder=folder, left={"model.onnx"})


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" * 9])
def test_not_an_onnx_model(content, folder, capsys):
    (folder / "model.onnx").write_bytes(content)
    assert main(["compile", str(folder / "model.onnx"), "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "not an ONNX model" in captured.err


def test_external_data_outside_the_folder(tmp_path):
    model = convolution()
    tensor = model.graph.initializer[0]
    external_data_helper.set_external_data(tensor, "../secret.bin")
    tensor.ClearField("raw_data")
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8 * 3 * 3 * 3 * 4))
    (inside / "model.onnx").write_bytes(model.SerializeToString())
    result = alt("compile", "model.onnx", folder=inside)
    assert_refused(result, "../secret.bin", "outside", folder=inside, left={"model.onnx"})


def test_unsupported_operators(folder):
    onnx.save(unsupported(), folder / "model.onnx")
    result = alt("compile", "model.onnx", folder=folder)
    names = ("Frobnicate", "com.example", "first", "second", "NonZero", "third")
    assert_refused(result, *names, folder=folder, left={"model.onnx"})


def test_unbound_dimension(folder):
    onnx.save(convolution(batch="n"), folder / "model.onnx")
    result = alt("compile", "model.onnx", folder=folder)
    assert_refused(result, "--shape x=1,3,8,8", folder=folder, left={"model.onnx"})


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--shape", "z=1,3,8,8"], "z"),
        (["--shape", "x=1,4,8,8"], "(1, 4, 8, 8)"),
        (["--shape", "x=3,8,8"], "(3, 8, 8)"),
        (["--constant", "z=[1]"], "z"),
        (["--constant", "x=@gone.npy"], "gone.npy"),
        (["--target", "no-such-target"], "no-such-target"),
        (["--target", '{"kind": "llvm", "mcpu": 5}'], "target"),
        (["--precision", "tf32"], "leave it out"),
        (["-o", "no/such/folder/m.alt"], "no/such/folder"),
        (["-o", "model.so"], ".alt"),
    ],
)
def test_bad_options_of_compile(arguments, mentioned, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["compile", "model.onnx", "--quiet", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("alt: error: ")
    assert "internal error" not in captured.err
    assert mentioned in captured.err
    assert {path.name for path in folder.iterdir()} == {"model.onnx"}


# Leaving early


def test_interrupt_ends_with_130_and_leaves_nothing(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # the first stage has begun
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("alt: interrupted")
    assert {path.name for path in folder.iterdir()} == {"model.onnx"}


INTERRUPTED = """
import sys, time
import alt, alt.cli

def endless(*arguments, progress, **named):
    progress("import", 0, 1)
    time.sleep(60)

alt.compile = endless
sys.exit(alt.cli.main(["compile", "model.onnx"]))
"""


def test_a_reader_that_has_enough_is_no_error(folder):
    code = "import sys, alt.cli; sys.exit(alt.cli.main(['check', 'model.onnx']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert errors == ""
    assert process.returncode == 141
