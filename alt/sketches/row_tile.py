"""A register tile of a convolution over rows: output channels by vectors of positions.

A vector of input positions is multiplied by one weight, broadcast. Weights that are known at
compile time are laid out as [G][O tile][I][taps][O in tile].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from alt.elementary import Emitter, Expr
from alt.graph import Node
from alt.operators import linear
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from alt.sketches.windows import Phase, geometry, has_packed_weights, taps_of_phase
from primitives import Layout
from primitives.tensorir import tirx

Position = Callable[[Expr], list[Expr]]
"""Where along the spatial axes a column is."""

Read = Callable[[Expr, tuple[Expr, ...], Expr], Expr]
"""The input for a channel, a tap and a column."""


class RowTile:
    """Computes tiles of one phase.

    Attributes:
        lanes: positions in a vector.
        many: output channels of a tile.
        vectors: of positions, of a tile.
        tiles: how many tiles the channels of a group take.
        acc: the registers, to be allocated around.
    """

    def __init__(
        self, scope: Scope, node: Node, phase: Phase, width: int, prefix: str, least: int = 0
    ) -> None:
        """Asks for the size of the tile.

        Args:
            scope: of the kernel.
            node: the convolution.
            phase: which part of it.
            width: positions next to each other.
            prefix: goes before the names of the decisions.
            least: positions next to each other where there are fewest; `width` for 0.
        """
        self._scope, self._node, self._phase = scope, node, phase
        _, channels, outputs = geometry(node)
        taps = prod(phase.taps)
        machine = scope.machine
        self.lanes = min(machine.lanes(), least or width)
        runs = -(-width // self.lanes)
        default = choose_tile(
            1, outputs, runs, machine.registers, outputs * channels * taps * 4, machine.l1_bytes
        )
        tile = decide_tile(scope.choose, 1, outputs, runs, machine.registers, default, prefix)
        self.many, self.vectors = tile.columns, tile.vectors
        self.tiles = -(-outputs // self.many)
        scope.notes["tile"], scope.notes["run"] = [1, self.many, self.vectors], width
        self._weight = self._packed() if taps and has_packed_weights(node) else self._unpacked
        self.acc = scope.local(self.many * self.vectors * self.lanes)

    def over(self, width: int, compute: Callable[[Sequence[Expr]], Stmt]) -> Stmt:
        """Tiles over so many positions next to each other.

        Args:
            width: at least `lanes`.
            compute: a tile whose vectors begin at the positions given.
        """
        step = self.vectors * self.lanes
        whole = width // step
        parts: list[Stmt] = []
        if whole:
            parts.append(
                self._scope.loop(
                    whole,
                    lambda c: compute([c * step + v * self.lanes for v in range(self.vectors)]),
                )
            )
        # What is left ends flush with the row: it computes some columns twice rather than beyond.
        rest = range(whole * step, width, self.lanes)
        if rest:
            parts.append(compute([i32(min(start, width - self.lanes)) for start in rest]))
        return seq(*parts)

    def tile(
        self,
        n: Expr,
        g: Expr,
        o: Expr,
        starts: Sequence[Expr],
        position: Position,
        read: Read,
    ) -> Stmt:
        """One tile.

        Args:
            n: the image.
            g: the group.
            o: which tile of its output channels.
            starts: the columns where its vectors begin.
            position: of a column.
            read: the input.
        """
        scope, node, phase = self._scope, self._node, self._phase
        _, channels, outputs = geometry(node)
        many, vectors, lanes, acc = self.many, self.vectors, self.lanes, self.acc

        def each(count: int, body: Callable[[Expr, int, Expr], Stmt]) -> Stmt:
            return scope.loop(
                count,
                lambda c: seq(
                    *(
                        scope.loop(lanes, lambda k, v=v: body(c, v, k), VECTORIZED)
                        for v in range(len(starts))
                    )
                ),
                UNROLLED,
            )

        def cell(c: Expr, v: int, k: Expr) -> Expr:
            return (c * vectors + v) * lanes + k

        def step(channel: Expr, *taps: Expr) -> Stmt:
            def fma(c: Expr, v: int, k: Expr) -> Stmt:
                value = read(channel, taps, starts[v] + k)
                here = [cell(c, v, k)]
                factor = self._weight(g, o * many + c, channel, taps)
                total = tirx.BufferLoad(acc, here) + value * factor
                return tirx.BufferStore(acc, total, here)

            return each(many, fma)

        def finish(c: Expr, v: int, k: Expr) -> Stmt:
            emit = Emitter()
            spatial = [
                f + s * q
                for f, s, q in zip(phase.first, phase.step, position(starts[v] + k), strict=True)
            ]
            indices = [n, g * outputs + o * many + c, *spatial]
            indices = [scope.analyzer.simplify(i) for i in indices]
            result = tirx.BufferLoad(acc, [cell(c, v, k)])
            value = scope.evaluate(scope.kernel.output, indices, emit, {node.output: result})
            return seq(*emit.statements, scope.store(indices, value))

        zero = each(many, lambda *p: tirx.BufferStore(acc, tirx.const(0.0, "float32"), [cell(*p)]))
        reduce = scope.nest([channels, *phase.taps], step) if prod(phase.taps) else None
        whole, left = divmod(outputs, many)
        ending = each(many, finish)
        if left:
            ending = (
                tirx.IfThenElse(o < whole, ending, each(left, finish))
                if whole
                else each(left, finish)
            )
        return seq(zero, reduce, ending)

    def _packed(self) -> Callable[[Expr, Expr, Expr, tuple[Expr, ...]], Expr]:
        scope, node, phase = self._scope, self._node, self._phase
        groups, channels, outputs = geometry(node)
        layout = Layout.identity((groups, outputs, channels, prod(phase.taps)))
        layout = layout.pad(1, 0, -outputs % self.many)
        layout = layout.split(1, (-1, self.many)).reorder((0, 1, 3, 4, 2))
        name = f"{node.op}{groups},{phase.kernel_first},{phase.kernel_step},{phase.taps}"
        prepare = (name, lambda w: taps_of_phase(node, phase, w))
        weights = scope.buffer(node.inputs[1], layout, prepare)

        def weight(g: Expr, output: Expr, channel: Expr, taps: tuple[Expr, ...]) -> Expr:
            where = scope.address(layout, [g, output, channel, linear(taps, phase.taps)])
            return tirx.BufferLoad(weights, [where])

        return weight

    def _unpacked(self, g: Expr, output: Expr, channel: Expr, taps: tuple[Expr, ...]) -> Expr:
        scope, node, phase = self._scope, self._node, self._phase
        _, channels, outputs = geometry(node)
        if outputs % self.many:
            output = tirx.min(output, i32(outputs - 1))
        at = [
            f + tap * s
            for f, tap, s in zip(phase.kernel_first, taps, phase.kernel_step, strict=True)
        ]
        if node.op == "conv_transpose":
            return scope.load(node.inputs[1], [g * channels + channel, output, *at])
        return scope.load(node.inputs[1], [g * outputs + output, channel, *at])
