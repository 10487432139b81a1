"""Rows that a team of threads works on together: a warp each, or a whole block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from alt.elementary import Emitter, Expr
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.row import COMBINE, start_of
from alt.sketches.scope import SERIAL, UNROLLED, Scope, Stmt, i32, seq
from primitives.tensorir import tirx

EACH = 8
"""Elements of a row that a thread should have, where there are threads for that."""

UNROLLED_ELEMENTS = 32
"""Up to so many are kept in registers, which need loops without indices."""

BLOCK_WARPS = 4
"""How many rows a block works on where each has one warp."""


def team_of(length: int, most: int, warp: int = 32) -> int:
    """How many threads share a row: a power of two, at least a warp.

    >>> team_of(5, 1024), team_of(1000, 1024), team_of(10**6, 1024)
    (32, 128, 1024)
    """
    threads = warp
    while threads < most and threads * EACH < length:
        threads *= 2
    return threads


class Teams:
    """How rows are shared out on a GPU; see `alt.sketches.rows.Rows`.

    Args:
        scope: the kernel.
        length: of the rows.
    """

    def __init__(self, scope: GpuScope, length: int) -> None:
        self.scope = scope
        self.threads = team_of(length, scope.gpu.block_threads, scope.gpu.warp)
        self.thread: Expr = i32(0)
        """Which of its team a thread is; known inside `spread`."""

    def row(self, scope: Scope, length: int, dtype: str) -> TeamRow:
        """A row in the registers of the team."""
        return TeamRow(self, length, dtype)

    def spread(
        self, scope: Scope, extents: Sequence[int], work: int, body: Callable[..., Stmt]
    ) -> Stmt:
        """A team for each row; neighbours in one block if they are single warps."""
        count = prod(extents)
        if not count:
            return seq()
        several = self.threads == self.scope.gpu.warp and count > 1
        each = BLOCK_WARPS if several else 1

        def at_row(number: Expr) -> Stmt:
            return with_indices(self.scope, number, extents, body)

        def rows(block: Expr, thread: Expr, warp: Expr = 0) -> Stmt:
            self.thread = thread
            number = block * each + warp
            made = self.scope.bound(count, number, "row", at_row)
            # Warps do not wait for each other: one without a row may leave.
            return made if count % each == 0 else tirx.IfThenElse(number < count, made, None)

        blocks = -(-count // each)
        block = (self.threads, each) if each > 1 else (self.threads,)
        return self.scope.launch((blocks,), block, rows)

    def combine(self, kind: str, total: Any) -> tuple[Stmt, list[Any]]:
        """What all threads of a team have in `total[0]` becomes one value, which all of them get.

        Returns:
            The statement, and arrays that it needs; those of one call must not serve another.
        """
        return combine_threads(self.scope, kind, total, self.thread, self.threads)


def combine_threads(
    scope: GpuScope, kind: str, total: Any, thread: Expr, threads: int
) -> tuple[Stmt, list[Any]]:
    """As `Teams.combine`, for the first `threads` threads along x of a block."""
    merge, warp = COMBINE[kind], scope.gpu.warp
    here = [i32(0)]

    def mine() -> Expr:
        return tirx.BufferLoad(total, here)

    parts: list[Stmt] = []
    distance = min(threads, warp) // 2
    while distance:
        other = scope.other_lane(mine(), distance, warp)
        parts.append(tirx.BufferStore(total, merge(mine(), other), here))
        distance //= 2
    if threads <= warp:
        return seq(*parts), []
    warps = threads // warp
    dtype = str(total.dtype)
    meeting = scope.shared(warps, dtype, "warps")
    first = tirx.BufferStore(meeting, mine(), [thread // warp])
    parts.append(tirx.IfThenElse((thread % warp).equal(i32(0)), first, None))
    parts.append(scope.sync())
    parts.append(tirx.BufferStore(total, start_of(kind, dtype), here))

    def add(w: Expr) -> Stmt:
        return tirx.BufferStore(total, merge(mine(), tirx.BufferLoad(meeting, [w])), here)

    parts.append(scope.loop(warps, add, UNROLLED))
    return seq(*parts), [meeting]


class TeamRow:
    """Passes over one row, every thread of the team with its share in registers.

    Thread t has the elements t, t + threads, ...: neighbours read neighbours. The methods are those
    of `alt.sketches.row.Row`.
    """

    def __init__(self, team: Teams, length: int, dtype: str) -> None:
        self.scope = team.scope
        self.team = team
        self.length = length
        self.dtype = dtype
        self.each_thread = -(-length // team.threads)
        self.values = self.scope.local(max(self.each_thread, 1), dtype, "row")
        self.total = self.scope.local(1, dtype, "total")
        self._arrays: list[Any] = [self.total]
        self._slots: dict[Any, Expr] = {}

    def load(self, position: Expr) -> Expr:
        """An element, at a position that `each` or `reduce` gave."""
        return tirx.BufferLoad(self.values, [self._slots[position]])

    def store(self, position: Expr, value: Expr) -> Stmt:
        """Replace an element; as `load`."""
        if self.values not in self._arrays:  # a row that is only reduced is kept nowhere
            self._arrays.append(self.values)
        return tirx.BufferStore(self.values, value, [self._slots[position]])

    def each(self, body: Callable[[Expr], Stmt]) -> Stmt:
        """A statement for every position, by the thread that has it."""
        threads, thread = self.team.threads, self.team.thread

        def slot(k: Expr) -> Stmt:
            number = k * threads + thread

            def at(position: Expr) -> Stmt:
                self._slots[position] = k
                return body(position)

            made = self.scope.bound(self.length, number, "position", at)
            if self.length % threads == 0:
                return made
            return tirx.IfThenElse(number < self.length, made, None)

        kind = UNROLLED if self.each_thread <= UNROLLED_ELEMENTS else SERIAL
        return self.scope.loop(self.each_thread, slot, kind)

    def reduce(self, kind: str, element: Callable[[Expr, Emitter], Expr]) -> Stmt:
        """Combine elements of all threads into `total`."""
        here = [i32(0)]

        def add(position: Expr) -> Stmt:
            emit = Emitter()
            value = element(position, emit)
            merged = COMBINE[kind](tirx.BufferLoad(self.total, here), value)
            return seq(*emit.statements, tirx.BufferStore(self.total, merged, here))

        combined, arrays = self.team.combine(kind, self.total)
        self._arrays += arrays
        start = tirx.BufferStore(self.total, start_of(kind, self.dtype), here)
        return seq(start, self.each(add), combined)

    def result(self) -> Expr:
        """What the last `reduce` came to."""
        return tirx.BufferLoad(self.total, [i32(0)])

    def allocate(self, *body: Stmt | None) -> Stmt:
        """Statements with the arrays of this row."""
        return seq(*map(tirx.AllocBuffer, self._arrays), *body)
