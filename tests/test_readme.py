"""What the README shows works: its Python blocks, then its `alt` commands, run in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import ROOT, alt

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Arguments of the `alt` commands in console blocks."""
    lines = "".join(blocks("console")).splitlines()
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ alt ")]


@pytest.mark.llvm
def test_python_blocks_then_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks("python")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert commands()
    for arguments in commands():
        result = alt(*arguments, folder=tmp_path)
        assert result.returncode == 0, f"alt {shlex.join(arguments)}: {result.stderr}"


def test_make_targets_exist():
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", "".join(blocks("console"))))
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_files_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not Path(ROOT, link).exists()] == []
