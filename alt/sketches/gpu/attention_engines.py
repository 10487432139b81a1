"""How a warp multiplies for attention: scores of its queries and keys, then values by their powers.

Which queries, keys and columns a thread has in its registers is up to the engine. What the softmax
has to know of it is that `group` neighbouring threads have the same queries, `rows` of them each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alt.elementary import Expr
from alt.sketches.gpu.attention_tile import POWERS_PAD, Problem, Tile
from alt.sketches.gpu.panel import Panel
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tiling import WARP
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from primitives.tensorir import tirx

LANES = 4
"""Words that a thread reads at once."""


@dataclass(frozen=True)
class Engine(ABC):
    """What multiplies.

    Attributes:
        scope: the kernel.
        tile: of the block.
        problem: what is computed.
        thread: its number in the block.
        shared: words.
        scores: of a thread, which become powers; see `score`.
        mixed: its sums of values; see `sum`.
    """

    scope: GpuScope
    tile: Tile
    problem: Problem
    thread: Expr
    shared: Any
    scores: Any
    mixed: Any

    @property
    def lane(self) -> Expr:
        """Number of the thread in its warp."""
        return self.thread % WARP

    @property
    def first_row(self) -> Expr:
        """The warp's first query in the block."""
        return self.thread % self.tile.team // WARP * self.tile.rows

    @property
    def first_key(self) -> Expr:
        """The warp's first key in the chunk."""
        return self.thread // self.tile.team * self.tile.keys

    @property
    @abstractmethod
    def group(self) -> int:
        """Neighbouring threads that have the same queries."""

    @property
    def rows(self) -> int:
        """Queries of a thread."""
        return self.tile.rows * self.group // WARP

    @property
    def keys(self) -> int:
        """Keys of a thread, at a time."""
        return self.tile.keys // self.group

    @property
    def columns(self) -> int:
        """Of a thread."""
        return self.problem.columns // self.group

    @abstractmethod
    def row(self, r: Expr) -> Expr:
        """One of its queries, in the block."""

    @abstractmethod
    def key(self, k: Expr) -> Expr:
        """One of its keys, in the chunk."""

    @abstractmethod
    def column(self, c: Expr) -> Expr:
        """One of its columns, in the block; four from a multiple of four on are neighbours."""

    @abstractmethod
    def score(self, r: Expr, k: Expr) -> Expr:
        """Where the thread has the score of one of its queries and one of its keys."""

    @abstractmethod
    def sum(self, r: Expr, c: Expr) -> Expr:
        """Where it has the sum of one of its queries and one of its columns."""

    @abstractmethod
    def multiply_keys(self, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel]) -> Stmt:
        """Add products of queries and keys to the scores; panels and where they start."""

    @abstractmethod
    def multiply_values(self, powers: Expr, base: Expr, values: Panel) -> Stmt:
        """Add values, times the powers, to the sums.

        Args:
            powers: where there is room for them in shared memory, for an engine that needs it.
            base: where the panel of values starts.
            values: the panel.
        """

    def read(self, into: Any, at: Expr, start: Callable[[Expr], Expr]) -> Stmt:
        """Four words from shared memory, whose places `start` knows."""

        def word(j: Expr) -> Stmt:
            return tirx.BufferStore(into, tirx.BufferLoad(self.shared, [start(j)]), [at + j])

        return self.scope.loop(LANES, word, VECTORIZED)


