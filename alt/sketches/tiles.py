"""Register tiles: how many results a core keeps in registers through a reduction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tuner.choices import Choose, Infeasible


@dataclass(frozen=True)
class Tile:
    """Outputs that one core keeps in registers: rows x columns x vectors of channels."""

    rows: int
    columns: int
    vectors: int


@lru_cache(maxsize=4096)
def choose_tile(
    rows: int,
    columns: int,
    vectors: int,
    registers: int,
    panel_bytes: int,
    l1_bytes: int,
    most_positions: int = 32,
) -> Tile:
    """The register tile with the fewest estimated cycles for one image of outputs.

    A step of the reduction takes one multiply-add an accumulator, a load for each vector of weights
    and a broadcast for each output position; at least eight multiply-adds are needed to hide their
    latency. Weights that do not stay in the first-level cache load at half speed.
    """
    weight_load = 1.0 if panel_bytes <= l1_bytes // 2 else 2.0
    best: tuple[float, Tile] | None = None
    for v in range(1, min(vectors, 6) + 1):
        if vectors % v:
            continue
        budget = max(1, min((registers - v - 1) // v, most_positions))
        for r in range(1, min(rows, budget, 8) + 1):
            for c in widths_of(columns, budget // r):
                cycles = 0.0
                for height, times_r in _pieces(rows, r):
                    for width, times_c in _pieces(columns, c):
                        positions = height * width
                        step = max(positions * v, 0.5 * positions + weight_load * v, 8.0)
                        cycles += times_r * times_c * step
                # Per vector of output channels, with a slight preference for few loads.
                loads = (0.5 * r * c + weight_load * v) / (r * c * v)
                score = cycles / v * (1.0 + 0.05 * loads)
                if best is None or score < best[0] - 1e-9:
                    best = (score, Tile(r, c, v))
    assert best is not None
    return best[1]


def decide_tile(
    choose: Choose,
    rows: int,
    columns: int,
    vectors: int,
    registers: int,
    default: Tile,
    prefix: str = "",
) -> Tile:
    """The register tile that is asked for; `default` is the answer of `choose_tile`.

    Args:
        choose: who decides.
        rows: extents of the outputs, as given to `choose_tile`.
        columns: likewise.
        vectors: likewise.
        registers: vector registers of the machine.
        default: the tile that needs no measuring.
        prefix: goes before the names of the decisions.

    Raises:
        Infeasible: if the accumulators alone do not fit in the registers.
    """
    deep = tuple(v for v in range(1, min(vectors, 6) + 1) if vectors % v == 0)
    chosen = Tile(
        vectors=choose.one_of(f"{prefix}vectors", deep, default.vectors),
        rows=choose.tile(f"{prefix}rows", rows, default.rows, at_most=8) if rows > 1 else 1,
        columns=choose.tile(f"{prefix}columns", columns, default.columns, at_most=32),
    )
    accumulators = chosen.rows * chosen.columns * chosen.vectors
    if accumulators >= registers and chosen != default:
        raise Infeasible(f"{chosen}: {accumulators} accumulators for {registers} registers")
    return chosen


def widths_of(columns: int, limit: int) -> list[int]:
    """Tile widths worth trying: those that cut the row evenly, or nearly so."""
    limit = min(columns, limit)
    found = {-(-columns // n) for n in range(1, columns + 1) if -(-columns // n) <= limit}
    return sorted(found | ({limit} if limit else set()), reverse=True)


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the pieces an extent is cut into."""
    whole, rest = divmod(extent, size)
    return [p for p in ((size, whole), (rest, 1 if rest else 0)) if p[1]]
