"""Products with few rows: all weights are read once, as fast as memory gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from alt.elementary import Expr
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.product import Product
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.split import Split, decide_split
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from primitives.tensorir import tirx

MOST_ROWS = 8
"""More rows share more weights than registers hold sums for."""


def thin_product(scope: GpuScope, product: Product) -> Stmt:
    """A few columns for each block; its threads sum some of the terms each, then add up.

    Args:
        scope: the kernel.
        product: what to compute, of float32, of at most `MOST_ROWS` rows.
    """
    split = decide_split(scope.choose, product, scope.gpu)
    scope.notes["split"] = [split.columns, split.slices]
    scope.notes["precision"] = "fp32"
    tiles = -(-product.columns // split.columns)
    grid = (*product.batch, tiles)

    def work(block: Expr, thread: Expr) -> Stmt:
        def at(*indices: Expr) -> Stmt:
            *batch, tile = indices
            return _Block(scope, product, split, thread, batch, tile).computed()

        return with_indices(scope, block, grid, at)

    return scope.launch((prod(grid),), (split.threads,), work)


class _Block:
    """One block of threads, seen by one of them.

    Args:
        scope: the kernel.
        product: what to compute.
        split: how the block works.
        thread: its number.
        batch: indices of the block.
        tile: which columns it has.
    """

    def __init__(
        self,
        scope: GpuScope,
        product: Product,
        split: Split,
        thread: Expr,
        batch: Sequence[Expr],
        tile: Expr,
    ) -> None:
        self.scope = scope
        self.product = product
        self.split = split
        self.thread = thread
        self.batch = batch
        self.first = tile * split.columns
        self.sums = scope.local(product.rows * split.wide, "float32", "sums")

    def computed(self) -> Stmt:
        """The results of the block."""
        zero = tirx.const(0, "float32")
        many = self.product.rows * self.split.wide
        return seq(
            tirx.AllocBuffer(self.sums),
            self.scope.loop(many, lambda i: tirx.BufferStore(self.sums, zero, [i]), UNROLLED),
            self._summed(),
            self._met(),
        )

    def _summed(self) -> Stmt:
        """This thread's terms."""
        scope, product, split = self.scope, self.product, self.split
        rows, wide, deep = product.rows, split.wide, split.deep
        column = self.first + self.thread % split.across * wide
        left = scope.local(rows * deep, "float32", "left")
        right = scope.local(wide * deep, "float32", "right")
        each = split.slices * deep
        steps = -(-product.depth // each)

        def lefts(k: Expr) -> Stmt:
            def line(r: int) -> Stmt:
                def one(lane: Expr) -> Stmt:
                    value = product.left.element(self.batch, i32(r), k + lane)
                    return tirx.BufferStore(left, value, [r * deep + lane])

                whole = product.left.along == "depth" and product.left.lanes >= deep
                return scope.loop(deep, one, VECTORIZED if whole else UNROLLED)

            return seq(*map(line, range(rows)))

        def rights(k: Expr) -> Stmt:
            """Those behind the last column are 0."""
            in_rows = product.right.along == "outer"
            runs, count = (1, wide) if in_rows else (wide, deep)

            def run(number: int) -> Stmt:
                at = column + number

                def read(lane: Expr) -> Stmt:
                    where = (at + lane, k) if in_rows else (at, k + lane)
                    value = product.right.element(self.batch, *where)
                    return tirx.BufferStore(right, value, [number * count + lane])

                def clear(lane: Expr) -> Stmt:
                    zero = tirx.const(0, "float32")
                    return tirx.BufferStore(right, zero, [number * count + lane])

                found = scope.loop(count, read, VECTORIZED)
                if product.columns % split.columns == 0:
                    return found
                otherwise = scope.loop(count, clear, VECTORIZED)
                return tirx.IfThenElse(at < product.columns, found, otherwise)

            return seq(*map(run, range(runs)))

        def add(r: Expr, c: Expr, term: Expr) -> Stmt:
            at = [r * wide + c]
            factor = tirx.BufferLoad(left, [r * deep + term])
            factor = factor * tirx.BufferLoad(right, [c * deep + term])
            return tirx.BufferStore(self.sums, tirx.BufferLoad(self.sums, at) + factor, at)

        def step(i: Expr) -> Stmt:
            k = (i * split.slices + self.thread // split.across) * deep
            made = seq(
                lefts(k),
                rights(k),
                scope.nest((rows, wide, deep), add, UNROLLED),
            )
            if steps * each == product.depth:
                return made
            return tirx.IfThenElse(k < product.depth, made, None)

        unroll = split.unroll
        while steps % unroll:
            unroll //= 2
        return seq(
            tirx.AllocBuffer(left),
            tirx.AllocBuffer(right),
            scope.steps(steps, unroll, step, "step"),
        )

    def _met(self) -> Stmt:
        """The threads' sums become results: first in each warp, then in the block."""
        scope, split, rows = self.scope, self.split, self.product.rows
        warp, wide = scope.gpu.warp, split.wide
        warps = split.threads // warp
        results = rows * split.columns
        parts = [self._added(distance) for distance in _distances(split.across, warp)]
        meeting = scope.shared(split.meeting(rows, warp), "float32", "meeting")
        lane, number = self.thread % warp, self.thread // warp

        def tell(r: Expr, c: Expr) -> Stmt:
            at = number * results + r * split.columns + lane % split.across * wide + c
            value = tirx.BufferLoad(self.sums, [r * wide + c])
            return tirx.BufferStore(meeting, value, [at])

        def finish(_: Expr, at: Expr) -> Stmt:
            def add(w: Expr) -> Stmt:
                other = tirx.BufferLoad(meeting, [w * results + at])
                mine = tirx.BufferLoad(self.sums, [i32(0)])
                return tirx.BufferStore(self.sums, mine + other, [i32(0)])

            zero = tirx.BufferStore(self.sums, tirx.const(0, "float32"), [i32(0)])
            column = self.first + at % split.columns

            def written(row: Expr) -> Stmt:
                return self.product.results.write(
                    self.batch, row, column, 1, lambda _: tirx.BufferLoad(self.sums, [i32(0)])
                )

            made = scope.bound(rows, at // split.columns, "row", written)
            made = seq(zero, scope.loop(warps, add, UNROLLED), made)
            if self.product.columns % split.columns == 0:
                return made
            return tirx.IfThenElse(column < self.product.columns, made, None)

        telling = scope.nest((rows, wide), tell, UNROLLED)
        return seq(
            *parts,
            tirx.AllocBuffer(meeting),
            tirx.IfThenElse(lane < split.across, telling, None) if parts else telling,
            scope.sync(),
            self._share(results, finish),
        )

    def _added(self, distance: int) -> Stmt:
        """Sums with those of another lane."""
        scope = self.scope

        def one(i: Expr) -> Stmt:
            mine = tirx.BufferLoad(self.sums, [i])
            other = scope.other_lane(mine, distance, scope.gpu.warp)
            return tirx.BufferStore(self.sums, mine + other, [i])

        return scope.loop(self.product.rows * self.split.wide, one, UNROLLED)

    def _share(self, extent: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """This thread's part of some elements: (which of its own, which of all)."""
        threads = self.split.threads

        def one(i: Expr) -> Stmt:
            at = i * threads + self.thread
            made = self.scope.bound(extent, at, "at", lambda position: body(i, position))
            return made if extent % threads == 0 else tirx.IfThenElse(at < extent, made, None)

        return self.scope.loop(-(-extent // threads), one)


def _distances(across: int, warp: int) -> list[int]:
    """Between lanes that have terms of the same sums, in powers of two."""
    found: list[int] = []
    distance = warp // 2
    while distance >= across:
        found.append(distance)
        distance //= 2
    return found
