"""What attention reads, and how parts of it are kept in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alt.elementary import Expr, Inline
from alt.graph import Value
from alt.sketches.gpu.attention_tile import ROWS_PAD, TERMS_PAD, Problem, Tile
from alt.sketches.gpu.elementwise import VECTOR_DTYPES
from alt.sketches.gpu.matrix_panel import MatrixPanel, lanes_of
from alt.sketches.gpu.paired_panel import PairedRows, PairedTerms
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.product import Along, Operand, Results
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.matmul import fit
from primitives.expressions import reads_of
from primitives.tensorir import ir, tirx


@dataclass(frozen=True)
class Formula:
    """The values that a kernel of attention computes and reads.

    Attributes:
        q: queries, [..., queries, depth].
        k: keys, [..., depth, keys].
        v: values, [..., keys, width].
        product: of queries and keys.
        scores: what the softmax is of.
        result: of the softmax and the values.
    """

    q: Value
    k: Value
    v: Value
    product: Value
    scores: Value
    result: Value

    @staticmethod
    def of(scope: GpuScope) -> Formula:
        """What is to be computed."""
        last = scope.kernel.anchor
        assert last is not None
        product = next(n for n in scope.kernel.nodes if n.op == "matmul")
        softmax = next(n for n in scope.kernel.nodes if n.op == "softmax")
        q, k = product.inputs
        return Formula(q, k, last.inputs[1], product.output, softmax.inputs[0], last.output)

    def operands(self, scope: GpuScope, batch: Sequence[int]) -> tuple[Operand, Operand, Operand]:
        """Queries and keys, which are summed over the depth; values, which are over the keys."""

        def element(value: Value, index: Sequence[Expr]) -> Expr:
            return scope.evaluate(value, fit(index, value.shape), Inline())

        queries, depth = self.q.shape[-2:]
        keys, width = self.v.shape[-2:]
        return (
            Operand(scope, lambda h, q, d: element(self.q, [*h, q, d]), batch, queries, depth),
            Operand(scope, lambda h, k, d: element(self.k, [*h, d, k]), batch, keys, depth),
            Operand(scope, lambda h, c, k: element(self.v, [*h, k, c]), batch, width, keys),
        )

    def results(self, scope: GpuScope, batch: Sequence[int]) -> Results:
        """Where the result goes."""

        def element(head: Sequence[Expr], column: Expr, row: Expr) -> Expr:
            address = scope.address(scope.output_layout, [*head, row, column])
            return tirx.BufferLoad(scope.output, [address])

        *_, rows, width = self.result.shape
        place = Operand(scope, element, batch, width, rows)
        vectors = place.along == "outer" and scope.kernel.output.dtype in VECTOR_DTYPES
        lanes = place.lanes if vectors else 1
        return Results(scope, self.result, lambda h, r, c: [*h, r, c], lanes)


def is_read(given: Operand, batch: int) -> bool:
    """Whether an element is just a read of memory."""
    at = [tirx.Var("at", "int32") for _ in range(batch + 2)]
    found = given.element(at[:-2], at[-2], at[-1])
    return isinstance(found, ir.TensorLoad) and len(reads_of(found)) == 1


def panels_of(
    operands: Sequence[Operand], copied: Sequence[bool], tile: Tile, problem: Problem
) -> tuple[Panel, Panel, Panel]:
    """Queries, keys, values: how parts of them are kept in shared memory.

    Words of queries and keys are neighbours along the depth, those of values along their columns.
    On tensor cores, queries and values come in pairs.

    Args:
        operands: what they are parts of.
        copied: whether each gets there without passing through registers.
        tile: of the block.
        problem: its extents.
    """
    precision = problem.precision

    cores = precision != "fp32"

    def panel(
        kind: type[MatrixPanel], which: int, outer: int, depth: int, contiguous: Along, pad: int
    ) -> MatrixPanel:
        given, by_itself = operands[which], copied[which]
        turned = given.along != contiguous
        lanes = 1 if by_itself and turned else lanes_of(given, outer, depth)
        return kind(
            given.along,
            outer,
            depth,
            tile.threads,
            precision,
            contiguous,
            pad,
            lanes,
            by_itself,
            given,
        )

    left, right = (PairedRows, PairedTerms) if cores else (MatrixPanel, MatrixPanel)
    q_pad, v_pad = (ROWS_PAD, TERMS_PAD) if cores else (problem.deep_pad, 0)
    return (
        panel(left, 0, tile.queries, problem.deep, "depth", q_pad),
        panel(MatrixPanel, 1, tile.chunk, problem.deep, "depth", problem.deep_pad),
        panel(right, 2, problem.columns, tile.chunk, "outer", v_pad),
    )
