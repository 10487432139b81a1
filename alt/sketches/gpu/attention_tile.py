"""How large the tiles of attention are: queries of a block, keys at a time, and what they take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product as combinations

from alt.cuda.gpu import Gpu, Precision
from alt.sketches.gpu.tiling import (
    ISSUED_A_CYCLE,
    MEMORY_BYTES_A_CYCLE,
    MULTIPLIED_A_CYCLE,
    OTHER_REGISTERS,
    OVERLAP,
    SHARED_BYTES_A_CYCLE,
    START_CYCLES,
    STEP_CYCLES,
    SYNC_CYCLES,
    WARP,
)
from tuner.choices import Choose, Infeasible

MOST_DEPTH = 128
"""Terms of a score whose factors are in shared memory at a time."""

MOST_COLUMNS = 128
"""Of the result that a block computes; the scores of more are computed by several blocks."""

DEPTH_OF: dict[Precision, int] = {"fp32": 4, "tf32": 16, "fp16": 32}
"""By what the depth has to be divisible in shared memory: a thread reads four words at once."""

COLUMNS = 32
"""By what the columns of a block are divisible."""

POWERS_PAD = 8
"""Words behind the powers of each query, likewise."""

ROWS_PAD = 4
"""Words behind each pair of queries on tensor cores, likewise."""

TERMS_PAD = 8
"""Words behind each row of pairs of values, likewise."""

SOFTMAX_INSTRUCTIONS = 12.0
"""Of a thread for each score: scale, mask, maximum, power, sum."""

SHARED_READ_CYCLES = 2.0
"""Of four words a thread, where many threads read the same."""


@dataclass(frozen=True)
class Problem:
    """What decides about tiles.

    Attributes:
        heads: products in the batch.
        queries: rows of the scores.
        keys: columns of the scores.
        depth: terms of a score.
        width: columns of the result.
        precision: what is multiplied.
        copied: whether keys and values get to shared memory without passing through registers.
    """

    heads: int
    queries: int
    keys: int
    depth: int
    width: int
    precision: Precision = "fp32"
    copied: bool = False

    @property
    def deep_parts(self) -> int:
        """In how many parts the terms of a score are summed."""
        return -(-self.depth // MOST_DEPTH)

    @property
    def deep(self) -> int:
        """Terms of a part, rounded up."""
        each = -(-max(self.depth, 1) // max(self.deep_parts, 1))
        return _multiple(each, DEPTH_OF[self.precision])

    @property
    def packed(self) -> int:
        """Factors in a word of shared memory."""
        return 2 if self.precision == "fp16" else 1

    @property
    def words(self) -> int:
        """Of a part."""
        return self.deep // self.packed

    @property
    def deep_pad(self) -> int:
        """Words behind each query and key, so that threads that read together read all banks."""
        if self.precision == "fp32":
            return 0 if self.words // 4 % 2 else 4
        return (16 - self.words) % 32

    @property
    def wide_parts(self) -> int:
        """How many blocks share the columns of a result."""
        return -(-self.width // MOST_COLUMNS)

    @property
    def columns(self) -> int:
        """Of a block, rounded up."""
        return _multiple(-(-self.width // self.wide_parts), COLUMNS)


@dataclass(frozen=True)
class Tile:
    """What a block of threads works on. Warps do not share queries, but in different slices.

    Attributes:
        rows: queries of a warp.
        keys: of a warp at a time.
        down: warps with other queries.
        slices: warps with the same queries and other keys.
    """

    rows: int
    keys: int
    down: int
    slices: int = 1

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.rows * self.down

    @property
    def chunk(self) -> int:
        """Keys of a block at a time."""
        return self.keys * self.slices

    @property
    def team(self) -> int:
        """Threads of a slice."""
        return self.down * WARP

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.team * self.slices

    def chunks(self, problem: Problem) -> int:
        """How many steps all keys take."""
        return -(-problem.keys // self.chunk)

    def blocks(self, problem: Problem) -> int:
        """How many there are."""
        return problem.heads * -(-problem.queries // self.queries) * problem.wide_parts

    def own_rows(self, problem: Problem) -> int:
        """Queries of a thread, which it shares with 8 threads, or 4 on tensor cores."""
        return self.rows // 4 if problem.precision == "fp32" else self.rows // 8

    def registers(self, problem: Problem) -> int:
        """Of a thread, about."""
        sums = self.rows * (self.keys + problem.columns) // WARP
        own = self.own_rows(problem)
        factors = 4 * own + 8
        panels = self.chunk * (problem.deep + problem.columns)
        staged = 0 if problem.copied else -(-panels // self.threads)
        return sums + factors + 3 * own + staged + OTHER_REGISTERS

    def places(self, problem: Problem) -> tuple[int, ...]:
        """Where queries, keys, values and powers start in shared memory, and all words of it."""
        deep = problem.words + problem.deep_pad
        q, k, v = self.queries * deep, self.chunk * deep, self.chunk * problem.columns
        powers = self.queries * self.slices * (self.keys + POWERS_PAD)
        if problem.precision != "fp32":
            q = self.queries // 2 * (2 * problem.words + ROWS_PAD)
            v = self.chunk // problem.packed // 2 * (2 * problem.columns + TERMS_PAD)
            powers = 0
        # When all that is done with, slices tell what they have there.
        own = self.rows * problem.columns // WARP + 2 * self.own_rows(problem)
        met = (self.slices - 1) * self.team * own
        return 0, q, q + k, q + k + v, max(q + k + v + powers, met)

    def shared_bytes(self, problem: Problem) -> int:
        """Of a block."""
        return 4 * self.places(problem)[-1]

    def refusal(self, problem: Problem, gpu: Gpu) -> str | None:
        """Why no block can be like that; None if it can."""
        if self.threads > gpu.block_threads:
            return f"{self.threads} threads for {gpu.block_threads}"
        registers, most = self.registers(problem), gpu.core_registers // self.threads
        if registers > min(gpu.registers, most):
            return f"{registers} registers for {min(gpu.registers, most)}"
        room = self.shared_bytes(problem)
        if room > gpu.most_shared_bytes:
            return f"{room} bytes of shared memory for {gpu.most_shared_bytes}"
        return None


ROWS: dict[Precision, tuple[int, ...]] = {
    "fp32": (4, 8, 16, 32),
    "tf32": (16, 32),
    "fp16": (16, 32),
}
KEYS = (32, 64)
WARPS = (1, 2, 4, 8)
SLICES = (1, 2, 4)


def every_tile(precision: Precision) -> Iterator[Tile]:
    """All that may be asked for, those included that do not fit."""
    for choice in combinations(ROWS[precision], KEYS, WARPS, SLICES):
        yield Tile(*choice)


def cycles_of(tile: Tile, problem: Problem, gpu: Gpu) -> float:
    """What the busiest multiprocessor takes, estimated; as `alt.sketches.gpu.tiling.cycles_of`."""
    precision = problem.precision
    mine = -(-tile.blocks(problem) // gpu.cores)
    fit = min(
        gpu.core_threads // tile.threads,
        gpu.core_registers // (tile.threads * tile.registers(problem)),
        gpu.l1_bytes // (tile.shared_bytes(problem) + 1024),
    )
    together = max(1, min(mine, fit))
    warps = together * tile.threads / WARP
    busy = min(1.0, 1.125 * warps / (warps + 2))
    scores = tile.queries * tile.chunk
    deep = problem.deep * problem.deep_parts
    multiplied = scores * (deep + problem.columns) / MULTIPLIED_A_CYCLE[precision]
    softmax = scores * SOFTMAX_INSTRUCTIONS / ISSUED_A_CYCLE
    read = tile.threads // WARP * _shared_reads(tile, problem) * SHARED_READ_CYCLES
    staged = tile.chunk * (deep + problem.columns) * 4
    memory = staged / MEMORY_BYTES_A_CYCLE
    shared = read + staged / SHARED_BYTES_A_CYCLE
    # Without tensor cores, the products are instructions like all others.
    arithmetic = (multiplied + softmax) / busy if precision == "fp32" else multiplied / busy
    issue = 0.0 if precision == "fp32" else softmax / busy
    slowest = max(arithmetic, shared, memory, issue)
    work = slowest + OVERLAP * (arithmetic + shared + memory + issue - slowest)
    step = max(STEP_CYCLES + work, together * work) + 3 * SYNC_CYCLES
    start = START_CYCLES + tile.queries * deep * 4 / MEMORY_BYTES_A_CYCLE * together
    met = (tile.slices - 1) * tile.rows * problem.columns / WARP * 8
    return -(-mine // together) * (start + tile.chunks(problem) * step + met)


def _shared_reads(tile: Tile, problem: Problem) -> float:
    """How often a warp reads four words a thread, for one step."""
    words = problem.deep * problem.deep_parts
    if problem.precision == "fp32":
        own, keys = tile.own_rows(problem), tile.keys / 8
        columns = problem.columns / 32
        return words / 4 * (own + keys) + tile.keys / 4 * (own + 4 * columns)
    each = problem.packed
    scores = words / each / 16 * (tile.rows / 8 + tile.keys / 8)
    return 2 * (scores + tile.keys / each / 8 * 2 * problem.columns / 32)


def _multiple(value: int, of: int) -> int:
    """The next multiple."""
    return -(-value // of) * of


@lru_cache(maxsize=1024)
def choose_tile(problem: Problem, gpu: Gpu) -> Tile:
    """The tile with the fewest estimated cycles.

    >>> from alt.cuda.gpu import gpu_of
    >>> hopper = gpu_of({"kind": "cuda", "arch": "sm_90"})
    >>> few = choose_tile(Problem(12, 128, 128, 64, 64), hopper)
    >>> many = choose_tile(Problem(1536, 1024, 1024, 64, 64), hopper)
    >>> few.queries < many.queries
    True
    """
    fitting = [t for t in every_tile(problem.precision) if not t.refusal(problem, gpu)]
    return min(fitting, key=lambda t: (cycles_of(t, problem, gpu), t.threads, t.queries))


def decide_tile(choose: Choose, problem: Problem, gpu: Gpu) -> Tile:
    """The tile that is asked for; `choose_tile` gives the one that needs no measuring.

    Raises:
        Infeasible: if it does not fit.
    """
    default, precision = choose_tile(problem, gpu), problem.precision
    chosen = Tile(
        choose.one_of("rows", ROWS[precision], default.rows),
        choose.one_of("keys", KEYS, default.keys),
        choose.one_of("warps", WARPS, default.down),
        choose.one_of("slices", SLICES, default.slices),
    )
    refusal = chosen.refusal(problem, gpu)
    if refusal is not None:
        raise Infeasible(f"{chosen}: {refusal}")
    return chosen
