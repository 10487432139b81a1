"""Matrix products whose blocks keep a part of both factors in shared memory."""

from __future__ import annotations

from math import prod
from typing import Any

from alt.elementary import Expr
from alt.sketches.gpu.copies import await_groups, close_group
from alt.sketches.gpu.engines import Engine, Team, TensorCores, Threads
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.panel import Panel, Part, lanes_of
from alt.sketches.gpu.product import LANES, Along, Operand, Product
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.swath import decide_blocks
from alt.sketches.gpu.tensor_cores import CAPABILITY
from alt.sketches.gpu.tiling import (
    MEETING_SUMS,
    Precision,
    Problem,
    Tile,
    cycles_of,
    decide_tile,
)
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from primitives.tensorir import tirx


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
        _panel(product.left, tile.rows, tile, precision, padded),
        _panel(product.right, tile.columns, tile, precision, padded),
    )
    scope.notes["tile"] = [tile.rows, tile.columns, tile.depth]
    scope.notes["warp"] = [tile.warp_rows, tile.warp_columns]
    scope.notes["precision"] = precision

    def work(block: Expr, thread: Expr) -> Stmt:
        def at(*indices: Expr) -> Stmt:
            *batch, swath, right, left = indices
            top = swath * blocks.swath + left
            return _Block(scope, product, tile, panels, precision, thread).computed(
                batch, top * tile.rows, right * tile.columns
            )

        return with_indices(scope, block, blocks.extents, at)

    return scope.launch((blocks.count,), (tile.threads,), work)


def _in_place(scope: GpuScope, product: Product, precision: Precision) -> bool:
    """Whether both factors are kept as they lie in memory, so that copies can run ahead."""
    operands = product.left, product.right
    if scope.gpu.capability < CAPABILITY or any(o.lanes < LANES for o in operands):
        return False
    return precision == "tf32" or (
        precision == "fp32" and all(o.along == "outer" for o in operands)
    )


def _panel(operand: Operand, outer: int, tile: Tile, precision: Precision, padded: bool) -> Panel:
    """How an operand's part is kept in shared memory.

    Threads that each multiply by themselves read runs of rows and columns. For tensor cores, words
    stay in the order of memory: eight rows of four threads, or four of eight, read at a time, each
    another bank.
    """
    lanes = lanes_of(operand, outer, tile.depth)
    words = tile.depth // 2 if precision == "fp16" else tile.depth
    contiguous: Along = "outer"
    if precision == "fp32":
        pad = 4 if operand.along == "depth" else 0
    elif operand.along == "depth":
        contiguous, pad = "depth", (8 - words) % 16
    else:
        pad = (4 - outer) % 16
    pad = pad if padded else 0
    return Panel(operand, outer, tile.depth, tile.team, precision, contiguous, pad, lanes)


