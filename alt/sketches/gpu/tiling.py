"""How large the tiles of a matrix product are, on a multiprocessor, in a warp and in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product as combinations

from alt.cuda.gpu import Gpu, Precision
from tuner.choices import Choose, Infeasible

OTHER_REGISTERS = 40
"""What a thread needs beside operands and sums: addresses, counters."""

WARP = 32

STEP_CYCLES = 600.0
"""From asking memory for the next part of the operands until it is there."""

START_CYCLES = 2500.0
"""A block's first read, its epilogue and its last write."""

SHARED_BYTES_A_CYCLE = 128.0
MEMORY_BYTES_A_CYCLE = 24.0
"""What one multiprocessor gets from the second-level cache while the others read too."""

ISSUED_A_CYCLE = 128.0
"""Instructions of threads that one multiprocessor starts."""

SYNC_CYCLES = 60.0
"""Of a step, in which all threads of a block wait for each other."""

OVERLAP = 0.25
"""The part of other resources' time that adds to that of the slowest one."""

MULTIPLIED_A_CYCLE: dict[Precision, float] = {"fp32": 128.0, "tf32": 640.0, "fp16": 1280.0}
"""Of one multiprocessor. For tensor cores about 60 % of Hopper's peak, what `mma.sync` gets of it.

Source: arXiv 2402.13499.
"""


@dataclass(frozen=True)
class Problem:
    """What decides about tiles.

    Attributes:
        count: matrices in the batch.
        rows: of the results.
        columns: of the results.
        depth: terms of a sum.
        precision: what is multiplied.
        in_place: whether words in shared memory are those of memory, four at a time, so that they
            can be copied without passing through registers.
        gathering: instructions of a thread for each element of the left and of the right factor,
            where those are not read several at a time.
        bytes_each: of an element of the left and of the right factor in memory.
    """

    count: int
    rows: int
    columns: int
    depth: int
    precision: Precision = "fp32"
    in_place: bool = False
    gathering: tuple[float, float] = (0.0, 0.0)
    bytes_each: tuple[int, int] = (4, 4)


