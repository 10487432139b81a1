"""softmax(q @ k) @ v: a block for some queries of a head, whose scores never go to memory."""

from __future__ import annotations

from math import prod

from alt.cuda.gpu import TENSOR_CORES
from alt.elementary import Expr
from alt.sketches.gpu.attention_block import Block
from alt.sketches.gpu.attention_operands import Formula, is_read, panels_of
from alt.sketches.gpu.attention_tile import Problem, cycles_of, decide_tile
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import Stmt, seq


def attention(scope: GpuScope) -> Stmt:
    """Any number of keys, and any mask or scale between the product and the softmax.

    Keys and values come to shared memory a chunk at a time; scores of a chunk, the sums of values
    so far and what the softmax has to know of them are in registers.

    Source:
        FlashAttention-2 (arXiv 2307.08691).
    """
    formula = Formula.of(scope)
    *batch, queries, keys = formula.product.shape
    depth, width = formula.q.shape[-1], formula.v.shape[-1]
    if not prod((*batch, queries, width)):
        return seq()
    operands = formula.operands(scope, batch)
    precision = scope.gpu.precision
    can_copy = precision == "fp32" and scope.gpu.capability >= TENSOR_CORES
    copied = [can_copy and is_read(each, len(batch)) for each in operands]
    problem = Problem(prod(batch), queries, keys, depth, width, precision, all(copied[1:]))
    tile = decide_tile(scope.choose, problem, scope.gpu)
    scope.cycles = cycles_of(tile, problem, scope.gpu)
    panels = panels_of(operands, copied, tile, problem)
    downs = -(-queries // tile.queries)
    scope.notes["queries"], scope.notes["keys"] = tile.queries, tile.chunk
    scope.notes["slices"] = tile.slices
    scope.notes["precision"] = problem.precision

    def work(block: Expr, thread: Expr) -> Stmt:
        def at(*indices: Expr) -> Stmt:
            *head, right, down = indices
            here = Block(scope, formula, problem, tile, panels, thread)
            return here.computed(head, down * tile.queries, right * problem.columns)

        extents = (*batch, problem.wide_parts, downs)
        return with_indices(scope, block, extents, at)

    return scope.launch((tile.blocks(problem),), (tile.threads,), work)
