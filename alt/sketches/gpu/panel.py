"""The factors that a block needs next, on their way from memory through registers to shared memory.

They are kept there as words of 32 bits: one float32, one rounded to what tensor cores take of it,
or two float16 that follow each other along the axis that is summed over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alt.elementary import Expr
from alt.sketches.gpu.copies import copy
from alt.sketches.gpu.product import Along
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tensor_cores import packed_halves, rounded
from alt.sketches.gpu.tiling import Precision
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from primitives.tensorir import tirx


@dataclass(frozen=True)
class Part:
    """Which part of an operand.

    Attributes:
        batch: indices.
        outer: its first row, or column.
        term: its first place along the axis that is summed over.
        extents: how many of each the operand has.
        tails: whether the part may reach beyond them.
    """

    batch: Sequence[Expr]
    outer: Expr
    term: Expr
    extents: tuple[int, int]
    tails: tuple[bool, bool]

    def inside(self, outer: Expr, term: Expr) -> Expr | None:
        """Whether an element exists; None if all do. Of what is read at once all do, or none."""
        here = zip((outer, term), self.extents, self.tails, strict=True)
        conditions = [position < extent for position, extent, tail in here if tail]
        return tirx.all(*conditions) if conditions else None


Found = tuple[Expr | None, Callable[[Expr], Any]]
"""Whether elements exist that are read at once (None: they do), and the read of each."""


@dataclass(frozen=True)
class Panel(ABC):
    """A part of one operand in shared memory: as many rows, or columns, as a block's results have.

    Attributes:
        along: the axis along which neighbours in memory lie, as `Operand` has it.
        outer: how many rows, or columns, it has.
        depth: how many terms of the sums.
        threads: how many share the work.
        precision: what words are.
        contiguous: along which axis words are neighbours.
        pad: words between the rows of it that are only there to keep threads from waiting for the
            same bank.
        lanes: how many elements a thread reads at once.
        copied: whether words are those of memory, and do not pass through registers.
    """

    along: Along
    outer: int
    depth: int
    threads: int
    precision: Precision
    contiguous: Along
    pad: int
    lanes: int
    copied: bool

    @abstractmethod
    def found(self, part: Part, piece: Expr, outer: Expr, term: Expr) -> Found:
        """Neighbours in memory, `lanes` of them.

        Args:
            part: which part of the operand the panel is.
            piece: which of a thread's pieces they are in.
            outer: the row, or column, of the first in the panel.
            term: its place along the other axis of the panel.
        """

    def before(self, thread: Expr, part: Part) -> Stmt | None:
        """What a thread works out once, for all parts in the rows, or columns, of this one."""
        return None

    def opened(self, part: Part) -> Stmt | None:
        """What a thread works out once for all that it reads of a part."""
        return None

    @property
    def packed(self) -> int:
        """Elements in a word."""
        return 2 if self.precision == "fp16" else 1

    @property
    def deep(self) -> int:
        """Words along the axis that is summed over."""
        return self.depth // self.packed

    @property
    def stride(self) -> int:
        """Words from one row of it to the next."""
        return (self.outer if self.contiguous == "outer" else self.deep) + self.pad

    @property
    def words(self) -> int:
        """All words that it takes."""
        return self.stride * (self.deep if self.contiguous == "outer" else self.outer)

    def address(self, outer: Expr, word: Expr) -> Expr:
        """Where a word is."""
        if self.contiguous == "outer":
            return word * self.stride + outer
        return outer * self.stride + word

    @property
    def piece(self) -> tuple[int, int]:
        """What a thread takes at once: elements along `outer` and `depth`."""
        if self.along == "depth":
            return 1, max(self.lanes, self.packed)
        return self.lanes, self.packed

    @property
    def pieces(self) -> int:
        """How many of those there are."""
        outer, deep = self.piece
        return (self.outer // outer) * (self.depth // deep)

    @property
    def each(self) -> int:
        """How many of them a thread takes, at most."""
        return -(-self.pieces // self.threads)

    @property
    def row(self) -> int:
        """How many of them neighbouring threads take of one row, or column."""
        outer, deep = self.piece
        return self.depth // deep if self.along == "depth" else self.outer // outer

    @property
    def staged(self) -> int:
        """Elements that a thread holds."""
        outer, deep = self.piece
        return 0 if self.copied else self.each * outer * deep

    def fetch(self, scope: GpuScope, staged: Any, thread: Expr, part: Part) -> Stmt:
        """Read a thread's elements into its registers; what does not exist is 0.

        Args:
            scope: the kernel.
            staged: the registers.
            thread: its number.
            part: what to read.
        """
        wide, deep = self.piece
        run = self.lanes

        def piece(i: Expr, outer: Expr, term: Expr) -> Stmt:
            def some(across: Expr, down: Expr) -> Stmt:
                """Elements that lie next to each other."""
                inside, load = self.found(part, i, outer + across, term + down)
                start = self._register(i, across, down)

                def read(lane: Expr) -> Stmt:
                    return tirx.BufferStore(staged, load(lane), [start + lane])

                def clear(lane: Expr) -> Stmt:
                    return tirx.BufferStore(staged, tirx.const(0, "float32"), [start + lane])

                found = scope.loop(run, read, VECTORIZED)
                if inside is None:
                    return found
                return tirx.IfThenElse(inside, found, scope.loop(run, clear, VECTORIZED))

            if self.along == "outer":
                return scope.loop(deep, lambda down: some(i32(0), down), UNROLLED)
            return scope.nest((wide, deep // run), lambda a, d: some(a, d * run), UNROLLED)

        return seq(self.opened(part), self.each_piece(scope, thread, piece))

    def copy(self, scope: GpuScope, shared: Any, base: Expr, thread: Expr, part: Part) -> Stmt:
        """Start to copy a thread's elements to shared memory; words have to be as in memory.

        Args:
            scope: the kernel.
            shared: words.
            base: where the panel starts in it.
            thread: its number.
            part: what to copy.
        """
        assert self.packed == 1, "copies do not convert"
        assert self.lanes == 1 or self.contiguous == self.along, "copies keep neighbours together"

        def piece(i: Expr, outer: Expr, term: Expr) -> Stmt:
            inside, load = self.found(part, i, outer, term)
            there = tirx.const(True, "bool") if inside is None else inside
            to = shared, base + self.address(outer, term)
            return copy(to, load(i32(0)), there, self.lanes)

        return seq(self.opened(part), self.each_piece(scope, thread, piece))

    def put(self, scope: GpuScope, staged: Any, shared: Any, base: Expr, thread: Expr) -> Stmt:
        """Write a thread's elements to shared memory, as words, from `base` on."""
        wide, deep = self.piece
        many = deep // self.packed
        count = wide * many
        vector = count > 1 and (wide > 1) == (self.contiguous == "outer")

        def piece(i: Expr, outer: Expr, term: Expr) -> Stmt:
            start = term // self.packed

            def store(lane: Expr, value: Expr) -> Stmt:
                across, down = (lane, i32(0)) if wide > 1 else (i32(0), lane)
                at = base + self.address(outer + across, start + down)
                return tirx.BufferStore(shared, value, [at])

            def made(lane: Expr) -> Expr:
                across, down = (lane, i32(0)) if wide > 1 else (i32(0), lane)
                return self.word(staged, i, across, down)

            if not vector:
                return scope.loop(count, lambda lane: store(lane, made(lane)), UNROLLED)
            words = scope.local(count, str(shared.dtype), "words")
            return seq(
                tirx.AllocBuffer(words),
                scope.loop(
                    count, lambda lane: tirx.BufferStore(words, made(lane), [lane]), UNROLLED
                ),
                scope.loop(
                    count, lambda lane: store(lane, tirx.BufferLoad(words, [lane])), VECTORIZED
                ),
            )

        return self.each_piece(scope, thread, piece)

    def word(self, staged: Any, i: Expr, across: Expr, down: Expr) -> Expr:
        """A word of a thread's i-th piece, of the elements that it holds."""

        def element(lane: int) -> Expr:
            at = self._register(i, across, down * self.packed + lane)
            return tirx.BufferLoad(staged, [at])

        if self.precision == "fp16":
            return packed_halves(element(0), element(1))
        return rounded(element(0)) if self.precision == "tf32" else element(0)

    def _register(self, i: Expr, across: Expr, down: Expr) -> Expr:
        """Where a thread has an element of its i-th piece."""
        wide, deep = self.piece
        if self.along == "outer":
            return (i * deep + down) * wide + across
        return (i * wide + across) * deep + down

    def each_piece(
        self, scope: GpuScope, thread: Expr, body: Callable[[Expr, Expr, Expr], Stmt]
    ) -> Stmt:
        """A statement for each piece of a thread: (which of its own, where it starts)."""
        wide, deep = self.piece
        along_depth, row = self.along == "depth", self.row

        def one(i: Expr) -> Stmt:
            number = i * self.threads + thread
            fast, slow = number % row, number // row
            outer, term = (slow, fast) if along_depth else (fast, slow)
            made = body(i, outer * wide, term * deep)
            if self.pieces % self.threads == 0:
                return made
            return tirx.IfThenElse(number < self.pieces, made, None)

        return scope.loop(self.each, one, UNROLLED)
