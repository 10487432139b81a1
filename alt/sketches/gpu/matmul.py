"""Matrix products: tiles in shared memory, or all threads on few rows."""

from __future__ import annotations

from alt.sketches.gpu import fallback
from alt.sketches.gpu.blocked import blocked_product
from alt.sketches.gpu.product import product_of
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tensor_cores import CAPABILITY
from alt.sketches.gpu.tiling import Precision
from alt.sketches.scope import Stmt


def matmul(scope: GpuScope) -> Stmt:
    """[..., M, K] x [..., K, N], NumPy rules for batches and vectors."""
    node = scope.kernel.anchor
    assert node is not None
    floats = all(v.dtype == "float32" for v in (*node.inputs[:2], node.output))
    if not floats or not node.output.size or not node.inputs[0].size:
        return fallback.matmul(scope)
    product = product_of(scope)
    return blocked_product(scope, product, precision_of(scope))


def precision_of(scope: GpuScope) -> Precision:
    """What may be multiplied, as far as the GPU can."""
    asked: Precision = getattr(scope.gpu, "precision", "fp32")
    return asked if scope.gpu.capability >= CAPABILITY else "fp32"
