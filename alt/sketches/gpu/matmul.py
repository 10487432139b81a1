"""Matrix products: tiles in shared memory, or all threads on few rows."""

from __future__ import annotations

from alt.sketches.gpu import fallback
from alt.sketches.gpu.blocked import blocked_product
from alt.sketches.gpu.product import product_of
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.thin import MOST_ROWS, thin_product
from alt.sketches.scope import Stmt

KINDS = ("thin", "blocks")
"""How products with few rows or columns may be computed."""


def matmul(scope: GpuScope) -> Stmt:
    """[..., M, K] x [..., K, N], NumPy rules for batches and vectors."""
    node = scope.kernel.anchor
    assert node is not None
    floats = all(v.dtype == "float32" for v in (*node.inputs[:2], node.output))
    if not floats or not node.output.size or not node.inputs[0].size:
        return fallback.matmul(scope)
    product = product_of(scope)
    thin = product.transposed if product.columns < product.rows else product
    if thin.rows <= MOST_ROWS and scope.choose.one_of("kind", KINDS, "thin") == "thin":
        return thin_product(scope, thin)
    return blocked_product(scope, product, scope.gpu.precision)
