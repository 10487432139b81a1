"""Matrix products whose blocks keep a part of both factors in shared memory."""

from __future__ import annotations

from math import prod

from alt.cuda.gpu import TENSOR_CORES
from alt.elementary import Expr
from alt.sketches.gpu.block import Block, Sought, memory_of
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.matrix_panel import matrix_panel
from alt.sketches.gpu.product import LANES, Product
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.swath import decide_blocks
from alt.sketches.gpu.tiling import Precision, Problem, cycles_of, decide_tile
from alt.sketches.scope import Stmt, seq


def blocked_product(scope: GpuScope, product: Product, precision: Precision) -> Stmt:
    """A block of threads for each tile of the results.

    Asks for the tile, the order of blocks, and the padding of shared memory.

    Args:
        scope: the kernel.
        product: what to compute; of float32, not empty.
        precision: what is multiplied; tensor cores are used for all but fp32.
    """
    extents = prod(product.batch), product.rows, product.columns, product.depth
    problem = Problem(*extents, precision, _in_place(scope, product, precision))
    tile = decide_tile(scope.choose, problem, scope.gpu)
    scope.cycles = cycles_of(tile, problem, scope.gpu)
    down, across = -(-product.rows // tile.rows), -(-product.columns // tile.columns)
    blocks = decide_blocks(scope.choose, product.batch, down, across)
    padded = scope.choose.one_of("pad", (True, False), True)
    panels = (
        matrix_panel(product.left, tile.rows, tile, precision, padded),
        matrix_panel(product.right, tile.columns, tile, precision, padded),
    )
    sought = Sought(product.rows, product.columns, product.depth, product.results)
    memory = memory_of(scope, tile, panels, precision)
    rounded = (not tile.copies, not tile.copies)
    scope.notes["tile"] = [tile.rows, tile.columns, tile.depth]
    scope.notes["warp"] = [tile.warp_rows, tile.warp_columns]
    scope.notes["precision"] = precision

    def work(block: Expr, thread: Expr) -> Stmt:
        def at(*indices: Expr) -> Stmt:
            *batch, swath, right, left = indices
            top = swath * blocks.swath + left
            here = Block(scope, sought, tile, panels, precision, thread, memory, rounded)
            return here.computed(batch, top * tile.rows, right * tile.columns)

        return seq(memory.allocated, with_indices(scope, block, blocks.extents, at))

    return scope.launch((blocks.count,), (tile.threads,), work)


def _in_place(scope: GpuScope, product: Product, precision: Precision) -> bool:
    """Whether both factors are kept as they lie in memory, so that copies can run ahead."""
    operands = product.left, product.right
    if scope.gpu.capability < TENSOR_CORES or any(o.lanes < LANES for o in operands):
        return False
    return precision == "tf32" or (
        precision == "fp32" and all(o.along == "outer" for o in operands)
    )
