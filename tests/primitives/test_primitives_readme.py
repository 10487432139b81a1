"""What the page of the package shows works, and it names every file."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import primitives

FOLDER = Path(primitives.__file__).parent
PAGE = FOLDER / "README.md"
TESTS = {"test_layout_laws.py", "random_layouts.py"}


@pytest.mark.llvm
def test_examples() -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags)
    assert result.attempted > 40
    assert result.failed == 0


def test_the_table_of_files_is_complete() -> None:
    named = set(re.findall(r"`(\w+\.py|\w+/)`", PAGE.read_text().partition("## The files")[2]))
    missing = {path.name for path in FOLDER.glob("[a-z]*.py")} - named
    assert not missing
    assert not [name for name in named - TESTS if not (FOLDER / name).exists()]