@dataclass(frozen=True)
class Tile:
    """How a block of threads computes its part of the results.

    Attributes:
        warp_rows: rows of a warp.
        warp_columns: columns of a warp.
        down: warps below each other.
        across: warps beside each other.
        depth: terms of the sums whose factors are in shared memory at a time.
        stages: how many such parts of the factors are in shared memory: 2 if the next one is
            fetched meanwhile; more if copies run ahead without threads waiting for them.
        slices: teams of warps that share the terms of the sums out among them.
    """

    warp_rows: int
    warp_columns: int
    down: int
    across: int
    depth: int
    stages: int = 2
    slices: int = 1

    @property
    def rows(self) -> int:
        """Of a block."""
        return self.warp_rows * self.down

    @property
    def columns(self) -> int:
        """Of a block."""
        return self.warp_columns * self.across

    @property
    def team(self) -> int:
        """Threads that work on the same terms."""
        return self.down * self.across * WARP

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.team * self.slices

    @property
    def sums(self) -> int:
        """Of a thread."""
        return self.warp_rows * self.warp_columns // WARP

    @property
    def copies(self) -> bool:
        """Whether factors do not pass through registers."""
        return self.stages > 2

    @property
    def staged(self) -> int:
        """Factors that a thread holds between their places in memory and in shared memory."""
        if self.copies:
            return 0
        return sum(-(-extent * self.depth // self.team) for extent in (self.rows, self.columns))

    def registers(self, precision: Precision) -> int:
        """Of a thread, about."""
        if precision == "fp32":
            factors = self.warp_rows // 4 + self.warp_columns // 8
        else:
            factors = self.warp_rows // 4 + 4
        return self.sums + factors + self.staged + OTHER_REGISTERS

    def shared_bytes(self, precision: Precision) -> int:
        """At most, whatever the padding."""
        each = 2 if precision == "fp16" else 4
        longer = (self.rows + self.columns) * (self.depth + 16) + 16 * self.depth
        meeting = (self.slices - 1) * self.team * MEETING_SUMS * 4
        return each * longer * self.stages * self.slices + meeting

    def blocks(self, problem: Problem) -> int:
        """How many there are."""
        down, across = -(-problem.rows // self.rows), -(-problem.columns // self.columns)
        return problem.count * down * across

    def refusal(self, precision: Precision, gpu: Gpu) -> str | None:
        """Why no block can be like that; None if it can."""
        if self.threads > gpu.block_threads:
            return f"{self.threads} threads for {gpu.block_threads}"
        registers, most = self.registers(precision), gpu.core_registers // self.threads
        if registers > min(gpu.registers, most):
            return f"{registers} registers for {min(gpu.registers, most)}"
        room = self.shared_bytes(precision)
        if room > gpu.most_shared_bytes:
            return f"{room} bytes of shared memory for {gpu.most_shared_bytes}"
        if self.depth * min(self.rows, self.columns) < self.team:
            return f"{self.team} threads for {self.depth * min(self.rows, self.columns)} factors"
        return None


MEETING_SUMS = 8
"""Sums of each thread that slices tell each other at a time."""

WARP_ROWS: dict[Precision, tuple[int, ...]] = {
    "fp32": (8, 16, 32),
    "tf32": (16, 32, 64),
    "fp16": (16, 32, 64),
}
WARP_COLUMNS: dict[Precision, tuple[int, ...]] = {
    "fp32": (32, 64),
    "tf32": (16, 32, 64),
    "fp16": (16, 32, 64),
}
DEPTHS: dict[Precision, tuple[int, ...]] = {
    "fp32": (8, 16, 32),
    "tf32": (8, 16, 32),
    "fp16": (16, 32, 64),
}
WARPS = (1, 2, 4)
STAGES = (1, 2)
AHEAD = (3, 4)
"""Stages of copies that run ahead."""

SLICES = (1, 2, 4)


def stages_of(problem: Problem) -> tuple[int, ...]:
    """How many stages there may be."""
    return (*STAGES, *AHEAD) if problem.in_place else STAGES


def every_tile(problem: Problem) -> Iterator[Tile]:
    """All that may be asked for, those included that do not fit."""
    precision = problem.precision
    parts = (WARP_ROWS[precision], WARP_COLUMNS[precision], WARPS, WARPS, DEPTHS[precision])
    for choice in combinations(*parts, stages_of(problem), SLICES):
        yield Tile(*choice)


def cycles_of(tile: Tile, problem: Problem, gpu: Gpu) -> float:
    """What the busiest multiprocessor takes, estimated.

    A step takes as long as its slowest resource, or as memory takes to answer: with more blocks on
    a multiprocessor than one, others use the wait.
    """
    precision = problem.precision
    blocks = tile.blocks(problem)
    mine = -(-blocks // gpu.cores)
    fit = min(
        gpu.core_threads // tile.threads,
        gpu.core_registers // (tile.threads * tile.registers(precision)),
        gpu.l1_bytes // tile.shared_bytes(precision),
    )
    together = max(1, min(mine, fit))
    terms = tile.depth * tile.slices
    steps = -(-problem.depth // terms)
    results = tile.rows * tile.columns
    # A warp waits for its own last result; many of them keep a multiprocessor busy.
    warps = together * tile.threads / WARP
    busy = min(1.0, 1.125 * warps / (warps + 2))
    arithmetic = results * terms / (MULTIPLIED_A_CYCLE[precision] * busy)
    each = 2 if precision == "fp16" else 4
    warp_reads = (tile.warp_rows + tile.warp_columns) * tile.down * tile.across
    shared = (warp_reads + tile.rows + tile.columns) * terms * each / SHARED_BYTES_A_CYCLE
    left, right = problem.bytes_each
    memory = (tile.rows * left + tile.columns * right) * terms / MEMORY_BYTES_A_CYCLE
    gathered = tile.rows * problem.gathering[0] + tile.columns * problem.gathering[1]
    issue = gathered * terms / ISSUED_A_CYCLE
    slowest = max(arithmetic, shared, memory, issue)
    # What could go on at the same time never quite does.
    work = slowest + OVERLAP * (arithmetic + shared + memory + issue - slowest)
    if tile.stages == 1:
        step = max(STEP_CYCLES + work, together * work) + 2 * SYNC_CYCLES
    else:
        step = max(STEP_CYCLES / (tile.stages - 1), together * work) + SYNC_CYCLES
    ending = START_CYCLES + 60.0 * (tile.slices - 1) * tile.sums / MEETING_SUMS
    rounds = -(-mine // together)
    return rounds * (ending + steps * step)


@lru_cache(maxsize=1024)
def choose_tile(problem: Problem, gpu: Gpu) -> Tile:
    """The tile with the fewest estimated cycles.

    >>> from alt.cuda.gpu import gpu_of
    >>> hopper = gpu_of({"kind": "cuda", "arch": "sm_90"})
    >>> large = choose_tile(Problem(1, 4096, 4096, 4096), hopper)
    >>> large.rows, large.columns, large.stages, large.slices
    (128, 256, 2, 1)
    """
    fitting = [t for t in every_tile(problem) if not t.refusal(problem.precision, gpu)]
    return min(fitting, key=lambda t: (cycles_of(t, problem, gpu), t.threads, t.depth))


def decide_tile(choose: Choose, problem: Problem, gpu: Gpu) -> Tile:
    """The tile that is asked for; `choose_tile` gives the one that needs no measuring.

    Raises:
        Infeasible: if it does not fit.
    """
    default, precision = choose_tile(problem, gpu), problem.precision
    chosen = Tile(
        choose.one_of("warp_rows", WARP_ROWS[precision], default.warp_rows),
        choose.one_of("warp_columns", WARP_COLUMNS[precision], default.warp_columns),
        choose.one_of("warps_down", WARPS, default.down),
        choose.one_of("warps_across", WARPS, default.across),
        choose.one_of("depth", DEPTHS[precision], default.depth),
        choose.one_of("stages", stages_of(problem), default.stages),
        choose.one_of("slices", SLICES, default.slices),
    )
    refusal = chosen.refusal(precision, gpu)
    if refusal is not None:
        raise Infeasible(f"{chosen}: {refusal}")
    return chosen
