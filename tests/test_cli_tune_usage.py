"""What `alt tune` passes on to `alt.tune`, and what it and its relatives refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from command_line import convolution

import alt as library
from alt import tuning_verbs
from alt.cli import main
from alt.target import resolve
from alt.tuning import Tuned
from tuner.driver import Outcome
from tuner.joint import Incumbent
from tuner.options import Options


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `alt.tune` was given; nothing is tuned."""
    given = {}

    def tune(model, target, **arguments):
        given.update(arguments, model=model, target=target)
        tasks = {k: SimpleNamespace(name=n, weight=2) for k, n in (("a", "conv"), ("b", "dense"))}
        outcome = Outcome({"a": Incumbent(None, 1e-3)}, {"a": 2e-3}, 5, False, "5 trials were made")
        outcome.given_up["b"] = "there is no reference"
        seconds = {"default": 2e-3, "joint": 1e-3, "loops": 1.5e-3}
        return Tuned(arguments["log"], "joint", seconds, outcome, tasks)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(library, "tune", tune)
    return given


def test_options_reach_the_tuner(asked, capsys):
    options = "--minutes 0.5 --trials 7 --log l.jsonl --threads 3 --layouts NCHW --no-verify "
    options += "--layout-search ppo --loop-search random --joint-share 0.4 --batch 5 --seed 9 "
    options += "--agent a.pt --repeats 7 --min-milliseconds 20 "
    options += "--also-learn-from a.jsonl b.jsonl --shape x=1,3 --no-winograd --precision tf32"
    assert main(["tune", "m.onnx", *options.split()]) == 0
    assert asked["options"] == Options(
        layouts="ppo", loops="random", joint_share=0.4, batch=5, seed=9, agent=Path("a.pt")
    )
    assert asked["timing"] == library.Timing(repeats=7, min_seconds=0.02)
    expected = {"minutes": 0.5, "trials": 7, "log": Path("l.jsonl"), "threads": 3, "verify": False}
    others = [Path("a.jsonl"), Path("b.jsonl")]
    expected |= {"layouts": "NCHW", "winograd": False, "others": others, "shapes": {"x": (1, 3)}}
    expected["precision"] = "tf32"
    assert {name: asked[name] for name in expected} == expected
    printed = capsys.readouterr().out
    assert "--precision tf32" in printed.splitlines()[-1]
    assert "1.000 ms a call, 2.00 times as fast: layouts and loops" in printed
    assert "--allow-partial" in shlex.split(printed.splitlines()[-1])  # one task has no time


def test_without_options_the_tuner_has_its_own_defaults(asked, capsys, tmp_path):
    assert main(["tune", "m.onnx", "--json"]) == 0
    assert asked["options"] == Options() and asked["timing"] == library.Timing()
    assert (asked["minutes"], asked["trials"], asked["threads"]) == (None, None, None)
    assert asked["log"] == tmp_path / "state" / "alt" / "measurements.jsonl"
    assert asked["log"].parent.is_dir()
    answer = json.loads(capsys.readouterr().out)
    assert (answer["gain"], answer["variant"], answer["trials"]) == (2.0, "joint", 5)
    assert [t["best_seconds"] for t in answer["tasks"]] == [1e-3, None]
    assert [t["given_up"] for t in answer["tasks"]] == [None, "there is no reference"]


def test_tasks_that_were_given_up_are_said(asked, capsys):
    assert main(["tune", "m.onnx"]) == 0
    assert "\ngiven up dense: there is no reference\n" in capsys.readouterr().out


def test_as_much_is_flushed_as_the_last_cache_holds(asked, monkeypatch):
    monkeypatch.setattr(tuning_verbs, "last_cache_bytes", lambda: 12345)
    assert main(["tune", "m.onnx", "--flush-cache"]) == 0
    assert asked["timing"] == library.Timing(flush_bytes=12345)
    gpu = '{"kind": "cuda", "arch": "sm_90"}'
    assert main(["tune", "m.onnx", "--flush-cache", "--target", gpu]) == 0
    assert asked["timing"].flush_bytes == resolve({"kind": "cuda", "arch": "sm_90"}).l2_bytes


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["tune"], "MODEL"),
        (["tune", "m.onnx", "--trials", "0"], "0"),
        (["tune", "m.onnx", "--minutes", "-1"], "-1"),
        (["tune", "m.onnx", "--minutes", "nan"], "nan"),
        (["tune", "m.onnx", "--joint-share", "1.5"], "1.5"),
        (["tune", "m.onnx", "--batch", "x"], "x"),
        (["tune", "m.onnx", "--repeats", "0"], "0"),
        (["tune", "m.onnx", "--min-milliseconds", "inf"], "inf"),
        (["tune", "m.onnx", "--layouts", "best"], "forward-only"),
        (["tune", "m.onnx", "--loop-search", "genetic"], "evolution"),
        (["replay", "m.onnx"], "--log"),
        (["compile", "m.onnx", "--layouts", "best"], "NCHWc"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, mentioned, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert mentioned in error


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["tune", "gone.onnx", "--log", "log.jsonl"], "gone.onnx"),
        (["tune", "model.onnx", "--log", "no/such/log.jsonl"], "no/such"),
        (["tune", "model.onnx", "--log", "model.onnx"], "not a log"),
        (
            ["tune", "model.onnx", "--log", "l.jsonl", "--also-learn-from", "gone.jsonl"],
            "gone.jsonl",
        ),
        (["tune", "model.onnx", "--agent", "agent.pt"], "only ppo has an agent"),
        (
            ["tune", "model.onnx", "--layout-search", "ppo", "--agent", "no/such/agent.pt"],
            "no/such",
        ),
        (
            ["tune", "model.onnx", "--flush-cache", "--rpc", "host:1", "--key", "k"],
            "not known here",
        ),
        (["tune", "model.onnx", "--flush-cache", "--min-milliseconds", "9"], "one call"),
        (["replay", "model.onnx", "--log", "gone.jsonl"], "gone.jsonl"),
        (["replay", "model.onnx", "--log", "l.jsonl", "-o", "model.so"], ".alt"),
        (["compile", "model.onnx", "--log", "gone.jsonl"], "gone.jsonl"),
        (["run", "model.onnx", "--log", "model.onnx"], "not a log"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments, mentioned, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    onnx.save(convolution(), "model.onnx")
    content = Path("model.onnx").read_bytes()
    assert main([*arguments, "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert mentioned in captured.err and "internal error" not in captured.err
    assert Path("model.onnx").read_bytes() == content


def test_what_is_not_installed_is_said(tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'xgboost'", name="xgboost")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "tune", missing)
    assert main(["tune", "model.onnx", "--log", "log.jsonl", "-q"]) == 1
    assert "xgboost is missing; install it with pip install 'alt-compiler[tune]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("verb", ["tune", "replay", "report"])
def test_help_has_examples_and_the_first_page_names_the_verb(verb, capsys):
    for arguments, mentioned in (([verb, "--help"], "examples:"), (["--help"], f"alt {verb} ")):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        assert mentioned in capsys.readouterr().out
