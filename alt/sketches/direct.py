"""Convolutions over row-major tensors, vectors along the last spatial axis.

For groups whose channels do not fill vectors, where blocks of channels would straddle groups, and
for weights that are only known at run time. A pointwise convolution sees its image as one long row;
with a stride, every core first copies the positions that its share needs next to each other, and
without one it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from alt.elementary import Expr
from alt.graph import Node
from alt.operators import delinear
from alt.sketches.border import fill_rows_border
from alt.sketches.row_tile import RowTile
from alt.sketches.scope import Scope, Stmt, allocate, i32, seq
from alt.sketches.windows import Phase, geometry, phases
from primitives.tensorir import tirx
from tuner.choices import Infeasible

PANEL_BYTES = 4 << 20
"""A core copies no more at once; where a row of the output needs more, nothing is copied."""


def direct_convolution(scope: Scope) -> Stmt:
    """Every output channel of a group over a run of positions, weights broadcast."""
    node = scope.kernel.anchor
    assert node is not None
    return seq(
        fill_rows_border(scope),
        *(_phase(scope, node, phase, k) for k, phase in enumerate(phases(node))),
    )


def _phase(scope: Scope, node: Node, phase: Phase, number: int) -> Stmt:
    if not prod(phase.count):
        return seq()
    prefix = f"phase{number}." if number else ""
    _, channels, _ = geometry(node)
    if _is_pointwise(scope, phase) and channels * phase.count[-1] * 4 <= PANEL_BYTES:
        strided = any(stride > 1 for stride in phase.stride)
        if scope.choose.one_of(f"{prefix}panels", (False, True), strided):
            return _by_panels(scope, node, phase, prefix)
    return _in_place(scope, node, phase, prefix)


def _is_pointwise(scope: Scope, phase: Phase) -> bool:
    """Whether a position needs one of the input, and the output has its positions in one row."""
    ones = (1,) * len(phase.taps)
    plain = phase.taps == phase.step == ones and not any(phase.offset)
    return plain and not scope.output_layout.has_padding


def _in_place(scope: Scope, node: Node, phase: Phase, prefix: str) -> Stmt:
    """Reads the input where it is; a task is a tile of channels over a row."""
    x = node.inputs[0]
    groups, channels, _ = geometry(node)
    flat = (
        _is_pointwise(scope, phase)
        and all(stride == 1 for stride in phase.stride)
        and not scope.layout(x).has_padding
    )
    outer, width = ([], prod(phase.count)) if flat else (list(phase.count[:-1]), phase.count[-1])
    tile = RowTile(scope, node, phase, width, prefix)

    def task(n: Expr, g: Expr, o: Expr, *above: Expr) -> Stmt:
        def position(column: Expr) -> list[Expr]:
            return delinear(column, phase.count) if flat else [*above, column]

        def read(channel: Expr, taps: tuple[Expr, ...], column: Expr) -> Expr:
            at = [
                q * s + one * d + off
                for q, s, one, d, off in zip(
                    position(column), phase.stride, taps, phase.dilation, phase.offset, strict=True
                )
            ]
            return scope.load(x, [n, g * channels + channel, *at])

        body = tile.over(width, lambda starts: tile.tile(n, g, o, starts, position, read))
        return allocate(tile.acc, body)

    return scope.parallel([x.shape[0], groups, tile.tiles, *outer], task)


def _by_panels(scope: Scope, node: Node, phase: Phase, prefix: str) -> Stmt:
    """A task copies what a few rows of the output need, and computes a share of their channels."""
    x, machine = node.inputs[0], scope.machine
    groups, channels, outputs = geometry(node)
    *upper, width = phase.count
    height = prod(upper)
    lanes = machine.lanes()
    images = x.shape[0] * groups
    default, shares = choose_panel(
        images, channels, outputs, height, width, lanes, machine.cores, machine.l1_bytes
    )
    most = PANEL_BYTES // max(channels * width * 4, 1)
    rows = scope.choose.tile(f"{prefix}panel", height, default, at_most=most)
    whole, left = divmod(height, rows)
    if rows != default and left and left * width < min(lanes, rows * width):
        raise Infeasible(f"panels of {rows} rows: the last one does not fill a vector")
    tile = RowTile(scope, node, phase, rows * width, prefix, (left or rows) * width)
    share = -(-tile.tiles // min(shares, tile.tiles))
    share = scope.choose.tile(f"{prefix}share", tile.tiles, share)
    # What is walked through again and again had better be small.
    by_columns = outputs * tile.vectors * tile.lanes < rows * width * tile.many
    orders = ("columns", "channels")
    outermost = scope.choose.one_of(f"{prefix}outermost", orders, orders[not by_columns])
    panel = tirx.decl_buffer((max(channels * rows * width, 1),), x.dtype, "panel")
    scope.notes["order"], scope.notes["panel_bytes"] = outermost, channels * rows * width * 4

    def task(n: Expr, g: Expr, r: Expr, s: Expr) -> Stmt:
        def of(first: Expr, count: int) -> Stmt:
            columns = count * width

            def copy(channel: Expr, row: Expr, column: Expr) -> Stmt:
                position = [*delinear(first + row, upper), column]
                at = [q * stride for q, stride in zip(position, phase.stride, strict=True)]
                value = scope.load(x, [n, g * channels + channel, *at])
                return tirx.BufferStore(panel, value, [channel * columns + row * width + column])

            def compute(o: Expr, starts: Sequence[Expr]) -> Stmt:
                return tile.tile(
                    n,
                    g,
                    o,
                    starts,
                    lambda column: delinear(first * width + column, phase.count),
                    lambda channel, _, column: tirx.BufferLoad(panel, [channel * columns + column]),
                )

            def every_share(body: Stmt, o: Expr) -> Stmt:
                uneven = tile.tiles % share
                return scope.when(o < tile.tiles, body) or seq() if uneven else body

            def channels_of(starts: Sequence[Expr]) -> Stmt:
                return scope.loop(
                    share, lambda i: every_share(compute(s * share + i, starts), s * share + i)
                )

            def columns_of(o: Expr) -> Stmt:
                return every_share(tile.over(columns, lambda starts: compute(o, starts)), o)

            return seq(
                scope.nest([channels, count, width], copy),
                tile.over(columns, channels_of)
                if outermost == "columns"
                else scope.loop(share, lambda i: columns_of(s * share + i)),
            )

        if not left:
            body = of(r * rows, rows)
        else:
            body = tirx.IfThenElse(r < whole, of(r * rows, rows), of(i32(whole * rows), left))
        return seq(tirx.AllocBuffer(panel), allocate(tile.acc, body))

    tasks = [x.shape[0], groups, whole + (left > 0), -(-tile.tiles // share)]
    return scope.parallel(tasks, task)


@lru_cache(maxsize=4096)
def choose_panel(
    images: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    lanes: int,
    cores: int,
    panel_bytes: int,
) -> tuple[int, int]:
    """How many rows of the output a task has, and among how many tasks their channels are shared.

    Those for which copying, a cycle an element, and products, a cycle a vector, take least.
    """
    best: tuple[float, int, int] | None = None
    for rows in range(1, height + 1):
        if rows > 1 and channels * rows * width * 4 > panel_bytes:
            break
        left = height % rows or rows
        vector = min(lanes, left * width)
        for shares in range(1, min(cores, outputs) + 1):
            rounds = -(-images * -(-height // rows) * shares // cores)
            products = -(-outputs // shares) * -(-rows * width // vector)
            cycles = float(rounds * channels * (rows * width + products))
            if best is None or cycles < best[0]:
                best = (cycles, rows, shares)
    assert best is not None
    return best[1], best[2]
