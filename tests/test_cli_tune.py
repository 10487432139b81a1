"""`alt tune`, `alt replay` and compiling with a log, as their users meet them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from command_line import alt, convolution, environment

import alt as library
from alt.cli import main
from tuner.agent import Agent
from tuner.log import TuningLog

QUICKLY = ("--trials", "8", "--batch", "4", "--threads", "1")
ROUND = re.compile(
    r"\[ *\d+s\] conv2d_relu \S+ \S+ \S+  (joint|loops|descent) \d+  trials \d+/8  "
    r"ok \d+ wrong \d+ failed \d+  best \S+ ms \(was \S+, \S+x\)  network \S+ ms \(was .*\)"
)


def next_command(text):
    """The arguments of the command that the answer ends with."""
    words = shlex.split(text.strip().splitlines()[-1])
    assert words[:2] == ["next", "alt"]
    return words[2:]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A model that was tuned by a process, and what that printed."""
    folder = tmp_path_factory.mktemp("tuned")
    onnx.save(convolution(), folder / "model.onnx")
    return folder, alt("tune", "model.onnx", "--log", "model.jsonl", *QUICKLY, folder=folder)


@pytest.mark.llvm
def test_tuning_says_what_it_does_and_what_came_out(tuned):
    folder, result = tuned
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    rounds = [line for line in lines if ROUND.fullmatch(line)]
    first = lines.index(rounds[0])
    assert lines[first : first + len(rounds)] == rounds
    stages = [line.split("] ")[1] for line in lines if line not in rounds]
    assert stages[:first] == ["import", "simplify", "fuse", "prepare"]
    assert stages[first] == "measure the best again"
    assert {"time conversions", "time the network"} <= set(stages[first:])
    assert re.search(r"^before +\S+ ms a call$", result.stdout, re.MULTILINE)
    assert re.search(r"^after +\S+ ms a call, \S+ times as fast: ", result.stdout, re.MULTILINE)
    assert "8 trials of 1 tasks" in result.stdout
    assert {path.name for path in folder.iterdir()} >= {"model.onnx", "model.jsonl"}


