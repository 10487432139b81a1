"""Sketches for GPUs: each is one launch; the fallbacks here fit every shape."""

from __future__ import annotations

from collections.abc import Callable

from alt.sketches.gpu.attention import attention
from alt.sketches.gpu.conv import convolution, tiles_well
from alt.sketches.gpu.depthwise import goes_by_channel
from alt.sketches.gpu.depthwise_channels import depthwise
from alt.sketches.gpu.elementwise import concat, elementwise
from alt.sketches.gpu.fallback import one_by_one, pooling, stage_reduction
from alt.sketches.gpu.matmul import matmul
from alt.sketches.gpu.rows import layer_norm, reduction, softmax
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.winograd import multiply_points, transform_input, transform_output
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
    "winograd_input": transform_input,
    "winograd_output": transform_output,
    "winograd_product": multiply_points,
}
"""The sketch for each kind of anchor."""


def gpu_sketch_for(scope: GpuScope) -> GpuSketch:
    """The sketch that schedules a kernel on a GPU."""
    anchor = scope.kernel.anchor
    if anchor is None:
        return elementwise
    if anchor.op in ("conv", "conv_transpose"):
        if goes_by_channel(anchor):
            return depthwise
        return convolution if tiles_well(anchor) else one_by_one
    return GPU_SKETCHES[anchor.op]
