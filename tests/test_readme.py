"""What the README shows works: its Python blocks, then its `alt` commands, run in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnx
import pytest
from command_line import ROOT, alt

from benchmarks.networks import resnet18

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(section: str) -> list[list[str]]:
    """Arguments of the `alt` commands in the console blocks of a section."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = text.splitlines()
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ alt ")]


def run(arguments: list[str], folder: Path) -> None:
    result = alt(*arguments, folder=folder)
    assert result.returncode == 0, f"alt {shlex.join(arguments)}: {result.stderr}"


@pytest.mark.llvm
def test_python_blocks_then_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks("python")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert commands("Quick start on the command line")
    for arguments in commands("Quick start on the command line"):
        run(arguments, tmp_path)


@pytest.mark.llvm
@pytest.mark.slow
def test_tuning(tmp_path):
    onnx.save(resnet18(), tmp_path / "resnet18.onnx")
    tune, *others = commands("Tune")
    assert tune[2:4] == ["--minutes", "10"]
    # Enough for every task to be measured once.
    run([*tune[:2], "--trials", "40", "--batch", "2", *tune[4:]], tmp_path)
    for arguments in others:
        run(arguments, tmp_path)


def test_every_command_is_run():
    lines = [line for line in README.splitlines() if line.startswith("$ alt ")]
    assert len(lines) == len(commands("Quick start on the command line") + commands("Tune"))


def test_make_targets_exist():
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", "".join(blocks("console"))))
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_files_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not Path(ROOT, link).exists()] == []
