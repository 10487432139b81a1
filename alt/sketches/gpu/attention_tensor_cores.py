"""Attention on tensor cores: scores and powers stay in the registers where they are summed."""

from __future__ import annotations

from dataclasses import dataclass

from alt.elementary import Expr
from alt.sketches.gpu.attention_engines import LANES, Engine, load, unrolled
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.tensor_cores import multiply_add, nearly, packed_halves
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from primitives.tensorir import tirx


@dataclass(frozen=True)
class TensorCores(Engine):
    """A warp multiplies together, 16 queries by 8 keys, or columns, and 8 words at a time.

    Which terms are summed in which order is free, if both factors agree, and so is which rows and
    columns are multiplied together. Rows g and g + 8 of a left factor are queries 2g and 2g + 1;
    thread t of a group takes the words 4t to 4t + 3 of queries and keys, for two multiply-adds. The
    powers that it has then are its words of the next left factor: those of keys 2t and 2t + 1 or,
    in float16, of 4t to 4t + 3. The values are read to match, two neighbouring columns at once.

    Source:
        FlashAttention-2 (arXiv 2307.08691), section 3.
    """

    @property
    def group(self) -> int:
        """See `Engine`."""
        return 4

    @property
    def _down(self) -> int:
        return self.tile.rows // 16

    @property
    def _across(self) -> int:
        return self.tile.keys // 8

    @property
    def _wide(self) -> int:
        return self.problem.columns // 8

    @property
    def _group(self) -> Expr:
        return self.lane // 4

    @property
    def _member(self) -> Expr:
        return self.lane % 4

    def row(self, r: Expr) -> Expr:
        """See `Engine`."""
        return self.first_row + r // 2 * 16 + self._group * 2 + r % 2

    def key(self, k: Expr) -> Expr:
        """See `Engine`."""
        each = 2 * self.problem.packed
        return self.first_key + (k // each * 4 + self._member) * each + k % each

    def column(self, c: Expr) -> Expr:
        """See `Engine`."""
        return c // 4 * 16 + self._member * 4 + c % 4

    def score(self, r: Expr, k: Expr) -> Expr:
        """See `Engine`."""
        return (r // 2 * self._across + k // 2) * 4 + r % 2 * 2 + k % 2

    def sum(self, r: Expr, c: Expr) -> Expr:
        """See `Engine`. Column 2t + e of the n-th of two products is column 4t + 2e + n."""
        product = c // 4 * 2 + c % 2
        return (r // 2 * self._wide + product) * 4 + r % 2 * 2 + c % 4 // 2

    def multiply_keys(self, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel]) -> Stmt:
        """See `Engine`."""
        scope, dtype = self.scope, str(self.shared.dtype)
        left = scope.local(self._down * 8, dtype, "left")
        right = scope.local(LANES, dtype, "right")

        def words(w: Expr) -> Stmt:
            first = w * 16 + self._member * LANES

            def rows(i: Expr, step: Expr) -> Stmt:
                row = self.row(i * 2)
                start = bases[0] + panels[0].address(row, first + step * 2)
                return self.read(left, (i * 2 + step) * 4, lambda j: start + j)

            def keys(n: Expr) -> Stmt:
                # In float16, word t + 4 follows word t: keys 4t to 4t + 3 are in two products.
                among = n * 8 + self._group
                if self.problem.packed == 2:
                    among = n // 2 * 16 + self._group // 2 * 4 + n % 2 * 2 + self._group % 2
                key = self.first_key + among
                start = bases[1] + panels[1].address(key, first)

                def multiply(step: Expr, i: Expr) -> Stmt:
                    return multiply_add(
                        self.problem.precision,
                        (self.scores, (i * self._across + n) * 4),
                        (left, (i * 2 + step) * 4),
                        (right, step * 2),
                    )

                read = self.read(right, i32(0), lambda j: start + j)
                return seq(read, scope.nest((2, self._down), multiply, UNROLLED))

            return seq(
                scope.nest((self._down, 2), rows, UNROLLED),
                scope.loop(self._across, keys, UNROLLED),
            )

        arrays = map(tirx.AllocBuffer, (left, right))
        return seq(*arrays, unrolled(scope, self.problem.words // 16, words))

    def multiply_values(self, powers: Expr, base: Expr, values: Panel) -> Stmt:
        """See `Engine`."""
        scope, dtype = self.scope, str(self.shared.dtype)
        halves = self.problem.precision == "fp16"
        left = scope.local(self._down * 4, dtype, "left")
        right = scope.local(LANES, dtype, "right")
        first = self.thread // self.tile.team * (self.tile.keys // self.problem.packed)

        def words(w: Expr) -> Stmt:
            def factors(i: Expr, half: Expr, h: Expr) -> Stmt:
                """A word of the row h * 8 + g: number t, or t + 4."""
                at = i * 4 + half * 2 + h
                if halves:
                    pair = (i * self._across + w * 2 + half) * 4 + h * 2
                    word = packed_halves(load(self.scores, pair), load(self.scores, pair + 1))
                else:  # what is no number may be lost here; the total of the powers has it, too
                    word = nearly(load(self.scores, (i * self._across + w) * 4 + h * 2 + half))
                return tirx.BufferStore(left, word, [at])

            def columns(c: Expr) -> Stmt:
                word = first + w * 8 + self._member * 2
                start = base + values.address(c * 16 + self._group * 2, word)

                def multiply(n: Expr, i: Expr) -> Stmt:
                    return multiply_add(
                        self.problem.precision,
                        (self.mixed, (i * self._wide + c * 2 + n) * 4),
                        (left, i * 4),
                        (right, n * 2),
                    )

                return seq(
                    self.read(right, i32(0), lambda j: start + j),
                    scope.nest((2, self._down), multiply, UNROLLED),
                )

            return seq(
                scope.nest((self._down, 2, 2), factors, UNROLLED),
                scope.loop(self.problem.columns // 16, columns, UNROLLED),
            )

        # All of them are written out, because registers have no numbers to count with.
        arrays = map(tirx.AllocBuffer, (left, right))
        count = self._across // self.problem.packed
        return seq(*arrays, scope.loop(count, words, UNROLLED))
