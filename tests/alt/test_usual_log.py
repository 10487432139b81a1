"""The log of a user, which is meant where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from equivalence import array, model, node

import alt
from alt.cli import main
from alt.state import make_state_folder
from tuner.log import TuningLog
from tuner.options import Options


def product():
    return model([node("MatMul", "x w", "y")], {"x": array(1, 32)}, ["y"], {"w": array(32, 24)})


@pytest.mark.llvm
def test_without_a_name_networks_share_the_log_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    measured = []
    for seed in (0, 1):
        options = Options(batch=2, seed=seed)
        tuned = alt.tune(product(), trials=2, threads=1, options=options, verify=False)
        assert tuned.log == tmp_path / "state" / "alt" / "measurements.jsonl"
        (key,) = tuned.tasks
        measured.append({r.candidate for r in TuningLog.read(tuned.log).of_task(key)})
    assert [len(candidates) for candidates in measured] == [2, 4]


@pytest.mark.parametrize("in_the_way", ["state", "state/alt"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_done(
    tmp_path, monkeypatch, in_the_way
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / in_the_way
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(alt.AltError, match=r"cannot make .*alt: .*; name a log"):
        alt.tune("there is no such model.onnx")


def test_who_has_no_home_is_told_to_name_a_log(monkeypatch, capsys):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(alt.AltError, match="name a log"):
        make_state_folder()
    assert main(["tune", "model.onnx"]) == 1
    assert "name a log" in capsys.readouterr().err
    assert main(["check", "there is no such model.onnx"]) == 1
    assert "there is no such model.onnx" in capsys.readouterr().err
