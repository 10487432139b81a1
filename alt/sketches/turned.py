"""From blocks of channels to rows: elementwise kernels that read pieces of a block many times.

A row takes one lane of each vector of channels. All rows of a block are written while the piece of
it that they come from is in the first-level cache: three times as fast as row by row. Vectors that
are turned in registers, by interleaving pairs of them, were slower (November 2026, AVX-512).
"""

from __future__ import annotations

from math import prod

import numpy as np

from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.operators import delinear, linear
from alt.sketches.row import spread
from alt.sketches.scope import VECTORIZED, Scope, Stmt, i32, seq
from alt.storage import block_of, border_of, channels_blocked
from primitives import Layout


def rows_of_blocks(scope: Scope) -> Stmt | None:
    """The kernel, if it writes rows and reads blocks, element by element; None for others.

    It may reshape: rows are numbered alike in either shape. Rows shorter than a vector are others'.
    """
    output, machine = scope.kernel.output, scope.machine
    plain = all(node.op == "map" or node.name == "reshape" for node in scope.kernel.nodes)
    blocked = [v for v in scope.kernel.inputs if _is_blocked(scope, v)]
    if not (plain and blocked) or scope.output_layout != Layout.identity(output.shape):
        return None
    source, lanes = blocked[0], machine.lanes()
    batch, channels, *spatial = source.shape
    block = block_of(scope.layout(source))
    # What lies behind the end of a row is a border, or the next row.
    above = spatial[:-1] if any(map(any, border_of(scope.layout(source)))) else []
    inner = spatial[len(above) :]
    positions = prod(inner)
    runs = positions // lanes
    if not runs:
        return None
    # All that is read of a piece is to stay, and a little else; and every core is to have some.
    read = sum(block_of(scope.layout(v)) * np.dtype(v.dtype).itemsize for v in blocked)
    others = batch * -(-channels // block) * prod(above)
    enough = 4 * machine.cores
    pieces = max(-(-runs * lanes * read // (machine.l1_bytes // 2)), -(-enough // others))
    piece = -(-runs // min(pieces, runs))
    pieces = -(-runs // piece)
    shares = 1
    while others * pieces * shares < enough and block % (2 * shares) == 0:
        shares *= 2

    def task(n: Expr, group: Expr, *at: Expr) -> Stmt:
        *upper, number, share = at

        def row(inside: Expr) -> Stmt:
            channel = group * block + share * (block // shares) + inside

            def cell(position: Expr) -> Stmt:
                emit = Emitter()
                indices = [n, channel, *upper, *delinear(position, inner)]
                if output.shape != source.shape:
                    indices = delinear(linear(indices, source.shape), output.shape)
                indices = [scope.analyzer.simplify(i) for i in indices]
                value = scope.evaluate(output, indices, emit)
                return seq(*emit.statements, scope.store(indices, value))

            def run(r: Expr) -> Stmt:
                start = number * piece + r
                body = scope.loop(lanes, lambda k: cell(start * lanes + k), VECTORIZED)
                return scope.when(start < runs, body) or seq() if runs % piece else body

            rest = positions % lanes
            body = seq(
                scope.loop(piece, run, name="r"),
                scope.when(
                    number.equal(i32(pieces - 1)),
                    scope.loop(rest, lambda k: cell(runs * lanes + k)),
                )
                if rest
                else None,
            )
            return scope.when(channel < channels, body) or seq() if channels % block else body

        return scope.loop(block // shares, row, name="c")

    tasks = [batch, -(-channels // block), *above, pieces, shares]
    return spread(scope, tasks, output.size, task)


def _is_blocked(scope: Scope, value: Value) -> bool:
    if value in scope.constants or value.size != scope.kernel.output.size or not value.size:
        return False
    layout = scope.layout(value)
    block = block_of(layout)
    return block > 1 and layout == channels_blocked(value.shape, block, border_of(layout))
