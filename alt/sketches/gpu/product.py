"""Matrix products as GPU sketches see them: whose elements, in which order they lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np

from alt.elementary import Emitter, Expr, Inline
from alt.graph import Value
from alt.operators import delinear
from alt.sketches.gpu.elementwise import VECTOR_DTYPES, read_in_place
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.matmul import fit
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from primitives.expressions import reads_of
from primitives.tensorir import ir, tirx

LANES = 4
"""What a thread reads or writes of float32 at once, at most: 16 bytes."""

Along = Literal["outer", "depth"]


@dataclass(frozen=True)
class Rows:
    """A constant as rows of terms.

    Attributes:
        value: the constant.
        name: of what makes them of it; the same name has to mean the same.
        make: gives an array of `shape`.
        shape: groups, rows (or columns, or channels), terms of their sums; none is 0.
    """

    value: Value
    name: str
    make: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Operand:
    """One of the two matrices, or a batch of them.

    Attributes:
        scope: the kernel.
        element: the element at (batch indices, row of the left matrix or column of the right one,
            position along the axis that is summed over); it must exist.
        batch: extents of its batch.
        outer: extent of its rows, or columns.
        depth: extent of the axis that is summed over.
        constant: its rows, or columns, if it is one constant for the whole batch.
    """

    scope: GpuScope
    element: Callable[[Sequence[Expr], Expr, Expr], Expr]
    batch: Sequence[int]
    outer: int
    depth: int
    constant: Rows | None = None

    @cached_property
    def along(self) -> Along:
        """The axis along which neighbours lie next to each other in memory, if one does.

        It decides which threads read what. Who asks reads the matrix as it is stored: a constant
        that is not asked is not kept like that.
        """
        return self._read[0]

    @cached_property
    def lanes(self) -> int:
        """How many neighbours along it can be read at once, from a multiple of that on."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Along, int]:
        axes: tuple[Along, Along] = ("depth", "outer")
        for along in axes:
            if self._together(along):
                return along, LANES
        if self.depth > 1 and self._runs("depth", 2, 1) is not None:
            return "depth", 1
        return "outer", 1

    def _together(self, along: Along) -> bool:
        """Whether `LANES` neighbours are one read of memory that is aligned for that."""
        if (self.outer if along == "outer" else self.depth) % LANES:
            return False
        first = self._runs(along, LANES, LANES)
        if first is None:
            return False
        rest = self.scope.analyzer.simplify(first % LANES)
        return isinstance(rest, tirx.IntImm) and int(rest.value) == 0

    def _runs(self, along: Along, count: int, step: int) -> Expr | None:
        """Where neighbours are, from any multiple of `step` on; None unless next to each other."""
        limits = self.outer // step, self.depth
        if along == "depth":
            limits = self.outer, self.depth // step
        *at, x, k = self._variables(*limits)
        places: list[Expr] = []
        for j in range(count):
            where = (x * step + j, k) if along == "outer" else (x, k * step + j)
            element = self.element(at, *where)
            if not isinstance(element, ir.TensorLoad) or len(reads_of(element)) != 1:
                return None
            places.append(element.indices[0])
        for j, place in enumerate(places):
            apart = self.scope.analyzer.simplify(place - places[0])
            if not isinstance(apart, tirx.IntImm) or int(apart.value) != j:
                return None
        return places[0]

    def _variables(self, outer: int, depth: int) -> list[Expr]:
        variables: list[Expr] = []
        for extent in (*self.batch, outer, depth):
            variables.append(tirx.Var("at", "int32"))
            self.scope.analyzer.bind(variables[-1], ir.Range(0, max(extent, 1)))
        return variables


