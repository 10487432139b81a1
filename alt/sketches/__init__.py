"""Sketches: how each family of operators is scheduled, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alt.cuda.gpu import Gpu
from alt.graph import Value
from alt.kernels import Kernel
from alt.sketches.attention import attention
from alt.sketches.border import with_border
from alt.sketches.conv import convolution
from alt.sketches.depthwise import depthwise
from alt.sketches.direct import direct_convolution
from alt.sketches.generic import concat, elementwise
from alt.sketches.gpu import gpu_sketch_for
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.matmul import matmul
from alt.sketches.pool import pooling
from alt.sketches.reduce import reduction
from alt.sketches.rows import layer_norm, softmax
from alt.sketches.scope import Scope, Stmt
from alt.sketches.stages import stage_reduction
from alt.sketches.windows import is_depthwise, wants_blocks
from alt.sketches.winograd import transform_input, winograd
from alt.target import Hardware
from primitives import Layout
from tuner.choices import Choose

Sketch = Callable[[Any], Stmt]
"""Takes the scope that `scope_of` makes for a machine."""

SKETCHES: dict[str, Sketch] = {
    "attention": with_border(attention),
    "concat": concat,
    "conv": convolution,
    "conv_transpose": convolution,
    "layer_norm": with_border(layer_norm),
    "matmul": with_border(matmul),
    "pool": pooling,
    "reduce": with_border(reduction),
    "softmax": with_border(softmax),
    "stages": with_border(stage_reduction),
    "winograd": winograd,
    "winograd_input": transform_input,
}
"""The sketch for each kind of anchor, on a CPU; for GPUs see `alt.sketches.gpu`."""


def scope_of(
    kernel: Kernel,
    layouts: Mapping[Value, Layout],
    constants: Mapping[Value, np.ndarray],
    machine: Hardware,
    choose: Choose | None = None,
    asking: bool = False,
) -> Scope:
    """What a sketch builds a kernel from; arguments as those of `Scope`."""
    if isinstance(machine, Gpu):
        return GpuScope(kernel, layouts, constants, machine, choose, asking)
    return Scope(kernel, layouts, constants, machine, choose, asking)


def sketch_for(scope: Scope) -> Sketch:
    """The sketch that schedules a kernel."""
    if isinstance(scope, GpuScope):
        return gpu_sketch_for(scope)
    anchor = scope.kernel.anchor
    if anchor is None:
        return elementwise
    if anchor.op == "conv" and is_depthwise(anchor):
        return depthwise
    if anchor.op in ("conv", "conv_transpose") and not wants_blocks(anchor, scope.machine.lanes()):
        return direct_convolution
    return SKETCHES[anchor.op]
