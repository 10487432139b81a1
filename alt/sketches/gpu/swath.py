"""In which order the blocks of a matrix product take their tiles."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from tuner.choices import Choose


@dataclass(frozen=True)
class Blocks:
    """In which order blocks take their tiles.

    Attributes:
        batch: extents of the batch.
        down: tiles below each other.
        across: tiles beside each other.
        swath: rows of tiles that are done column by column, so that what runs at a time reads few
            rows and few columns; it divides `down`.
    """

    batch: tuple[int, ...]
    down: int
    across: int
    swath: int

    @property
    def count(self) -> int:
        """All of them."""
        return prod(self.batch) * self.down * self.across

    @property
    def extents(self) -> tuple[int, ...]:
        """What a block's number falls apart into: batch, swath, column of tiles, row in it."""
        return (*self.batch, self.down // self.swath, self.across, self.swath)


def decide_blocks(choose: Choose, batch: tuple[int, ...], down: int, across: int) -> Blocks:
    """The order that is asked for."""
    options = tuple(sorted({gcd(down, size) for size in (1, 2, 4, 8, 16)}))
    default = max(size for size in options if size <= 8)
    return Blocks(batch, down, across, choose.one_of("swath", options, default))