@pytest.mark.llvm
def test_the_next_command_works_and_computes_the_same(tuned, capsys, monkeypatch):
    folder, result = tuned
    monkeypatch.chdir(folder)
    command = next_command(result.stdout)
    assert "--allow-partial" not in command
    assert main([*command, "--verify", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert Path("model.alt").exists()
    assert main(["bench", "model.alt", "--log", "model.jsonl", "-q"]) == 1
    assert "compiled already" in capsys.readouterr().err


@pytest.mark.llvm
def test_replay_says_how_much_the_log_covers(tuned, capsys, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    replay = ["replay", "model.onnx", "-q", "--log", "model.jsonl"]
    assert main([*replay, "--threads", "1", "-o", "again.alt"]) == 0
    assert capsys.readouterr().out.startswith("1/1 tasks applied from model.jsonl: ")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    expected = library.compile("model.onnx", threads=1)(x)
    assert np.allclose(library.load("again.alt")(x), expected, rtol=1e-4, atol=1e-4)
    # Measured with one thread, nothing is known of two.
    assert main([*replay, "--threads", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in ("0/1 tasks applied", "conv2d_relu", "threads=1", "--allow-partial"):
        assert part in captured.err
    assert main([*replay, "--threads", "2", "--allow-partial", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["applied"], answer["tasks"], answer["variant"]) == (0, 1, None)
    assert "conv2d_relu" in answer["missing"][0]


@pytest.mark.llvm
def test_the_report_shows_the_task(tuned, capsys, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    assert main(["report", "model.jsonl"]) == 0
    assert "conv2d_relu 1x3x8x8" in Path("model.html").read_text()


@pytest.mark.llvm
def test_an_agent_is_kept_and_what_is_none_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(convolution(), "model.onnx")
    ask = ["tune", "model.onnx", "--trials", "2", "--threads", "1", "--layout-search", "ppo", "-q"]
    assert main([*ask, "--no-verify", "--log", "1.jsonl", "--agent", "agent.pt"]) == 0
    rng = np.random.default_rng(0)
    assert Agent.load(Path("agent.pt"), rng)
    assert capsys.readouterr().err == ""
    before = Path("model.onnx").read_bytes()
    assert main([*ask, "--log", "2.jsonl", "--agent", "model.onnx"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "agent from model.onnx: it is not a saved agent" in error
    assert not TuningLog.read(Path("2.jsonl")).records
    assert Path("model.onnx").read_bytes() == before


@pytest.mark.llvm
@pytest.mark.slow
def test_tuning_again_goes_on_where_it_ended(tuned, capsys, monkeypatch, tmp_path):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    before = len(TuningLog.read(Path("model.jsonl")).records)
    arguments = ["--log", "model.jsonl", "--trials", "4", "--threads", "1", "--json", "-q"]
    assert main(["tune", "model.onnx", *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["trials"] == 4
    assert answer["before_seconds"] > 0 and answer["after_seconds"] > 0
    assert [task["occurs"] for task in answer["tasks"]] == [1]
    records = TuningLog.read(Path("model.jsonl")).records
    searched = [r for r in records[before:] if r.name.startswith("conv2d")][:4]
    assert not {r.candidate for r in searched} & {r.candidate for r in records[:before]}


# Ctrl-C


@pytest.mark.llvm
def test_interrupt_keeps_everything_and_names_the_next_command(tmp_path, capsys, monkeypatch):
    onnx.save(convolution(), tmp_path / "model.onnx")
    process = subprocess.Popen(
        [sys.executable, "-m", "alt", "tune", "model.onnx", "--log", "log.jsonl", "--minutes", "9"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    stages = list(takewhile(lambda line: "trials" not in line, iter(process.stderr.readline, "")))
    assert [line.split("] ")[1].strip() for line in stages] == [
        "import",
        "simplify",
        "fuse",
        "prepare",
    ]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers, too
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Ctrl-C again" in errors
    assert "ended by you" in printed
    log = TuningLog.read(tmp_path / "log.jsonl")
    assert log.skipped == ()
    assert {r.name for r in log.records} >= {"the network"}
    monkeypatch.chdir(tmp_path)
    assert main([*next_command(printed), "-q"]) == 0


def interrupted(*_, observe, **__):
    signal.raise_signal(signal.SIGINT)


def interrupted_twice(*_, observe, **__):
    observe(a_round())
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)


def a_round():
    fields = {"task": "conv", "stage": "joint", "trials": 1, "measured": {}, "best": 1.0}
    times = {"default": 1.0, "network": 1.0, "network_default": 1.0, "elapsed": 1.0}
    return SimpleNamespace(**fields, **times, tasks_done=0)


def test_interrupted_before_anything_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "tune", interrupted)
    assert main(["tune", "model.onnx", "--log", "log.jsonl"]) == 130
    assert capsys.readouterr().out == "interrupted before anything was measured\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_stops_at_once_and_names_the_next_command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "tune", interrupted_twice)
    asked = ["--log", "my log.jsonl", "--shape", "x=1,3", "--constant", "axes=[1,2]"]
    assert main(["tune", "m.onnx", *asked, "--no-winograd", "--layouts", "NHWC"]) == 130
    captured = capsys.readouterr()
    assert captured.err.count("Ctrl-C again") == 1
    command = next_command(captured.out)
    assert command[:2] == ["compile", "m.onnx"]
    assert command[-2:] == ["-o", "m.alt"]
    for part in (asked[:2], asked[2:4], ["--layouts", "NHWC"]):
        assert command[command.index(part[0]) + 1] == part[1]
    assert command[command.index("--constant") + 1] == "axes=[1, 2]"
    assert {"--no-winograd", "--allow-partial"} <= set(command)
