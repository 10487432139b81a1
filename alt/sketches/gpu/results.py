"""The results of a block: multiplied in registers, summed over its parts, written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from alt.elementary import Emitter, Expr, f32
from alt.graph import Node, Value
from alt.operators import delinear
from alt.sketches.gpu.block_tile import VECTOR, Tile
from alt.sketches.gpu.channels import finish_channels, writes_channels
from alt.sketches.gpu.elementwise import VECTOR_DTYPES, read_in_place
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, seq
from alt.sketches.windows import Phase, geometry
from primitives.tensorir import tirx


class Results:
    """The tile of one block of a convolution.

    A thread has places `tm * lanes`, ... in vectors that lie a block's width apart, and channels
    likewise: what neighbours read from shared memory and write to memory is then contiguous. The
    threads of a warp form a rectangle, 8 x 4 where there are enough, so that they share what they
    read.

    Args:
        scope: the kernel.
        node: the convolution.
        phase: which part of it.
        tile: its tiles.
        thread: which thread of the block this is.
        shared: the array that holds two stages, and later what the parts tell each other.
    """

    def __init__(
        self, scope: GpuScope, node: Node, phase: Phase, tile: Tile, thread: Expr, shared: Any
    ) -> None:
        self.scope, self.node, self.phase, self.tile = scope, node, phase, tile
        self.shared = shared
        self.lanes = min(VECTOR, tile.thread_places)
        self.columns = min(VECTOR, tile.thread_channels)
        self.vectors = tile.thread_places // self.lanes
        self.acc = scope.local(tile.thread_places * tile.thread_channels)
        across = min(tile.across, 4)
        down = min(tile.down, 32 // across)
        across = 32 // down
        warps = tile.down // down
        number = thread % tile.team
        warp, lane = number // 32, number % 32
        self.number = scope.analyzer.simplify(number)
        self.part = scope.analyzer.simplify(thread // tile.team)
        self.tm = scope.analyzer.simplify(warp % warps * down + lane % down)
        self.tn = scope.analyzer.simplify(warp // warps * across + lane // down)

    def start(self) -> Stmt:
        """Nothing is summed yet."""
        size = self.tile.thread_places * self.tile.thread_channels
        zero = self.scope.loop(
            size, lambda i: tirx.BufferStore(self.acc, f32(0.0), [i]), UNROLLED, "zero"
        )
        return seq(tirx.AllocBuffer(self.acc), zero)

    def multiply(self, begin: Expr) -> Stmt:
        """Add the product of one staged pair of operands.

        Args:
            begin: where it lies in shared memory: [step][place], then [step][channel].
        """
        scope, t = self.scope, self.tile
        left, right = scope.local(t.thread_places, name="left"), scope.local(t.thread_channels)
        own = t.depth // t.parts

        def read(into: Any, start: Expr, lanes: int, mine: Expr, apart: int) -> Stmt:
            def vector(j: Expr) -> Stmt:
                def lane(k: Expr) -> Stmt:
                    value = tirx.BufferLoad(self.shared, [start + j * apart + mine * lanes + k])
                    return tirx.BufferStore(into, value, [j * lanes + k])

                return scope.loop(lanes, lane, VECTORIZED)

            return scope.loop(int(into.shape[0]) // lanes, vector, UNROLLED)

        def add(c: Expr, r: Expr) -> Stmt:
            here = [c * t.thread_places + r]
            term = tirx.BufferLoad(left, [r]) * tirx.BufferLoad(right, [c])
            return tirx.BufferStore(self.acc, tirx.BufferLoad(self.acc, here) + term, here)

        def step(k: Expr) -> Stmt:
            s = self.part * own + k
            rows, columns = begin + s * t.places, begin + t.depth * t.places + s * t.channels
            return seq(
                read(left, rows, self.lanes, self.tm, t.down * self.lanes),
                read(right, columns, self.columns, self.tn, t.across * self.columns),
                scope.nest((t.thread_channels, t.thread_places), add, UNROLLED),
            )

        return seq(
            tirx.AllocBuffer(left),
            tirx.AllocBuffer(right),
            scope.loop(own, step, UNROLLED, "step"),
        )

    # --- the end --------------------------------------------------------------------------------

    def write(self, group: Expr, rows: Expr, columns: Expr) -> Stmt:
        """Write the tile at these numbers of tiles, through the epilogue."""
        t = self.tile
        if t.parts == 1:

            def mine(c: Expr, j: Expr, k: Expr) -> Expr:
                here = c * t.thread_places + j * self.lanes + k
                return tirx.BufferLoad(self.acc, [here])

            return self._columns(group, rows, columns, t.thread_channels, mine)
        own = max(1, t.thread_channels // t.parts)

        def place(part: Expr, c: Expr, j: Expr) -> Expr:
            cell = (part * t.thread_channels + c) * self.vectors + j
            return (cell * t.team + self.number) * self.lanes

        def tell(c: Expr, j: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                here = c * t.thread_places + j * self.lanes + k
                value = tirx.BufferLoad(self.acc, [here])
                return tirx.BufferStore(self.shared, value, [place(self.part, c, j) + k])

            return self.scope.loop(self.lanes, lane, VECTORIZED)

        def total(c: Expr, j: Expr, k: Expr) -> Expr:
            found: Expr | None = None
            for part in range(t.parts):
                where = place(tirx.IntImm("int32", part), self.part * own + c, j) + k
                value = tirx.BufferLoad(self.shared, [where])
                found = value if found is None else found + value
            return found

        made = self._columns(group, rows, columns, own, total)
        if t.parts > t.thread_channels:
            made = _when(self.part < t.thread_channels, made)
        return seq(
            self.scope.nest((t.thread_channels, self.vectors), tell, UNROLLED),
            self.scope.sync(),
            made,
        )

    def _columns(
        self,
        group: Expr,
        rows: Expr,
        columns: Expr,
        own: int,
        total: Callable[[Expr, Expr, Expr], Expr],
    ) -> Stmt:
        """Every vector of places that this thread writes, for its `own` channels of each."""
        scope, t = self.scope, self.tile
        _, _, outputs = geometry(self.node)
        image = prod(self.phase.count)
        places = self.node.output.shape[0] * image
        run = self._run(own)
        # A vector of places may not straddle two images.
        lanes = self.lanes if image % self.lanes == 0 and run == 1 else 1
        whole = places // lanes

        def channel(c: Expr) -> Expr:
            column = c if own == t.thread_channels else self.part * own + c
            inside = column // self.columns * (t.across * self.columns)
            return columns * t.channels + inside + self.tn * self.columns + column % self.columns

        def vector(j: Expr, k: Expr) -> Stmt:
            number = rows * (t.places // self.lanes) + j * t.down + self.tm
            if lanes == 1:
                number = number * self.lanes + k

            def at(n: Expr) -> Stmt:
                return scope.bound(image // lanes, number % (image // lanes), "q", every(n))

            def every(n: Expr) -> Callable[[Expr], Stmt]:
                def of_image(q: Expr) -> Stmt:
                    def one(c: Expr) -> Stmt:
                        o = channel(c)
                        indices = self._indices(n, group * outputs + o, q * lanes)
                        made = self._finish(indices, lanes, lambda i: total(c, j, k + i))
                        return made if outputs % t.channels == 0 else _when(o < outputs, made)

                    def several(v: Expr) -> Stmt:
                        c = v * run
                        o = channel(c)

                        def indices(i: Expr) -> list[Expr]:
                            return self._indices(n, group * outputs + o + i, q)(0)

                        made = finish_channels(
                            scope, self.node, indices, run, lambda i: total(c + i, j, k)
                        )
                        return made if outputs % t.channels == 0 else _when(o < outputs, made)

                    if run > 1:
                        return scope.loop(own // run, several, UNROLLED, "column")
                    return scope.loop(own, one, UNROLLED, "column")

                return of_image

            batch = self.node.output.shape[0]
            made = scope.bound(batch, number // (image // lanes), "n", at)
            return made if places % t.places == 0 else _when(number < whole, made)

        return scope.nest((self.vectors, self.lanes // lanes), vector, UNROLLED)

    def _run(self, own: int) -> int:
        """How many neighbouring channels of a place a thread writes at once."""
        run = min(self.columns, own)
        return run if writes_channels(self.scope, self.node, run) else 1

    def _indices(self, n: Expr, channel: Expr, place: Expr) -> Callable[[Expr], list[Expr]]:
        """The indices of an output, some places on."""

        def on(k: Expr) -> list[Expr]:
            at = delinear(place + k, self.phase.count)
            spatial = zip(self.phase.first, self.phase.step, at, strict=True)
            found = [n, channel, *(f + s * q for f, s, q in spatial)]
            return [self.scope.analyzer.simplify(i) for i in found]

        return on

    def _finish(
        self, indices: Callable[[Expr], list[Expr]], lanes: int, total: Callable[[Expr], Expr]
    ) -> Stmt:
        """The epilogue and the stores of neighbouring places."""
        scope, output = self.scope, self.scope.kernel.output
        along = scope.output_layout.is_identity and set(self.phase.step) == {1}
        # What is added to them lies like them, mostly: it comes as a vector, too.
        alike = [v for v in read_in_place(scope) if v.dtype in VECTOR_DTYPES] if along else []
        read = {value: scope.local(lanes, value.dtype, "read") for value in alike}
        sums, found = scope.local(lanes, name="sum"), scope.local(lanes, output.dtype, "result")

        def load(value: Value) -> Stmt:
            source, layout = scope.buffer(value, scope.layout(value)), scope.layout(value)

            def lane(k: Expr) -> Stmt:
                element = tirx.BufferLoad(source, [scope.address(layout, indices(k))])
                return tirx.BufferStore(read[value], element, [k])

            return scope.loop(lanes, lane, VECTORIZED)

        def compute(k: Expr) -> Stmt:
            emit = Emitter()
            given: Mapping[Value, Expr] = {
                self.node.output: tirx.BufferLoad(sums, [k]),
                **{value: tirx.BufferLoad(buffer, [k]) for value, buffer in read.items()},
            }
            value = scope.evaluate(output, indices(k), emit, given)
            return seq(*emit.statements, tirx.BufferStore(found, value, [k]))

        def store(k: Expr) -> Stmt:
            return scope.store(indices(k), tirx.BufferLoad(found, [k]))

        return seq(
            *map(tirx.AllocBuffer, (*read.values(), sums, found)),
            *map(load, alike),
            scope.loop(lanes, lambda k: tirx.BufferStore(sums, total(k), [k]), VECTORIZED),
            scope.loop(lanes, compute, UNROLLED),
            scope.loop(lanes, store, VECTORIZED if along else UNROLLED),
        )


def _when(condition: Expr, then: Stmt) -> Stmt:
    return tirx.IfThenElse(condition, then, None)
