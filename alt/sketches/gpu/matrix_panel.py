"""Panels of matrices that lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

from alt.elementary import Expr
from alt.sketches.gpu.panel import Found, Panel, Part
from alt.sketches.gpu.product import LANES, Along, Operand
from alt.sketches.gpu.tiling import Precision, Tile
from primitives.tensorir import tirx


@dataclass(frozen=True)
class MatrixPanel(Panel):
    """A part of a matrix.

    Attributes:
        operand: where it comes from.
    """

    operand: Operand

    def found(self, part: Part, piece: Expr, outer: Expr, term: Expr) -> Found:
        """See `Panel.found`."""
        x, k = part.outer + outer, part.term + term
        first = self.operand.element(part.batch, x, k)
        if self.lanes == 1:
            return part.inside(x, k), lambda lane: first
        # They lie next to each other, which may be hard to see from their indices.
        return part.inside(x, k), lambda lane: tirx.BufferLoad(
            first.source, [first.indices[0] + lane]
        )


def matrix_panel(
    operand: Operand, outer: int, tile: Tile, precision: Precision, padded: bool
) -> MatrixPanel:
    """How an operand's part is kept in shared memory.

    Threads that each multiply by themselves read runs of rows and columns; for tensor cores, words
    stay in the order of memory.

    Args:
        operand: the matrix.
        outer: how many of its rows, or columns.
        tile: what the block works on.
        precision: what is multiplied.
        padded: whether threads are kept from waiting for the same bank.
    """
    lanes = lanes_of(operand, outer, tile.depth)
    contiguous: Along = "outer"
    if precision == "fp32":
        pad = 4 if operand.along == "depth" else 0
    else:
        contiguous = operand.along
        pad = bank_pad(contiguous, outer, tile.depth, precision)
    return MatrixPanel(
        operand.along,
        outer,
        tile.depth,
        tile.team,
        precision,
        contiguous,
        pad if padded else 0,
        lanes,
        tile.copies,
        operand,
    )


def bank_pad(contiguous: Along, outer: int, depth: int, precision: Precision) -> int:
    """Words behind each row of a panel with which tensor cores read every word of another bank.

    They read four words of eight neighbours at a time, which are eight rows of the panel, or parts
    of four.

    >>> bank_pad("depth", 64, 32, "fp16"), bank_pad("outer", 64, 32, "tf32")
    (4, 8)
    """
    words = depth // 2 if precision == "fp16" else depth
    return (4 - words) % 8 if contiguous == "depth" else (8 - outer) % 16


def lanes_of(operand: Operand, outer: int, depth: int) -> int:
    """How many elements of an operand a thread can read at once for a panel of some extents."""
    extent = outer if operand.along == "outer" else depth
    return operand.lanes if extent % LANES == 0 else 1