@dataclass(frozen=True)
class Results:
    """Where the products go.

    Attributes:
        scope: the kernel.
        value: what the kernel's nodes call the product.
        indices: the indices of an element of it at (batch indices, row, column).
        lanes: how many neighbours in a row can be written at once.
    """

    scope: GpuScope
    value: Value
    indices: Callable[[Sequence[Expr], Expr, Expr], list[Expr]]
    lanes: int

    def write(
        self,
        batch: Sequence[Expr],
        row: Expr,
        column: Expr,
        count: int,
        total: Callable[[Expr], Expr],
    ) -> Stmt:
        """The epilogue for `count` neighbours in a row, all of which exist.

        Args:
            batch: indices.
            row: its number.
            column: of the first; a multiple of `count`.
            count: at most `lanes`.
            total: the product at the k-th of them.
        """
        scope, output = self.scope, self.scope.kernel.output

        def at(k: Expr) -> list[Expr]:
            return [scope.analyzer.simplify(i) for i in self.indices(batch, row, column + k)]

        def evaluated(k: Expr, given: dict[Value, Expr], put: Callable[[Expr], Stmt]) -> Stmt:
            emit = Emitter()
            value = scope.evaluate(output, at(k), emit, {**given, self.value: total(k)})
            return seq(*emit.statements, put(value))

        if count == 1:
            return evaluated(i32(0), {}, lambda value: scope.store(at(i32(0)), value))
        here = [v for v in read_in_place(scope) if v.dtype in VECTOR_DTYPES]
        loaded = {value: scope.local(count, value.dtype, "read") for value in here}
        made = scope.local(count, output.dtype, "made")

        def read(value: Value) -> Stmt:
            return scope.loop(
                count,
                lambda k: tirx.BufferStore(loaded[value], scope.load(value, at(k)), [k]),
                VECTORIZED,
            )

        def compute(k: Expr) -> Stmt:
            given = {value: tirx.BufferLoad(buffer, [k]) for value, buffer in loaded.items()}
            return evaluated(k, given, lambda value: tirx.BufferStore(made, value, [k]))

        return seq(
            *map(tirx.AllocBuffer, (*loaded.values(), made)),
            *map(read, here),
            scope.loop(count, compute, UNROLLED),
            scope.loop(count, lambda k: scope.store(at(k), tirx.BufferLoad(made, [k])), VECTORIZED),
        )


@dataclass(frozen=True)
class Product:
    """result[batch, row, column] = sum over depth of left[batch, row, k] * right[batch, k, column].

    Attributes:
        batch: extents of the axes that both matrices and the results have in common.
        rows: extent.
        columns: extent.
        depth: extent of the axis that is summed over.
        left: the matrix with the rows.
        right: the matrix with the columns.
        results: where the sums go.
    """

    batch: tuple[int, ...]
    rows: int
    columns: int
    depth: int
    left: Operand
    right: Operand
    results: Results

    @property
    def transposed(self) -> Product:
        """The same products, with rows as columns."""
        given = self.results

        def indices(batch: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
            return given.indices(batch, column, row)

        results = replace(given, indices=indices, lanes=1)
        return Product(
            self.batch, self.columns, self.rows, self.depth, self.right, self.left, results
        )

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * prod(self.batch) * self.rows * self.columns * self.depth


def product_of(scope: GpuScope) -> Product:
    """The product that anchors a kernel: [..., M, K] x [..., K, N], NumPy's rules for the rest."""
    node = scope.kernel.anchor
    assert node is not None
    a, b = node.inputs[:2]
    depth = a.shape[-1]
    columns = b.shape[-1] if len(b.shape) > 1 else 1
    height = a.shape[-2] if len(a.shape) > 1 else 1
    batch = tuple(node.output.shape[: max(len(a.shape), len(b.shape)) - 2])
    # If the whole batch shares one right matrix, it is just more rows.
    shared = prod(b.shape[:-2]) == 1
    rows_of = (*batch, height) if shared else (height,)
    batch = () if shared else batch

    def left(at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        where = delinear(row, rows_of) if shared else [*at, row]
        index = [*where, k] if len(a.shape) > 1 else [k]
        return scope.evaluate(a, fit(index, a.shape), Inline())

    def right(at: Sequence[Expr], column: Expr, k: Expr) -> Expr:
        first = [i32(0)] * (len(b.shape) - 2) if shared else at
        index = [*first, k, column] if len(b.shape) > 1 else [k]
        return scope.evaluate(b, fit(index, b.shape), Inline())

    def indices(at: Sequence[Expr], row: Expr, column: Expr) -> list[Expr]:
        index = delinear(row, rows_of) if shared else [*at, row]
        if len(a.shape) == 1:
            index = index[:-1]
        return [*index, column] if len(b.shape) > 1 else index

    rows = prod(rows_of)

    def result(at: Sequence[Expr], row: Expr, column: Expr) -> Expr:
        address = scope.address(scope.output_layout, indices(at, row, column))
        return tirx.BufferLoad(scope.output, [address])

    def constant(value: Value, name: str, outer: int) -> Rows | None:
        if value not in scope.constants or value.size != outer * depth:
            return None

        def in_rows(array: np.ndarray) -> np.ndarray:
            if name == "rows":
                return array.reshape(1, outer, depth)
            return array.reshape(depth, outer).T[None]

        return Rows(value, name, in_rows, (1, outer, depth))

    place = Operand(scope, result, batch, columns, rows)
    vectors = place.along == "outer" and scope.kernel.output.dtype in VECTOR_DTYPES
    wide = place.lanes if vectors else 1
    return Product(
        batch,
        rows,
        columns,
        depth,
        Operand(scope, left, batch, rows, depth, constant(a, "rows", rows)),
        Operand(scope, right, batch, columns, depth, constant(b, "columns", columns)),
        Results(scope, node.output, indices, wide),
    )
