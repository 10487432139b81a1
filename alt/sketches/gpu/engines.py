"""How a warp multiplies what is in shared memory: thread by thread, or all on tensor cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from alt.elementary import Expr
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tensor_cores import load_matrices, multiply_add, rounded
from alt.sketches.gpu.tiling import WARP, Tile
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from primitives.tensorir import tirx

UNROLLED_TERMS = 16
"""So many terms of a sum are written out; more make the code too long for its cache."""

EachRun = Callable[[Expr, Expr, Expr], Stmt]
"""(row and first column in the block's results, the first of the sums)."""


@dataclass(frozen=True)
class Team:
    """Where a thread stands in its team.

    Attributes:
        thread: its number.
        tile: what the team works on.
    """

    thread: Expr
    tile: Tile

    @property
    def lane(self) -> Expr:
        """Its number in its warp."""
        return self.thread % WARP

    @property
    def row(self) -> Expr:
        """The first row of its warp."""
        return self.thread // WARP // self.tile.across * self.tile.warp_rows

    @property
    def column(self) -> Expr:
        """The first column of its warp."""
        return self.thread // WARP % self.tile.across * self.tile.warp_columns


class Engine(Protocol):
    """What multiplies."""

    @property
    def dtype(self) -> str:
        """Of words in shared memory."""
        ...

    @property
    def run(self) -> int:
        """How many of a thread's sums are neighbours in a row."""
        ...

    def step(
        self, shared: Any, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel], sums: Any
    ) -> Stmt:
        """Add the products of two panels to the sums.

        Args:
            shared: words.
            bases: where the panels start in it.
            panels: what they are.
            sums: of a thread.
        """
        ...

    def each_run(self, body: EachRun) -> Stmt:
        """A statement for each run of sums of a thread."""
        ...


@dataclass(frozen=True)
class Threads:
    """Each thread multiplies by itself: 4 x 8 of them, runs of neighbours far apart.

    Neighbours read neighbours: eight threads read 128 bytes of the right panel, the four with the
    same column share them.

    Source: CUTLASS, efficient GEMM in CUDA, warp-level tiles.
    """

    scope: GpuScope
    team: Team
    dtype: str = "float32"
    run: int = 4

    @property
    def _rows(self) -> tuple[int, int]:
        """Runs of rows of a thread, and rows in each."""
        mine = self.team.tile.warp_rows // 4
        each = min(mine, 4)
        return mine // each, each

    @property
    def _columns(self) -> int:
        """Runs of columns of a thread, of four each."""
        return self.team.tile.warp_columns // 32

    def _row(self, group: Expr) -> Expr:
        _, each = self._rows
        return self.team.row + group * (4 * each) + self.team.lane // 8 * each

    def _column(self, group: Expr) -> Expr:
        return self.team.column + group * 32 + self.team.lane % 8 * 4

    def step(
        self, shared: Any, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel], sums: Any
    ) -> Stmt:
        """See `Engine.step`."""
        scope = self.scope
        groups, each = self._rows
        rows, columns = groups * each, self._columns * 4
        left, right = scope.local(rows, "float32", "left"), scope.local(columns, "float32", "right")

        def term(k: Expr) -> Stmt:
            def take(
                into: Any, which: int, start: Callable[[Expr], Expr], many: int, run: int
            ) -> Stmt:
                def one(g: Expr, e: Expr) -> Stmt:
                    at = bases[which] + panels[which].address(start(g) + e, k)
                    return tirx.BufferStore(into, tirx.BufferLoad(shared, [at]), [g * run + e])

                return scope.loop(
                    many, lambda g: scope.loop(run, lambda e: one(g, e), VECTORIZED), UNROLLED
                )

            def multiply(r: Expr, c: Expr) -> Stmt:
                at = [r * columns + c]
                factor = tirx.BufferLoad(left, [r]) * tirx.BufferLoad(right, [c])
                return tirx.BufferStore(sums, tirx.BufferLoad(sums, at) + factor, at)

            return seq(
                take(left, 0, self._row, groups, each),
                take(right, 1, self._column, self._columns, 4),
                scope.nest((rows, columns), multiply, UNROLLED),
            )

        depth = panels[0].deep
        unrolled = min(depth, UNROLLED_TERMS)
        made = scope.loop(
            depth // unrolled,
            lambda o: scope.loop(unrolled, lambda k: term(o * unrolled + k), UNROLLED),
        )
        return seq(tirx.AllocBuffer(left), tirx.AllocBuffer(right), made)

    def each_run(self, body: EachRun) -> Stmt:
        """See `Engine.each_run`."""
        groups, each = self._rows

        def one(g: Expr, e: Expr, c: Expr) -> Stmt:
            start = ((g * each + e) * self._columns + c) * 4
            return body(self._row(g) + e, self._column(c), start)

        return self.scope.nest((groups, each, self._columns), one, UNROLLED)


