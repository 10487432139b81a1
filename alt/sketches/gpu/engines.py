"""How a warp multiplies what is in shared memory: thread by thread, or all on tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alt.elementary import Expr
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tensor_cores import multiply_add, rounded
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

    Which terms are summed in which order is free, if both panels agree: thread t of a group takes
    the words 2t and 2t + 1, which one read gets where they are neighbours.
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
        scope, lane = self.scope, self.team.lane
        down, across = self._parts
        group, thread = lane // 4, lane % 4
        left = scope.local(down * 4, self.dtype, "left")
        right = scope.local(2, self.dtype, "right")
        pair = scope.local(2, self.dtype, "pair")

        def two(which: int, outer: Expr, first: Expr, into: Any, places: Sequence[Expr]) -> Stmt:
            """Words 2t and 2t + 1 of a row or column."""

            def word(j: Expr) -> Expr:
                at = bases[which] + panels[which].address(outer, first + thread * 2 + j)
                return tirx.BufferLoad(shared, [at])

            def put(j: int, value: Expr) -> Stmt:
                made = rounded(value) if self.rounds[which] else value
                return tirx.BufferStore(into, made, [places[j]])

            if panels[which].contiguous == "outer":
                return seq(*(put(j, word(i32(j))) for j in range(2)))
            read = scope.loop(2, lambda j: tirx.BufferStore(pair, word(j), [j]), VECTORIZED)
            return seq(read, *(put(j, tirx.BufferLoad(pair, [i32(j)])) for j in range(2)))

        def words(w: Expr) -> Stmt:
            def rows(i: Expr, h: Expr) -> Stmt:
                outer = self.team.row + i * 16 + h * 8 + group
                at = i * 4 + h
                return two(0, outer, w * 8, left, (at, at + 2))

            def columns(n: Expr) -> Stmt:
                outer = self.team.column + n * 8 + group

                def multiply(i: Expr) -> Stmt:
                    total = (i * across + n) * 4
                    return multiply_add(
                        self.precision, (sums, total), (left, i * 4), (right, i32(0))
                    )

                return seq(
                    two(1, outer, w * 8, right, (i32(0), i32(1))),
                    scope.loop(down, multiply, UNROLLED),
                )

            return seq(scope.nest((down, 2), rows, UNROLLED), scope.loop(across, columns, UNROLLED))

        return seq(
            *map(tirx.AllocBuffer, (left, right, pair)),
            scope.loop(panels[0].deep // 8, words, UNROLLED),
        )

    def each_run(self, body: EachRun) -> Stmt:
        """See `Engine.each_run`."""
        down, across = self._parts
        lane = self.team.lane

        def one(i: Expr, n: Expr, h: Expr) -> Stmt:
            row = self.team.row + i * 16 + h * 8 + lane // 4
            column = self.team.column + n * 8 + lane % 4 * 2
            return body(row, column, (i * across + n) * 4 + h * 2)

        return self.scope.nest((down, across, 2), one, UNROLLED)
