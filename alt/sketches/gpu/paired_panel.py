"""Panels for tensor cores in which what a thread takes of an operand at once lies together.

The words of a multiply-add have to be in neighbouring registers, and a read fills those from
neighbouring places: of a left factor two words of two rows, of a right one two words of a column.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from alt.elementary import Expr
from alt.sketches.gpu.matrix_panel import MatrixPanel
from alt.sketches.gpu.product import LANES, Along
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, seq
from primitives.tensorir import tirx


@dataclass(frozen=True)
class PairedPanel(MatrixPanel):
    """Pairs of words along one axis of a panel; words that follow each other along the other."""

    @property
    @abstractmethod
    def pairs_along(self) -> Along:
        """Along which axis neighbours lie in memory if a thread writes whole pairs."""

    @abstractmethod
    def in_pair(self, number: Expr, which: Expr) -> tuple[Expr, Expr]:
        """Which row, or column, and which word of a thread's piece are in one of its pairs."""

    def put(self, scope: GpuScope, staged: Any, shared: Any, base: Expr, thread: Expr) -> Stmt:
        """See `Panel`."""
        if self.along != self.pairs_along:
            return super().put(scope, staged, shared, base, thread)
        wide, deep = self.piece
        count = wide * deep // self.packed
        run = min(count, LANES)
        words = scope.local(count, str(shared.dtype), "words")

        def piece(i: Expr, outer: Expr, term: Expr) -> Stmt:
            start = base + self.address(outer, term // self.packed)

            def make(number: Expr, which: Expr) -> Stmt:
                value = self.word(staged, i, *self.in_pair(number, which))
                return tirx.BufferStore(words, value, [number * 2 + which])

            def store(part: Expr, lane: Expr) -> Stmt:
                at = part * run + lane
                return tirx.BufferStore(shared, tirx.BufferLoad(words, [at]), [start + at])

            stored = scope.loop(
                count // run, lambda p: scope.loop(run, lambda j: store(p, j), VECTORIZED), UNROLLED
            )
            return seq(scope.nest((count // 2, 2), make, UNROLLED), stored)

        return seq(tirx.AllocBuffer(words), self.each_piece(scope, thread, piece))


@dataclass(frozen=True)
class PairedRows(PairedPanel):
    """A left factor: the words of rows 2m and 2m + 1 take turns."""

    @property
    def pairs_along(self) -> Along:
        """See `PairedPanel`."""
        return "depth"

    @property
    def stride(self) -> int:
        """Words from one pair of rows to the next."""
        return 2 * self.deep + self.pad

    @property
    def words(self) -> int:
        """See `Panel`."""
        return self.stride * self.outer // 2

    def address(self, outer: Expr, word: Expr) -> Expr:
        """See `Panel`."""
        return outer // 2 * self.stride + word * 2 + outer % 2

    @property
    def piece(self) -> tuple[int, int]:
        """Of two rows, where neighbours in memory are in the same one."""
        wide, deep = super().piece
        return (wide, deep) if self.along == "outer" else (2, deep)

    def in_pair(self, number: Expr, which: Expr) -> tuple[Expr, Expr]:
        """See `PairedPanel`."""
        return which, number


@dataclass(frozen=True)
class PairedTerms(PairedPanel):
    """A right factor: words 2m and 2m + 1 of a column, and then those of the next column."""

    @property
    def pairs_along(self) -> Along:
        """See `PairedPanel`."""
        return "outer"

    @property
    def stride(self) -> int:
        """Words from one row of pairs to the next."""
        return 2 * self.outer + self.pad

    @property
    def words(self) -> int:
        """See `Panel`."""
        return self.stride * self.deep // 2

    def address(self, outer: Expr, word: Expr) -> Expr:
        """See `Panel`."""
        return word // 2 * self.stride + outer * 2 + word % 2

    @property
    def piece(self) -> tuple[int, int]:
        """Of whole pairs, where neighbours in memory are in different columns."""
        wide, deep = super().piece
        return (wide, deep) if self.along == "depth" else (wide, 2 * deep)

    def in_pair(self, number: Expr, which: Expr) -> tuple[Expr, Expr]:
        """See `PairedPanel`."""
        return number, which
