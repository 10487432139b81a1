"""What one block of threads does for a product: stage by stage, then sums among its slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alt.elementary import Expr
from alt.sketches.gpu.copies import await_groups, close_group
from alt.sketches.gpu.engines import Engine, Team, TensorCores, Threads
from alt.sketches.gpu.panel import Panel, Part
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tiling import MEETING_SUMS, Precision, Tile
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from primitives.tensorir import tirx


class Writer(Protocol):
    """Where sums go; see `alt.sketches.gpu.product.Results`."""

    @property
    def lanes(self) -> int:
        """How many neighbours in a row can be written at once."""
        ...

    def write(
        self,
        batch: Sequence[Expr],
        row: Expr,
        column: Expr,
        count: int,
        total: Callable[[Expr], Expr],
    ) -> Stmt:
        """The epilogue for `count` neighbours in a row, all of which exist."""
        ...


@dataclass(frozen=True)
class Sought:
    """What blocks compute together.

    Attributes:
        rows: of the results.
        columns: of the results.
        depth: terms of a sum.
        results: where the sums go.
    """

    rows: int
    columns: int
    depth: int
    results: Writer


@dataclass(frozen=True)
class Memory:
    """What the threads of a block have in common.

    Attributes:
        staged: words of both factors, of every stage and slice.
        meeting: sums that slices tell each other; None for one slice.
    """

    staged: Any
    meeting: Any

    @property
    def allocated(self) -> Stmt:
        """The statement that makes it."""
        return seq(*(tirx.AllocBuffer(b) for b in (self.staged, self.meeting) if b is not None))


def memory_of(
    scope: GpuScope, tile: Tile, panels: tuple[Panel, Panel], precision: Precision
) -> Memory:
    """The shared memory of a block."""
    words = sum(panel.words for panel in panels) * tile.stages * tile.slices
    met = (tile.slices - 1) * tile.team * min(MEETING_SUMS, tile.sums)
    where = "shared"
    if (words + met) * 4 > scope.gpu.shared_bytes:
        where = "shared.dyn"
        # TVM asks the driver for more only where dynamic memory alone is more than a block has.
        words = max(words, scope.gpu.shared_bytes // 4)
    dtype = "uint32" if precision == "fp16" else "float32"
    staged = tirx.decl_buffer((words,), dtype, "shared", scope=where)
    return Memory(staged, scope.shared(met, "float32", "meeting") if met else None)


class Block:
    """One block of threads, seen by one of them.

    Args:
        scope: the kernel.
        sought: what to compute.
        tile: the block's part of it.
        panels: of the left and the right factor.
        precision: what is multiplied.
        thread: its number in the block.
        memory: what it shares with the others; to be allocated around.
        rounded: whether the words of each panel have been rounded before they get to shared memory.
    """

    def __init__(
        self,
        scope: GpuScope,
        sought: Sought,
        tile: Tile,
        panels: tuple[Panel, Panel],
        precision: Precision,
        thread: Expr,
        memory: Memory,
        rounded: tuple[bool, bool],
    ) -> None:
        self.scope = scope
        self.sought = sought
        self.tile = tile
        self.panels = panels
        self.memory = memory
        self.slice = thread // tile.team if tile.slices > 1 else i32(0)
        self.thread = thread % tile.team if tile.slices > 1 else thread
        team = Team(self.thread, tile)
        left, right = (precision == "tf32" and not r for r in rounded)
        self.engine: Engine = (
            Threads(scope, team)
            if precision == "fp32"
            else TensorCores(scope, team, precision, (left, right))
        )
        self.words = sum(panel.words for panel in panels)
        """Of one stage."""
        needed = self.words * tile.stages * tile.slices
        assert needed <= int(memory.staged.shape[0]), "more words than there is memory for"
        self.sums = scope.local(tile.sums, "float32", "sums")
        self.staged = [scope.local(max(p.staged, 1), "float32", "staged") for p in panels]

    def computed(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        """The results from a row and a column on."""
        scope, tile = self.scope, self.tile
        zero = tirx.const(0, "float32")
        return seq(
            *map(tirx.AllocBuffer, (self.sums, *self.staged)),
            scope.loop(tile.sums, lambda i: self._put_sum(i, zero), UNROLLED),
            self._multiplied(batch, row, column) if self.sought.depth else None,
            self._met() if tile.slices > 1 else None,
            self._written(batch, row, column),
        )

    def _multiplied(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        """All terms of this thread's slice, step by step."""
        scope, tile, sought = self.scope, self.tile, self.sought
        terms = tile.depth * tile.slices
        steps = -(-sought.depth // terms)
        deep_tail = steps * terms != sought.depth
        copied = [p for p in self.panels if p.copied]

        def bases(stage: Expr) -> tuple[Expr, Expr]:
            first = (self.slice * tile.stages + stage) * self.words
            return first, first + self.panels[0].words

        def parts(step: Expr) -> tuple[Part, Part]:
            term = (step * tile.slices + self.slice) * tile.depth

            def part(first: Expr, extent: int, size: int) -> Part:
                tails = extent % size != 0, deep_tail
                return Part(batch, first, term, (extent, sought.depth), tails)

            return (
                part(row, sought.rows, tile.rows),
                part(column, sought.columns, tile.columns),
            )

        def fetch(step: Expr) -> Stmt:
            each = zip(self.panels, self.staged, parts(step), strict=True)
            return seq(
                *(p.fetch(scope, s, self.thread, part) for p, s, part in each if not p.copied)
            )

        def put(stage: Expr) -> Stmt:
            each = zip(self.panels, self.staged, bases(stage), strict=True)
            shared = self.memory.staged
            return seq(
                *(p.put(scope, s, shared, at, self.thread) for p, s, at in each if not p.copied)
            )

        def copies(step: Expr, stage: Expr) -> Stmt | None:
            each = zip(self.panels, bases(stage), parts(step), strict=True)
            shared = self.memory.staged
            made = (p.copy(scope, shared, at, self.thread, s) for p, at, s in each if p.copied)
            return seq(*made) if copied else None

        def multiply(stage: Expr) -> Stmt:
            return self.engine.step(self.memory.staged, bases(stage), self.panels, self.sums)

        def arrived() -> Stmt:
            """Copies that this thread started, and then what all threads did, are there."""
            return seq(await_groups(0) if copied else None, scope.sync())

        def closed() -> Stmt | None:
            return close_group() if copied else None

        def alone(step: Expr) -> Stmt:
            zero = i32(0)
            begun = seq(fetch(step), scope.sync(), copies(step, zero), closed())
            return seq(begun, put(zero), arrived(), multiply(zero))

        def with_next(step: Expr) -> Stmt:
            more, other = step + 1 < steps, (step + 1) % 2
            return seq(
                scope.when(more, seq(fetch(step + 1), copies(step + 1, other))),
                closed(),
                multiply(step % 2),
                scope.when(more, put(other)),
                arrived(),
            )

        ahead = tile.stages - 1

        def with_copies(step: Expr) -> Stmt:
            # Groups are closed even where they are empty, so that counting them tells which.
            target = step + ahead
            return seq(
                await_groups(ahead - 1),
                scope.sync(),
                scope.when(target < steps, copies(target, target % tile.stages)),
                close_group(),
                multiply(step % tile.stages),
            )

        zero = i32(0)
        both = zip(self.panels, parts(zero), strict=True)
        begun = (p.before(self.thread, part) for p, part in both)
        if tile.stages == 1:
            return seq(*begun, scope.loop(steps, alone, name="step"))
        if not tile.copies:
            start = seq(fetch(zero), copies(zero, zero), closed(), put(zero), arrived())
            return seq(*begun, start, scope.loop(steps, with_next, name="step"))
        start = (
            seq(copies(i32(s), i32(s)) if s < steps else None, close_group()) for s in range(ahead)
        )
        return seq(*begun, *start, scope.loop(steps, with_copies, name="step"))

    def _sum(self, i: Expr) -> Expr:
        return tirx.BufferLoad(self.sums, [i])

    def _put_sum(self, i: Expr, value: Expr) -> Stmt:
        return tirx.BufferStore(self.sums, value, [i])

    def _met(self) -> Stmt:
        """The first slice gets the sums of all, always in the same order."""
        scope, tile = self.scope, self.tile
        count = min(MEETING_SUMS, tile.sums)
        meeting = self.memory.meeting

        def place(others: Expr, e: Expr) -> list[Expr]:
            return [(others * count + e) * tile.team + self.thread]

        def some(chunk: Expr) -> Stmt:
            def tell(e: Expr) -> Stmt:
                value = self._sum(chunk * count + e)
                return tirx.BufferStore(meeting, value, place(self.slice - 1, e))

            def add(s: Expr, e: Expr) -> Stmt:
                i = chunk * count + e
                return self._put_sum(i, self._sum(i) + tirx.BufferLoad(meeting, place(s, e)))

            return seq(
                tirx.IfThenElse(self.slice > 0, scope.loop(count, tell, UNROLLED), None),
                scope.sync(),
                tirx.IfThenElse(
                    self.slice.equal(i32(0)),
                    scope.nest((tile.slices - 1, count), add, UNROLLED),
                    None,
                ),
                scope.sync(),
            )

        return scope.loop(tile.sums // count, some, UNROLLED)

    def _written(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        scope, sought, results = self.scope, self.sought, self.sought.results
        count = min(self.engine.run, results.lanes)

        def guarded(extent: int, step: int, at: Expr, made: Stmt) -> Stmt:
            return made if extent % step == 0 else tirx.IfThenElse(at < extent, made, None)

        def run(inner_row: Expr, inner_column: Expr, start: Expr) -> Stmt:
            def in_row(r: Expr) -> Stmt:
                def some(part: Expr) -> Stmt:
                    first = column + inner_column + part * count
                    written = results.write(
                        batch, r, first, count, lambda k: self._sum(start + part * count + k)
                    )
                    return guarded(sought.columns, self.tile.columns, first, written)

                return scope.loop(self.engine.run // count, some, UNROLLED)

            at = row + inner_row
            body = scope.bound(sought.rows, at, "row", in_row)
            return guarded(sought.rows, self.tile.rows, at, body)

        made = self.engine.each_run(run)
        if self.tile.slices == 1:
            return made
        return tirx.IfThenElse(self.slice.equal(i32(0)), made, None)
