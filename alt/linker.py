"""Compiled code as a file that can be loaded."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm.support import cc

from alt.errors import AltError
from alt.processor import architecture

SHARED, OBJECT = "code.so", "code.o"
"""What the file is called: a library, or what is still to be linked for its target."""


def linked(library: Any, target: Mapping[str, Any]) -> tuple[str, bytes]:
    """A library as a file: its name and content.

    Args:
        library: what TVM compiled.
        target: `Machine.description` of what it is for; if nothing here links for that, the file is
            an object file.

    Raises:
        AltError: if there is no C compiler, or it cannot link.
    """
    linker = linker_for(target)
    with tempfile.TemporaryDirectory(prefix="alt-save-") as folder:
        compiled = Path(folder) / OBJECT
        getattr(library, "mod", library).write_to_file(str(compiled))
        if linker is None:
            return OBJECT, compiled.read_bytes()
        return SHARED, link(linker, compiled).read_bytes()


def linker_for(target: Mapping[str, Any]) -> str | None:
    """The compiler that links for a target; None if it has another architecture and none is here.

    Raises:
        AltError: if the target has this machine's architecture, and there is no C compiler.
    """
    if target["arch"] != architecture():
        found = (shutil.which(f"{target['mtriple']}-{name}") for name in ("gcc", "g++", "clang"))
        return next((compiler for compiler in found if compiler), None)
    linker = cc.get_cc()
    if linker is None or shutil.which(linker) is None:
        named = f"{linker!r}, which CXX or CC names, is not there" if linker else "none is on PATH"
        raise AltError(f"saving a module needs a C compiler to link it, but {named}; install gcc")
    return linker


def link(linker: str, compiled: Path) -> Path:
    """An object file as a library next to it.

    Raises:
        AltError: if the linker fails.
    """
    shared = compiled.with_name(SHARED)
    command = [linker, "-shared", "-fPIC", "-o", str(shared), str(compiled), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise AltError(f"cannot link the module with {linker}: {said[-1]}") from error
    return shared
