"""How the threads of a block share a product with few rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from alt.cuda.gpu import Gpu
from alt.sketches.gpu.product import Product
from tuner.choices import Choose, Infeasible

COLUMNS = (1, 2, 4, 8, 16, 32)
THREADS = (32, 64, 128, 256, 512)
UNROLL = (1, 2, 4, 8)

SECTOR = 8
"""Neighbours in memory that are read together in any case: 32 bytes of float32."""


@dataclass(frozen=True)
class Split:
    """How the threads of a block share a product.

    Attributes:
        across: threads beside each other, with other columns; the rest share the terms of the sums
            out among them.
        threads: of a block.
        wide: columns of a thread.
        deep: terms that a thread reads at once.
        unroll: how often it reads before it has to wait.
    """

    across: int
    threads: int
    wide: int
    deep: int
    unroll: int

    @property
    def columns(self) -> int:
        """Of a block."""
        return self.across * self.wide

    @property
    def slices(self) -> int:
        """Threads that share the terms of a sum."""
        return self.threads // self.across

    def meeting(self, rows: int, warp: int) -> int:
        """Sums that warps tell each other."""
        return self.threads // warp * rows * self.columns


def decide_split(choose: Choose, product: Product, gpu: Gpu) -> Split:
    """The split that is asked for; by rule, enough blocks, whose threads have enough to read.

    Raises:
        Infeasible: if what threads tell each other does not fit into shared memory.
    """
    right = product.right
    in_rows = right.along == "outer"
    count = prod(product.batch)
    lanes = right.lanes
    # Threads side by side read what lies side by side, at best 128 bytes of it.
    across = 32 // lanes if in_rows else 1
    while across * lanes > SECTOR and count * -(-product.columns // (across * lanes)) < gpu.cores:
        across //= 2
    wide = lanes if in_rows else min(4, max(1, count * product.columns // (4 * gpu.cores)))
    wide = 1 << (wide.bit_length() - 1)
    deep = 1 if in_rows else lanes
    threads = 256
    while threads > 32 and threads // across * deep * 2 > product.depth:
        threads //= 2
    chosen = Split(
        choose.one_of("across", COLUMNS, across) if in_rows else 1,
        choose.one_of("threads", THREADS, threads),
        wide if in_rows else choose.one_of("columns", (1, 2, 4), wide),
        deep,
        choose.one_of("unroll", UNROLL, 4),
    )
    room = chosen.meeting(product.rows, gpu.warp) * 4
    if room > gpu.shared_bytes:
        raise Infeasible(f"{chosen}: {room} bytes of shared memory for {gpu.shared_bytes}")
    return chosen
