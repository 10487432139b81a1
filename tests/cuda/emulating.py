"""A pytest plugin: `alt.compile` for this machine compiles for a GPU, and the result is emulated.

`python -m pytest -p emulating` with this folder on the path runs the tests of operators that way.
"""

from __future__ import annotations

from math import prod
from typing import Any

from emulated import SM_90, Emulation, planned

import alt
import alt.compiler
from alt.arrays import Signature, as_input
from alt.compiler import fused
from alt.describe import describe_kernels
from alt.gpu_formats import FORMATS


class Emulated:
    """As a module, as far as tests of operators look."""

    def __init__(self, model: Any, options: dict[str, Any], layouts: str) -> None:
        network = fused(model, SM_90, **options)
        program = planned(network, layouts)
        self.header = {"kernels": describe_kernels(network.graph, program)}
        self.inputs = tuple(Signature(*value) for value in network.imported.inputs)
        self.run = Emulation(program)

    def __call__(self, *args: Any, **named: Any) -> Any:
        given = [*args, *(named[s.name] for s in self.inputs[len(args) :])]
        arrays = [as_input(a, s) for a, s in zip(given, self.inputs, strict=True)]
        found = self.run(
            [a[: max(prod(s.shape), 1)] for a, s in zip(arrays, self.inputs, strict=True)]
        )
        return found[0] if len(found) == 1 else tuple(found)


def compile(model: Any, target: Any = "llvm", **options: Any) -> Any:  # noqa: A001
    """In the place of `alt.compile`."""
    kept = {k: v for k, v in options.items() if k in ("shapes", "constants")}
    layouts = options.get("layouts")
    return Emulated(model, kept, layouts if layouts in FORMATS else "joint")


def pytest_configure(config: Any) -> None:
    """Only where this is a plugin, not wherever it is imported."""
    alt.compile = compile
