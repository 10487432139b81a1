"""Sketches for GPUs: each is one launch; the fallbacks here fit every shape."""

from __future__ import annotations

from collections.abc import Callable

from alt.sketches.gpu.elementwise import concat, elementwise
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import Stmt

GpuSketch = Callable[[GpuScope], Stmt]

GPU_SKETCHES: dict[str, GpuSketch] = {
    "concat": concat,
}
"""The sketch for each kind of anchor."""


def gpu_sketch_for(scope: GpuScope) -> GpuSketch:
    """The sketch that schedules a kernel on a GPU."""
    anchor = scope.kernel.anchor
    return elementwise if anchor is None else GPU_SKETCHES[anchor.op]
