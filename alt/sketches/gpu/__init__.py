"""Sketches for GPUs: each is one launch; the fallbacks here fit every shape."""

from __future__ import annotations

from collections.abc import Callable

from alt.sketches.gpu.attention import attention
from alt.sketches.gpu.elementwise import concat, elementwise
from alt.sketches.gpu.fallback import convolution, pooling, stage_reduction
from alt.sketches.gpu.matmul import matmul
from alt.sketches.gpu.rows import layer_norm, reduction, softmax
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import Stmt

GpuSketch = Callable[[GpuScope], Stmt]

GPU_SKETCHES: dict[str, GpuSketch] = {
    "attention": attention,
    "concat": concat,
    "conv": convolution,
    "conv_transpose": convolution,
    "layer_norm": layer_norm,
    "matmul": matmul,
    "pool": pooling,
    "reduce": reduction,
    "softmax": softmax,
    "stages": stage_reduction,
}
"""The sketch for each kind of anchor."""


def gpu_sketch_for(scope: GpuScope) -> GpuSketch:
    """The sketch that schedules a kernel on a GPU."""
    anchor = scope.kernel.anchor
    return elementwise if anchor is None else GPU_SKETCHES[anchor.op]
