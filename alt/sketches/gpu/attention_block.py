"""What one block of threads does for attention: chunk after chunk of keys, then the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alt.elementary import Emitter, Expr, f32
from alt.sketches.gpu.attention_engines import Engine, Threads, load
from alt.sketches.gpu.attention_operands import Formula
from alt.sketches.gpu.attention_softmax import Softmax, reciprocal
from alt.sketches.gpu.attention_tensor_cores import TensorCores
from alt.sketches.gpu.attention_tile import Problem, Tile
from alt.sketches.gpu.copies import await_groups, close_group
from alt.sketches.gpu.panel import Panel, Part
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from primitives.expressions import dtype_of
from primitives.tensorir import ffi, tirx


class Block:
    """One block of threads, seen by one of them.

    Args:
        scope: the kernel.
        formula: what to compute.
        problem: its extents.
        tile: the block's part of it.
        panels: queries, keys and values.
        thread: its number in the block.
    """

    def __init__(
        self,
        scope: GpuScope,
        formula: Formula,
        problem: Problem,
        tile: Tile,
        panels: tuple[Panel, Panel, Panel],
        thread: Expr,
    ) -> None:
        self.scope, self.formula, self.problem, self.tile = scope, formula, problem, tile
        self.panels, self.thread = panels, thread
        *bases, words = tile.places(problem)
        self.bases = [i32(base) for base in bases]
        dynamic = words * 4 > scope.gpu.shared_bytes
        dtype = "uint32" if problem.precision == "fp16" else "float32"
        self.shared = scope.shared(words, dtype, dynamic=dynamic)
        scores = scope.local(tile.rows * tile.keys // scope.gpu.warp, name="scores")
        sums = scope.local(tile.rows * problem.columns // scope.gpu.warp, name="mixed")
        kind = Threads if problem.precision == "fp32" else TensorCores
        self.engine: Engine = kind(scope, tile, problem, thread, self.shared, scores, sums)
        self.softmax = Softmax(scope, self.engine)
        self.staged = [scope.local(max(p.staged, 1), name="staged") for p in panels]

    def computed(self, head: list[Expr], query: Expr, column: Expr) -> Stmt:
        """The results of a head from a query and a column on."""
        engine, tile, problem = self.engine, self.tile, self.problem
        arrays = self.shared, engine.scores, engine.mixed, *self.staged
        chunks = tile.chunks(problem)

        def part(which: int, outer: Expr, term: Expr) -> Part:
            extents = (
                (problem.queries, problem.depth),
                (problem.keys, problem.depth),
                (problem.width, problem.keys),
            )[which]
            panel = self.panels[which]
            tails = extents[0] % panel.outer != 0, extents[1] % panel.depth != 0
            return Part(head, outer, term, extents, tails)

        def products(chunk: Expr) -> Stmt:
            """Parts of queries and keys, one after the other."""

            def some(p: Expr) -> Stmt:
                term = p * problem.deep
                return seq(
                    self._begin(0, part(0, query, term)),
                    self._begin(1, part(1, chunk * tile.chunk, term)),
                    self._closed(),
                    self._await(0),
                    self._end(0),
                    self._end(1),
                    self.scope.sync(),
                    self._multiply_keys(),
                    self.scope.sync(),
                )

            return self.scope.loop(problem.deep_parts, some, name="part")

        def next_keys(chunk: Expr) -> Stmt:
            return seq(self._begin(1, part(1, chunk * tile.chunk, i32(0))), self._closed())

        whole = problem.deep_parts == 1

        def step(chunk: Expr) -> Stmt:
            keys = chunk * tile.chunk
            return seq(
                self._begin(2, part(2, column, keys)),
                self._closed(),
                self._zero(engine.scores),
                seq(self._await(1), self._end(1), self.scope.sync(), self._multiply_keys())
                if whole
                else products(chunk),
                self.softmax.powers(self._finish(head, query, keys), chunks == 1),
                self._await(0),
                self._end(2),
                self.scope.sync(),
                self.scope.when(chunk + 1 < chunks, next_keys(chunk + 1)) if whole else None,
                engine.multiply_values(self.bases[3], self.bases[2], self.panels[2]),
                self.scope.sync(),
            )

        zero = i32(0)
        first = seq(self._begin(0, part(0, query, zero)), self._end(0), next_keys(zero))
        return seq(
            *map(tirx.AllocBuffer, arrays),
            self._zero(engine.mixed),
            self.softmax.start(),
            first if whole and chunks else None,
            self.scope.loop(chunks, step, name="chunk") if chunks else None,
            self.softmax.ended(),
            self.softmax.met() if tile.slices > 1 else None,
            self._written(head, query, column),
        )

    @property
    def _copies(self) -> bool:
        """Whether any panel is copied; before sm_80 there is nothing to wait for such copies."""
        return any(panel.copied for panel in self.panels)

    def _closed(self) -> Stmt | None:
        """All copies since the last call are a group, which may be empty if others are not."""
        return close_group() if self._copies else None

    def _await(self, left: int) -> Stmt | None:
        return await_groups(left) if self._copies else None

    def _begin(self, which: int, part: Part) -> Stmt:
        """Start to bring a panel to shared memory."""
        panel, scope = self.panels[which], self.scope
        if panel.copied:
            return panel.copy(scope, self.shared, self.bases[which], self.thread, part)
        return panel.fetch(scope, self.staged[which], self.thread, part)

    def _end(self, which: int) -> Stmt | None:
        """What a thread does for it to get there, beside waiting for copies."""
        panel = self.panels[which]
        if panel.copied:
            return None
        staged, base = self.staged[which], self.bases[which]
        return panel.put(self.scope, staged, self.shared, base, self.thread)

    def _multiply_keys(self) -> Stmt:
        bases = self.bases[0], self.bases[1]
        return self.engine.multiply_keys(bases, (self.panels[0], self.panels[1]))

    def _zero(self, buffer: Any) -> Stmt:
        count = int(buffer.shape[0])
        return self.scope.loop(
            count, lambda i: tirx.BufferStore(buffer, f32(0.0), [i]), UNROLLED, "zero"
        )

    def _finish(
        self, head: list[Expr], first_query: Expr, first_key: Expr
    ) -> Callable[[Expr, Expr], Stmt]:
        """Scores from products; minus infinity where there is no key."""
        scope, engine, problem, formula = self.scope, self.engine, self.problem, self.formula

        def within(index: Expr, extent: int, step: int) -> Expr:
            return tirx.min(index, i32(extent - 1)) if extent % step else index

        def one(r: Expr, k: Expr) -> Stmt:
            at = engine.score(r, k)
            query, key = first_query + engine.row(r), first_key + engine.key(k)
            where = (
                within(query, problem.queries, self.tile.queries),
                within(key, problem.keys, self.tile.chunk),
            )
            emit = Emitter()
            given = {formula.product: load(engine.scores, at)}
            value = scope.evaluate(formula.scores, [*head, *where], emit, given)
            if problem.keys % self.tile.chunk:
                value = tirx.Select(key < problem.keys, value, f32(float("-inf")))
            made = seq(*emit.statements, tirx.BufferStore(engine.scores, value, [at]))
            return _without_divisions(made)

        return one

    def _written(self, head: list[Expr], first_query: Expr, first_column: Expr) -> Stmt:
        """The epilogue, by the threads of the first slice."""
        scope, engine, problem, tile = self.scope, self.engine, self.problem, self.tile
        results = self.formula.results(scope, self.formula.product.shape[:-2])
        inverse = scope.local(1, name="inverse")
        many = results.lanes

        def row(r: Expr) -> Stmt:
            def in_row(query: Expr) -> Stmt:
                def run(c: Expr) -> Stmt:
                    column = first_column + engine.column(c * many)

                    def total(k: Expr) -> Expr:
                        value = load(engine.mixed, engine.sum(r, c * many + k))
                        return value * load(inverse, i32(0))

                    made = results.write(head, query, column, many, total)
                    even = problem.width % problem.columns == 0
                    return made if even else tirx.IfThenElse(column < problem.width, made, None)

                # Where there are no keys, sums of nothing are 0.
                share = reciprocal(load(self.softmax.total, r)) if problem.keys else f32(1.0)
                return seq(
                    tirx.BufferStore(inverse, share, [i32(0)]),
                    scope.loop(engine.columns // many, run, UNROLLED),
                )

            query = first_query + engine.row(r)
            made = scope.bound(problem.queries, query, "query", in_row)
            even = problem.queries % tile.queries == 0
            return made if even else tirx.IfThenElse(query < problem.queries, made, None)

        made = seq(tirx.AllocBuffer(inverse), scope.loop(engine.rows, row, UNROLLED))
        if tile.slices == 1:
            return made
        return tirx.IfThenElse((self.thread // tile.team).equal(i32(0)), made, None)


def _without_divisions(made: Stmt) -> Stmt:
    """Multiplications in place of divisions by numbers, which are a dozen instructions.

    They differ in the last bit, which only the scores of a softmax have to bear.
    """

    def replace(node: Any) -> Any:
        divisor = node.b.value if isinstance(node.b, tirx.FloatImm) else 0.0
        known = dtype_of(node) == "float32" and 1e-30 < abs(divisor) < 1e30
        return node.a * f32(1.0 / divisor) if known else node

    return ffi.structural_map(made, [(tirx.Div, replace)])
