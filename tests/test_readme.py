"""What the README shows works: its Python blocks, then its `alt` commands, run in one folder."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import onnx
import pytest
from command_line import ROOT, alt

from benchmarks.networks import resnet18

README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    """The text under a heading."""
    return README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str = "python") -> list[str]:
    """Fenced code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[list[str]]:
    """Arguments of the `alt` commands in the console blocks of a section."""
    lines = section(name).splitlines()
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ alt ")]


def run(arguments: list[str], folder: Path) -> None:
    result = alt(*arguments, folder=folder)
    assert result.returncode == 0, f"alt {shlex.join(arguments)}: {result.stderr}"


@pytest.mark.llvm
def test_python_blocks_then_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks(section("Quick start in Python"))
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks(README.replace(section("GPUs"), "")):
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


@pytest.mark.cuda_build
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_compiling_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(resnet18(), "resnet18.onnx")
    (block,) = blocks(section("GPUs"))
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert Path("resnet18-sm_90.alt").stat().st_size > 1e7


def test_every_command_is_run():
    lines = [line for line in README.splitlines() if line.startswith("$ alt ")]
    assert len(lines) == len(commands("Quick start on the command line") + commands("Tune"))


def test_make_targets_exist():
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", "".join(blocks(README, "console"))))
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_files_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not Path(ROOT, link).exists()] == []
