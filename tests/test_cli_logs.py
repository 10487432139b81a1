"""`alt logs` as its users meet it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alt.cli import main

STORED = Path(__file__).parent / "tuner" / "logs" / "schema_1.jsonl"


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copy(STORED, "log.jsonl")
    with Path("log.jsonl").open("a") as stream:
        stream.write('{"name": "cut')
    return "log.jsonl"


def said(capsys, *arguments):
    assert main(["logs", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_show_counts_and_says_what_it_cannot_read(log, capsys):
    shown = json.loads(said(capsys, "show", log, "--json"))["logs"][0]
    conv = [t for t in shown["tasks"] if t["name"] == "conv2d_3"]
    assert sorted((t["measurements"], t["ok"]) for t in conv) == [(1, 1), (4, 2)]
    assert {"wrong": 1, "build": 1} in [t["failed"] for t in conv]
    assert min(t["seconds"] for t in conv) == 0.000125
    assert [h["target"]["threads"] for h in shown["headers"]] == [2, 8]
    assert [each["line"] for each in shown["skipped"]] == [9]
    text = said(capsys, "show", log)
    for part in ("6 measurements of 2 tasks", "threads=8", "1 wrong, 1 build", "line 9", "0.42 ms"):
        assert part in text


def test_best_gives_a_candidate_for_each_task_and_target(log, capsys):
    best = json.loads(said(capsys, "best", log, "--json"))["best"]
    assert [(b["name"], b["seconds"]) for b in best] == [
        ("conv2d_3", 0.000125),
        ("conv2d_3", 0.00042),
    ]
    assert best[1]["layout"] == {"border": True, "input.block": 16}
    text = said(capsys, "best", log)
    assert "order=n,oc,oh" in text
    assert "dense_1" in text and "no candidate is ok" in text


def test_merge_then_prune(log, capsys):
    assert "6 measurements kept" in said(capsys, "merge", log, str(STORED), "-o", "all.jsonl")
    done = json.loads(said(capsys, "prune", "all.jsonl", "--keep", "1", "--json"))["logs"][0]
    assert (done["kept"], done["dropped"]) == (
        3,
        3,
    )  # two layouts, and another target
    assert json.loads(said(capsys, "best", "all.jsonl", "--json"))["best"][0]["seconds"] == 0.000125


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["show", "gone.jsonl"], "gone.jsonl: there is no such file"),
        (["best", "notes.txt"], "not a log"),
        (["show", "."], "no file"),
        (["merge", "log.jsonl", "-o", "notes.txt"], "overwritten"),
        (["merge", "log.jsonl", "-o", "no/such/folder"], "no/such/folder"),
        (["prune", "notes.txt"], "not a log"),
        (["show"], "measurements.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, mentioned, log, capsys):
    Path("notes.txt").write_text("hello\n")
    before = {path.name: path.stat().st_mtime_ns for path in Path().iterdir()}
    assert main(["logs", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "internal error" not in captured.err
    assert mentioned in captured.err
    assert {path.name: path.stat().st_mtime_ns for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [([], "verb"), (["prune", "a", "--keep", "0"], "0"), (["merge", "a"], "--output")],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, mentioned, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["logs", *arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert mentioned in error


def test_without_a_name_it_is_the_log_of_the_user(log, capsys, monkeypatch):
    folder = Path("state", "alt")
    folder.mkdir(parents=True)
    shutil.copy(STORED, folder / "measurements.jsonl")
    assert "6 measurements" in said(capsys, "show")
    # A relative folder is to be ignored, and the home folder's is meant.
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    assert main(["logs", "show"]) == 1
    assert str(Path("home", ".local", "state", "alt")) in capsys.readouterr().err
