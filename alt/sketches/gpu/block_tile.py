"""Tiles of a product in shared memory and registers: which there are, and the best by estimate.

A block computes a tile of results, `places` x `channels`; a thread has a part of it in registers.
The operands are staged in shared memory, `depth` steps of the reduction at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod

from alt.cuda.gpu import Gpu
from tuner.choices import Choose

VECTOR = 4
"""Floats that a thread reads from shared memory at once."""

SIZES: dict[str, tuple[int, ...]] = {
    "places": (16, 32, 64, 128),
    "channels": (4, 8, 16, 32, 64, 128),
    "thread_places": (2, 4, 8),
    "thread_channels": (1, 2, 4, 8),
    "depth": (8, 16, 32, 64, 128),
    "parts": (1, 2, 4, 8, 16),
}
"""What a tile is made of, in the order in which it is decided."""

LATENCY = 700.0
"""Cycles until what is read from the second-level cache or from memory arrives."""

CORE_BYTES, ALL_BYTES = 64.0, 3000.0
"""Bytes a cycle from the second-level cache: to one multiprocessor, and to all of an H100."""

BARRIER = 60.0
"""Cycles for a barrier and the first reads behind it."""

STAGE = 25.0
"""Instructions of a stage that are neither for its results nor for its operands, by what nvcc makes
of them; as are all that follow."""

FURTHER = 8.0
"""Instructions more where a stage is not always one of two."""

ALONE, SIDE_BY_SIDE = 3.0, 0.75
"""Instructions that bring an element to shared memory: a copy, which reaches no further than 2048
bytes, so that it mostly has an address of its own; and if four lie side by side."""

AHEAD = (0, 1, 2, 3)
"""Stages that are copied ahead of the one that is multiplied."""

COPIES = 80
"""The compute capability from which on threads copy to shared memory without waiting."""

OTHER_REGISTERS = 40
"""Registers for addresses and indices, by what ptxas reports."""


@dataclass(frozen=True)
class Tile:
    """How a block and its threads share a tile of results.

    Attributes:
        places: rows of the tile; places of an image for a convolution.
        channels: its columns; output channels.
        thread_places: rows in the registers of one thread.
        thread_channels: columns likewise.
        depth: steps of the reduction that are staged at a time.
        parts: groups of threads that share the steps of a stage; their sums are added at the end.
    """

    places: int
    channels: int
    thread_places: int
    thread_channels: int
    depth: int
    parts: int

    @property
    def down(self) -> int:
        """Threads along the rows."""
        return self.places // self.thread_places

    @property
    def across(self) -> int:
        """Threads along the columns."""
        return self.channels // self.thread_channels

    @property
    def team(self) -> int:
        """Threads of one part."""
        return self.down * self.across

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.team * self.parts

    @property
    def stage(self) -> int:
        """Floats of one stage: the rows, then the columns."""
        return self.depth * (self.places + self.channels)

    def shared_floats(self, stages: int = 2) -> int:
        """Some stages; or, when all is summed, what the parts tell each other."""
        told = self.parts * self.places * self.channels if self.parts > 1 else 0
        return max(stages * self.stage, told)

    def registers(self, copied: bool) -> int:
        """Registers of a thread, about; fewer if what it stages is copied past them."""
        results = self.thread_places * self.thread_channels
        staged = 0 if copied else -(-self.stage // self.threads)
        return results + self.thread_places + self.thread_channels + staged + OTHER_REGISTERS

    @property
    def numbers(self) -> list[int]:
        """The fields, for the report."""
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(frozen=True)
class Work:
    """What is to be tiled.

    Attributes:
        places: rows of results.
        channels: columns.
        steps: length of the reduction.
        groups: independent products.
        found: instructions that bring an element of the rows to shared memory.
    """

    places: int
    channels: int
    steps: int
    groups: int = 1
    found: float = ALONE


def _fits(tile: Tile, registers: int, core_registers: int, shared_bytes: int, copied: bool) -> bool:
    t = tile
    if t.places % t.thread_places or t.channels % t.thread_channels or t.depth % t.parts:
        return False
    # Whole warps. Eight threads read vectors from shared memory at once: they have the same part.
    if t.team < 8 or t.threads % 32:
        return False
    # Every thread stages elements of one row.
    if not t.places <= t.threads <= 512:
        return False
    # More registers than a thread has for what it stages would go to memory.
    if -(-t.stage // t.threads) > 32 or 4 * t.shared_floats() > shared_bytes:
        return False
    held = t.registers(copied)
    return held <= registers and held * t.threads <= core_registers


@lru_cache(maxsize=8)
def _tiles(
    registers: int, core_registers: int, shared_bytes: int, copied: bool
) -> tuple[Tile, ...]:
    found: list[Tile] = []

    def extend(chosen: tuple[int, ...]) -> None:
        if len(chosen) < len(SIZES):
            for size in tuple(SIZES.values())[len(chosen)]:
                extend((*chosen, size))
            return
        tile = Tile(*chosen)
        if _fits(tile, registers, core_registers, shared_bytes, copied):
            found.append(tile)

    extend(())
    return tuple(found)


def tiles_for(work: Work, gpu: Gpu) -> list[Tile]:
    """The tiles that fit a GPU and are not much larger than the work in any direction."""

    def useful(size: int, extent: int, name: str) -> bool:
        return size < 2 * extent or size == min(SIZES[name])

    return [
        t
        for t in _tiles(gpu.registers, gpu.core_registers, gpu.shared_bytes, copies(gpu))
        if useful(t.places, work.places, "places")
        # A tile of few channels needs many places, and a warp of both has enough of them.
        and useful(t.channels, work.channels, "channels")
        and useful(t.depth, work.steps, "depth")
    ]


def copies(gpu: Gpu) -> bool:
    """Whether threads copy to shared memory without waiting."""
    return gpu.capability >= COPIES


def _together(tile: Tile, gpu: Gpu, ahead: int) -> int:
    """How many blocks a multiprocessor holds, if so many stages are copied ahead."""
    return min(
        gpu.core_threads // tile.threads,
        gpu.core_registers // (tile.registers(copies(gpu)) * tile.threads),
        gpu.l1_bytes // (4 * tile.shared_floats(ahead + 1) + 1024),
    )


def _blocks(tile: Tile, work: Work) -> int:
    return prod((-(-work.places // tile.places), -(-work.channels // tile.channels), work.groups))


def most_ahead(tile: Tile, gpu: Gpu) -> int:
    """How many stages may be copied ahead of the one that is multiplied; 0 if none can."""
    if not copies(gpu):
        return 0
    return max(a for a in AHEAD if a < 2 or 4 * tile.shared_floats(a + 1) <= gpu.shared_bytes)


def decide_ahead(tile: Tile, work: Work, gpu: Gpu) -> int:
    """How many stages are best copied ahead."""
    options = range(1, min(2, most_ahead(tile, gpu)) + 1)
    return min(options, key=lambda a: _cycles(tile, work, gpu, a), default=1)


def estimate_cycles(tile: Tile, work: Work, gpu: Gpu) -> float:
    """Cycles until the last multiprocessor is done.

    What limits a stage is the largest of: instructions issued, reads from shared memory, the serial
    work of one warp, and the latency of the next stages' loads. Over all, the bytes that come from
    the second-level cache take their time, too. Constants are from data sheets and from code, not
    from timings.

    Args:
        tile: how the work is cut.
        work: what is computed.
        gpu: where.
    """
    return _cycles(tile, work, gpu, decide_ahead(tile, work, gpu))


def _cycles(tile: Tile, work: Work, gpu: Gpu, ahead: int) -> float:
    t = tile
    blocks = _blocks(tile, work)
    stages = -(-work.steps // t.depth)
    a_core = -(-blocks // gpu.cores)
    together = max(1, min(a_core, _together(tile, gpu, ahead)))
    results, read = t.thread_places * t.thread_channels, t.thread_places + t.thread_channels
    vectors = -(-t.thread_places // VECTOR) + -(-t.thread_channels // VECTOR)
    own_steps = t.depth // t.parts
    brought = t.depth * (t.places * work.found + t.channels * SIDE_BY_SIDE) / t.threads
    brought += STAGE + FURTHER * (ahead - 1)
    issued = own_steps * (results + vectors) + brought
    warps = t.threads / 32
    issue = issued * warps / 4
    shared = (0.75 * own_steps * read + 2 * t.stage / t.threads) * warps
    busy = max(issue, shared) + 0.3 * min(issue, shared)
    serial = own_steps * (results + read) * 1.1 + brought

    def wave(count: int) -> float:
        return stages * (max(busy * count, serial, LATENCY / ahead) + BARRIER)

    whole, rest = divmod(a_core, together)
    cycles = whole * wave(together) + (wave(rest) if rest else 0.0)
    active = min(blocks, gpu.cores)
    bytes_a_cycle = min(CORE_BYTES, ALL_BYTES * gpu.cores / 132 / active)
    moved = a_core * stages * 4.0 * t.stage / bytes_a_cycle
    waves = -(-a_core // together)
    told = t.parts if t.parts > 1 else 0
    end = waves * (LATENCY + together * t.places * t.channels / 16 * (1 + told))
    return max(cycles, moved) + 0.2 * min(cycles, moved) + end


@lru_cache(maxsize=1024)
def _ranked(work: Work, gpu: Gpu) -> tuple[Tile, ...]:
    return tuple(sorted(tiles_for(work, gpu), key=lambda t: estimate_cycles(t, work, gpu)))


def least_cycles(work: Work, gpu: Gpu) -> float:
    """What the tile with the best estimate takes."""
    return estimate_cycles(_ranked(work, gpu)[0], work, gpu)


def decide_tile(choose: Choose, work: Work, gpu: Gpu) -> Tile:
    """The tile that is asked for; by default the one with the best estimate.

    Every question offers only sizes that some tile has which agrees with the answers before it, and
    the default is that of the best one, so that no answers lead to a dead end.
    """
    left = _ranked(work, gpu)
    for name in SIZES:
        options = tuple(sorted({getattr(t, name) for t in left}))
        size = choose.one_of(name, options, getattr(left[0], name))
        left = tuple(t for t in left if getattr(t, name) == size)
    return left[0]
