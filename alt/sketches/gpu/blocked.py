"""Matrix products whose blocks keep a part of both factors in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from alt.cuda.gpu import TENSOR_CORES
from alt.elementary import Expr
from alt.sketches.gpu.block import Block, Sought, memory_of
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.matrix_panel import matrix_panel
from alt.sketches.gpu.packed_weights import packed_rows
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.product import LANES, Operand, Product, Rows
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
    operands = product.left, product.right
    packed = [o.constant if precision != "fp32" else None for o in operands]
    each = [2 if p and precision == "fp16" else 4 for p in packed]
    in_place = _in_place(scope, operands, packed, precision)
    problem = Problem(*extents, precision, in_place, bytes_each=(each[0], each[1]))
    tile = decide_tile(scope.choose, problem, scope.gpu)
    scope.cycles = cycles_of(tile, problem, scope.gpu)
    down, across = -(-product.rows // tile.rows), -(-product.columns // tile.columns)
    blocks = decide_blocks(scope.choose, product.batch, down, across)
    padded = scope.choose.one_of("pad", (True, False), True)

    def panel(which: int, outer: int) -> Panel:
        constant = packed[which]
        if constant is not None:
            return packed_rows(scope, constant, outer, tile, precision, padded)
        return matrix_panel(operands[which], outer, tile, precision, padded)

    panels = panel(0, tile.rows), panel(1, tile.columns)
    sought = Sought(product.rows, product.columns, product.depth, product.results)
    memory = memory_of(scope, tile, panels, precision)
    # Constants were rounded when they were packed, others if they went through registers.
    rounded = packed[0] is not None or not tile.copies, packed[1] is not None or not tile.copies
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


def _in_place(
    scope: GpuScope,
    operands: Sequence[Operand],
    packed: Sequence[Rows | None],
    precision: Precision,
) -> bool:
    """Whether factors are kept as they lie in memory, so that copies can run ahead."""
    read = [o for o, p in zip(operands, packed, strict=True) if p is None]
    if scope.gpu.capability < TENSOR_CORES or any(o.lanes < LANES for o in read):
        return False
    return precision == "tf32" or (precision == "fp32" and all(o.along == "outer" for o in read))