class _Block:
    """One block of threads, seen by one of them.

    Args:
        scope: the kernel.
        product: what to compute.
        tile: the block's part of it.
        panels: of the left and the right factor.
        precision: what is multiplied.
        thread: its number in the block.
    """

    def __init__(
        self,
        scope: GpuScope,
        product: Product,
        tile: Tile,
        panels: tuple[Panel, Panel],
        precision: Precision,
        thread: Expr,
    ) -> None:
        self.scope = scope
        self.product = product
        self.tile = tile
        self.panels = panels
        self.slice = thread // tile.team if tile.slices > 1 else i32(0)
        self.thread = thread % tile.team if tile.slices > 1 else thread
        team = Team(self.thread, tile)
        fp32 = precision == "fp32"
        self.engine: Engine = (
            Threads(scope, team)
            if fp32
            else TensorCores(scope, team, precision, rounds=tile.copies)
        )
        self.words = sum(panel.words for panel in panels)
        """Of one stage."""
        self.shared = self._memory()
        self.sums = scope.local(tile.sums, "float32", "sums")
        self.staged = [scope.local(max(p.staged, 1), "float32", "staged") for p in panels]

    def _memory(self) -> Any:
        words = self.words * self.tile.stages * self.tile.slices
        meeting = (self.tile.slices - 1) * self.tile.team * MEETING_SUMS
        if (words + meeting) * 4 <= self.scope.gpu.shared_bytes:
            return self.scope.shared(words, self.engine.dtype)
        return tirx.decl_buffer((words,), self.engine.dtype, "shared", scope="shared.dyn")

    def computed(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        """The results from a row and a column on."""
        scope, tile = self.scope, self.tile
        zero = tirx.const(0, "float32")
        return seq(
            *map(tirx.AllocBuffer, (self.shared, self.sums, *self.staged)),
            scope.loop(tile.sums, lambda i: self._put_sum(i, zero), UNROLLED),
            self._multiplied(batch, row, column),
            self._met() if tile.slices > 1 else None,
            self._written(batch, row, column),
        )

    def _multiplied(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        """All terms of this thread's slice, step by step."""
        scope, tile, product = self.scope, self.tile, self.product
        terms = tile.depth * tile.slices
        steps = -(-product.depth // terms)
        deep_tail = steps * terms != product.depth

        def bases(stage: Expr) -> tuple[Expr, Expr]:
            first = (self.slice * tile.stages + stage) * self.words
            return first, first + self.panels[0].words

        def parts(step: Expr) -> tuple[Part, Part]:
            term = (step * tile.slices + self.slice) * tile.depth

            def part(first: Expr, extent: int, size: int) -> Part:
                tails = extent % size != 0, deep_tail
                return Part(batch, first, term, (extent, product.depth), tails)

            return (
                part(row, product.rows, tile.rows),
                part(column, product.columns, tile.columns),
            )

        def fetch(step: Expr) -> Stmt:
            each = zip(self.panels, self.staged, parts(step), strict=True)
            return seq(*(p.fetch(scope, staged, self.thread, part) for p, staged, part in each))

        def put(stage: Expr) -> Stmt:
            each = zip(self.panels, self.staged, bases(stage), strict=True)
            return seq(*(p.put(scope, s, self.shared, at, self.thread) for p, s, at in each))

        def copies(step: Expr) -> Stmt:
            each = zip(self.panels, bases(step % tile.stages), parts(step), strict=True)
            return seq(*(p.copy(scope, self.shared, at, self.thread, s) for p, at, s in each))

        def multiply(stage: Expr) -> Stmt:
            return self.engine.step(self.shared, bases(stage), self.panels, self.sums)

        def alone(step: Expr) -> Stmt:
            zero = i32(0)
            return seq(fetch(step), scope.sync(), put(zero), scope.sync(), multiply(zero))

        def with_next(step: Expr) -> Stmt:
            more = step + 1 < steps
            return seq(
                scope.when(more, fetch(step + 1)),
                multiply(step % 2),
                scope.when(more, put((step + 1) % 2)),
                scope.sync(),
            )

        ahead = tile.stages - 1

        def with_copies(step: Expr) -> Stmt:
            # Groups are closed even where they are empty, so that counting them tells which.
            return seq(
                await_groups(ahead - 1),
                scope.sync(),
                scope.when(step + ahead < steps, copies(step + ahead)),
                close_group(),
                multiply(step % tile.stages),
            )

        if tile.stages == 1:
            return scope.loop(steps, alone, name="step")
        if not tile.copies:
            start = seq(fetch(i32(0)), put(i32(0)), scope.sync())
            return seq(start, scope.loop(steps, with_next, name="step"))
        start = (seq(copies(i32(s)) if s < steps else None, close_group()) for s in range(ahead))
        return seq(*start, scope.loop(steps, with_copies, name="step"))

    def _sum(self, i: Expr) -> Expr:
        return tirx.BufferLoad(self.sums, [i])

    def _put_sum(self, i: Expr, value: Expr) -> Stmt:
        return tirx.BufferStore(self.sums, value, [i])

    def _met(self) -> Stmt:
        """The first slice gets the sums of all, always in the same order."""
        scope, tile = self.scope, self.tile
        count = min(MEETING_SUMS, tile.sums)
        meeting = scope.shared((tile.slices - 1) * count * tile.team, "float32", "meeting")

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

        return seq(tirx.AllocBuffer(meeting), scope.loop(tile.sums // count, some, UNROLLED))

    def _written(self, batch: list[Expr], row: Expr, column: Expr) -> Stmt:
        scope, product, results = self.scope, self.product, self.product.results
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
                    return guarded(product.columns, self.tile.columns, first, written)

                return scope.loop(self.engine.run // count, some, UNROLLED)

            at = row + inner_row
            body = scope.bound(product.rows, at, "row", in_row)
            return guarded(product.rows, self.tile.rows, at, body)

        made = self.engine.each_run(run)
        if self.tile.slices == 1:
            return made
        return tirx.IfThenElse(self.slice.equal(i32(0)), made, None)