@dataclass(frozen=True)
class Threads(Engine):
    """Each thread multiplies by itself: 4 x 8 of them, with rows and keys far apart.

    Everything is read four words at a time, along the axis that is summed over or, of values, along
    their columns; eight threads with neighbouring keys, or columns, read 128 bytes. Powers pass
    through shared memory, where only their warp reads them.
    """

    @property
    def group(self) -> int:
        """See `Engine`."""
        return 8

    def row(self, r: Expr) -> Expr:
        """See `Engine`."""
        return self.first_row + r * 4 + self.lane // 8

    def key(self, k: Expr) -> Expr:
        """See `Engine`."""
        return self.first_key + k * 8 + self.lane % 8

    def column(self, c: Expr) -> Expr:
        """See `Engine`."""
        return c // LANES * 32 + self.lane % 8 * LANES + c % LANES

    def score(self, r: Expr, k: Expr) -> Expr:
        """See `Engine`."""
        return r * self.keys + k

    def sum(self, r: Expr, c: Expr) -> Expr:
        """See `Engine`."""
        return r * self.columns + c

    def multiply_keys(self, bases: tuple[Expr, Expr], panels: tuple[Panel, Panel]) -> Stmt:
        """See `Engine`."""
        scope = self.scope
        left, right = scope.local(self.rows * LANES), scope.local(LANES)

        def terms(t: Expr) -> Stmt:
            def query(r: Expr) -> Stmt:
                start = bases[0] + panels[0].address(self.row(r), t * LANES)
                return self.read(left, r * LANES, lambda j: start + j)

            def key(k: Expr) -> Stmt:
                start = bases[1] + panels[1].address(self.key(k), t * LANES)

                def add(j: Expr, r: Expr) -> Stmt:
                    factors = load(left, r * LANES + j) * load(right, j)
                    return add_to(self.scores, self.score(r, k), factors)

                read = self.read(right, i32(0), lambda j: start + j)
                return seq(read, scope.nest((LANES, self.rows), add, UNROLLED))

            return seq(scope.loop(self.rows, query, UNROLLED), scope.loop(self.keys, key, UNROLLED))

        made = unrolled(scope, panels[0].depth // LANES, terms)
        return seq(tirx.AllocBuffer(left), tirx.AllocBuffer(right), made)

    def multiply_values(self, powers: Expr, base: Expr, values: Panel) -> Stmt:
        """See `Engine`."""
        scope, stride = self.scope, self.tile.keys + POWERS_PAD
        left, right = scope.local(self.rows * LANES), scope.local(LANES)
        warp = self.thread // WARP * self.tile.rows

        def place(r: Expr, key: Expr) -> Expr:
            return powers + (warp + r * 4 + self.lane // 8) * stride + key

        def put(r: Expr, k: Expr) -> Stmt:
            value = load(self.scores, self.score(r, k))
            return tirx.BufferStore(self.shared, value, [place(r, k * 8 + self.lane % 8)])

        def terms(t: Expr) -> Stmt:
            def query(r: Expr) -> Stmt:
                return self.read(left, r * LANES, lambda j: place(r, t * LANES + j))

            def run(j: Expr, c: Expr) -> Stmt:
                key = self.first_key + t * LANES + j
                start = base + values.address(self.column(c * LANES), key)

                def add(r: Expr, e: Expr) -> Stmt:
                    factors = load(left, r * LANES + j) * load(right, e)
                    return add_to(self.mixed, self.sum(r, c * LANES + e), factors)

                read = self.read(right, i32(0), lambda e: start + e)
                return seq(read, scope.nest((self.rows, LANES), add, UNROLLED))

            return seq(
                scope.loop(self.rows, query, UNROLLED),
                scope.nest((LANES, self.columns // LANES), run, UNROLLED),
            )

        return seq(
            *map(tirx.AllocBuffer, (left, right)),
            scope.nest((self.rows, self.keys), put, UNROLLED),
            scope.sync_warp(),
            unrolled(scope, self.tile.keys // LANES, terms),
        )


def load(buffer: Any, at: Expr) -> Expr:
    """An element."""
    return tirx.BufferLoad(buffer, [at])


def add_to(buffer: Any, at: Expr, value: Expr) -> Stmt:
    """The statement that adds to an element."""
    return tirx.BufferStore(buffer, load(buffer, at) + value, [at])


def unrolled(scope: GpuScope, count: int, body: Callable[[Expr], Stmt], most: int = 4) -> Stmt:
    """A loop of which up to `most` turns are written out."""
    each = next(n for n in range(min(most, count), 0, -1) if count % n == 0)
    return scope.loop(
        count // each, lambda o: scope.loop(each, lambda i: body(o * each + i), UNROLLED)
    )