@dataclass(frozen=True)
class TensorCores:
    """The warp multiplies together, 16 x 8 results and 8 words of the sums at a time.

    Factors that were only copied are rounded when they are read (`rounds`, of each panel).
    """

    scope: GpuScope
    team: Team
    precision: str
    rounds: tuple[bool, bool] = (False, False)
    run: int = 2

    @property
    def dtype(self) -> str:
        """See `Engine`."""
        return "uint32" if self.precision == "fp16" else "float32"

    @property
    def _parts(self) -> tuple[int, int]:
        """How often a multiply-add fits into the warp's results, down and across."""
        return self.team.tile.warp_rows // 16, self.team.tile.warp_columns // 8

    def step(
        self, shared: Any, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel], sums: Any
    ) -> Stmt:
        """See `Engine.step`."""
        scope = self.scope
        down, across = self._parts
        left = scope.local(down * 4, self.dtype, "left")
        right = scope.local(4, self.dtype, "right")

        def words(w: Expr) -> Stmt:
            def rows(i: Expr) -> Stmt:
                return self._four(0, shared, bases, panels, self.team.row + i * 16, w * 8, left, i)

            def columns(n: Expr) -> Stmt:
                first = self.team.column + n * 16

                def multiply(half: Expr, i: Expr) -> Stmt:
                    total = (i * across + n * 2 + half) * 4
                    return multiply_add(
                        self.precision, (sums, total), (left, i * 4), (right, half * 2)
                    )

                return seq(
                    self._four(1, shared, bases, panels, first, w * 8, right, i32(0)),
                    scope.nest((2, down), multiply, UNROLLED),
                )

            return seq(scope.loop(down, rows, UNROLLED), scope.loop(across // 2, columns, UNROLLED))

        return seq(
            *map(tirx.AllocBuffer, (left, right)),
            scope.loop(panels[0].deep // 8, words, UNROLLED),
        )

    def _four(
        self,
        which: int,
        shared: Any,
        bases: tuple[Expr, Expr],
        panels: tuple[Panel, Panel],
        outer: Expr,
        first: Expr,
        into: Any,
        number: Expr,
    ) -> Stmt:
        """A lane's part of 16 rows, or columns, and 8 words of the sums: four words.

        Of the left factor the second word is that of another row, the third and the fourth lie
        further along the sums, as a multiply-add has it; of the right factor the second word lies
        further along the sums, the third and the fourth are those of another column.
        """
        scope, lane = self.scope, self.team.lane
        base, panel = bases[which], panels[which]

        def shift(j: Expr) -> tuple[Expr, Expr]:
            """Rows, or columns, and words from the first 8 x 4 to the j-th."""
            return (j % 2 * 8, j // 2 * 4) if which == 0 else (j // 2 * 8, j % 2 * 4)

        if panel.contiguous == "depth":
            down, along = shift(lane // 8)
            row = base + panel.address(outer + down + lane % 8, first + along)
            made = load_matrices((into, number * 4), (shared, row))
        else:

            def one(j: Expr) -> Stmt:
                down, along = shift(j)
                at = base + panel.address(outer + down + lane // 4, first + along + lane % 4)
                return tirx.BufferStore(into, tirx.BufferLoad(shared, [at]), [number * 4 + j])

            made = scope.loop(4, one, UNROLLED)
        if not self.rounds[which]:
            return made

        def round_one(j: Expr) -> Stmt:
            at = [number * 4 + j]
            return tirx.BufferStore(into, rounded(tirx.BufferLoad(into, at)), at)

        return seq(made, scope.loop(4, round_one, UNROLLED))

    def each_run(self, body: EachRun) -> Stmt:
        """See `Engine.each_run`."""
        down, across = self._parts
        lane = self.team.lane

        def one(i: Expr, n: Expr, h: Expr) -> Stmt:
            row = self.team.row + i * 16 + h * 8 + lane // 4
            column = self.team.column + n * 8 + lane % 4 * 2
            return body(row, column, (i * across + n) * 4 + h * 2)

        return self.scope.nest((down, across, 2), one, UNROLLED)
