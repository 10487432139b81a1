"""ALT: compile neural networks by choosing layouts and loops together.

What is not used is not imported: a program that only loads artifacts needs neither ONNX nor the
compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alt.artifact import load
    from alt.checking import check
    from alt.compiler import compile  # noqa: A004
    from alt.errors import AltError
    from alt.messages import Timing
    from alt.module import Module
    from alt.tuning import Tuned, tune
    from tuner.options import Options

__all__ = ["AltError", "Module", "Options", "Timing", "Tuned", "check", "compile", "load", "tune"]

_HOMES = {
    "AltError": "alt.errors",
    "Module": "alt.module",
    "check": "alt.checking",
    "compile": "alt.compiler",
    "load": "alt.artifact",
    "Options": "tuner.options",
    "Timing": "alt.messages",
    "Tuned": "alt.tuning",
    "tune": "alt.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
