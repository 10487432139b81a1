"""ALT: compile neural networks by choosing layouts and loops together."""

from alt.compiler import compile  # noqa: A004
from alt.errors import AltError
from alt.module import Module

__all__ = ["AltError", "Module", "compile"]
