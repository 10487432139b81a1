"""Depthwise convolutions on a GPU: what a thread reads once serves several of its results.

There is nothing to multiply that a block could share but the input itself, and neighbouring threads
find that in the first-level cache. A thread computes some rows of one column, or of a vector of
columns: its window of the input and the weights of its channel stay in registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from alt.elementary import Emitter, Expr, f32
from alt.graph import Node
from alt.sketches.gpu.block_tile import VECTOR
from alt.sketches.gpu.grid import Region, or_zero, over_elements
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import copy
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from alt.sketches.windows import geometry, has_packed_weights, phases
from primitives import Layout
from primitives.tensorir import tirx

MOST_TAPS = 64
"""Of a window in registers. Of a larger one, a row is; of one with longer rows, nothing."""

WINDOW_REGISTERS = 96
"""For the input that a thread holds."""

FIND = 6.0
"""Instructions that say where an element of an image lies and whether it does, by what nvcc makes
of them."""

ROWS, COLUMNS = (1, 2, 4, 8), (1, 2, 4)


def goes_by_channel(node: Node) -> bool:
    """Whether every input channel is convolved by itself, with a window that fits registers."""
    groups, channels, _ = geometry(node)
    alone = node.op == "conv" and groups > 1 and channels == 1 and has_packed_weights(node)
    floats = node.inputs[0].dtype == node.output.dtype == "float32"
    return alone and floats and bool(node.output.size) and node.inputs[1].shape[-1] <= MOST_TAPS


def offsets(results: int, stride: int, taps: int, dilation: int) -> tuple[int, ...]:
    """Which inputs some neighbouring results read along an axis, from the first one on.

    >>> offsets(2, 1, 3, 1), offsets(1, 2, 3, 2), offsets(2, 4, 2, 1)
    ((0, 1, 2, 3), (0, 2, 4), (0, 1, 4, 5))
    """
    return tuple(sorted({r * stride + t * dilation for r in range(results) for t in range(taps)}))


class Depthwise:
    """One depthwise convolution; the last axis is its columns, the one before its rows."""

    most_taps = MOST_TAPS

    def __init__(self, scope: GpuScope, node: Node) -> None:
        self.scope, self.node = scope, node
        (phase,) = phases(node)
        self.phase = phase
        self.batch, self.outputs = node.output.shape[:2]
        _, _, self.multiplier = geometry(node)
        rank = len(phase.count)
        # Axes whose taps are loops: a window holds the others.
        flat = rank == 1 or prod(phase.taps[-2:]) > self.most_taps
        self.outer = rank - 1 if flat else rank - 2
        self.height = 1 if flat else phase.count[-2]
        self.width = phase.count[-1]
        self.taps = (1, phase.taps[-1]) if flat else phase.taps[-2:]
        self.stride = (1, phase.stride[-1]) if flat else phase.stride[-2:]
        self.dilation = (1, phase.dilation[-1]) if flat else phase.dilation[-2:]
        self.flat = flat
        self.lanes = self._decide_lanes()
        self.columns = self._decide_columns()
        self.rows = self._decide_rows()
        scope.notes["tile"] = [self.rows, self.columns]
        self.read = tuple(
            offsets(*each)
            for each in zip(
                (self.rows, self.columns), self.stride, self.taps, self.dilation, strict=True
            )
        )
        self.vectors = self.columns > 1 and scope.output_layout.is_identity

    @property
    def instructions(self) -> float:
        """Of a thread for each of its results, but for its epilogue: about."""
        shared = self.rows * self.columns * self.lanes
        taps = prod(self.phase.taps)
        reads = prod(map(len, self.read)) * prod(self.phase.taps[: self.outer])
        weights = taps * self.lanes / VECTOR
        return taps + ((1 + FIND) * reads + weights) / shared

    def _decide_lanes(self) -> int:
        """How many channels a thread has."""
        return 1

    def _fits(self, rows: int, columns: int) -> bool:
        sizes = [
            len(offsets(*each))
            for each in zip((rows, columns), self.stride, self.taps, self.dilation, strict=True)
        ]
        return prod(sizes) * self.lanes <= WINDOW_REGISTERS or (rows, columns) == (1, 1)

    def _decide_columns(self) -> int:
        fitting = [c for c in COLUMNS if self.width % c == 0 and self._fits(1, c)]
        # Threads that read neighbours read a line of the cache at once.
        return self.scope.choose.one_of("columns", fitting, 1)

    def _decide_rows(self) -> int:
        """As many as leave enough threads."""
        gpu = self.scope.gpu
        fitting = [
            r for r in ROWS if (r < 2 * self.height and self._fits(r, self.columns)) or r == 1
        ]
        results = self.node.output.size // (self.columns * self.lanes)
        enough = [r for r in fitting if results // r >= gpu.cores * gpu.core_threads // 2]
        return self.scope.choose.one_of("rows", fitting, max(enough, default=1))

    def sketch(self) -> Stmt:
        """The whole kernel."""
        strips = -(-self.height // self.rows)
        outer = self.phase.count[: self.outer]
        extents = self.batch, self.outputs, *outer, strips, self.width // self.columns
        return over_elements(self.scope, Region(extents, self._body))

    def _body(self, n: Expr, channel: Expr, *place: Expr) -> Stmt:
        *above, strip, column = place
        scope = self.scope
        taps = prod(self.taps)
        results = self.rows * self.columns * self.lanes
        acc = scope.local(results)
        window = scope.local(prod(map(len, self.read)) * self.lanes, name="window")
        weights = scope.local((taps + -taps % VECTOR) * self.lanes, name="weights")
        first_row = strip * self.rows
        first = [first_row, column * self.columns]

        def step(*outer_taps: Expr) -> Stmt:
            return seq(
                self._load_weights(weights, channel, outer_taps),
                *self._load_window(window, n, channel, above, outer_taps, first),
                *self._multiply(acc, window, weights),
            )

        def zero(i: Expr) -> Stmt:
            return tirx.BufferStore(acc, f32(0.0), [i])

        def row(r: Expr) -> Stmt:
            made = self._write(acc, r, n, channel, above, first)
            even = self.height % self.rows == 0
            return made if even else tirx.IfThenElse(first_row + r < self.height, made, None)

        return seq(
            *map(tirx.AllocBuffer, (acc, window, weights)),
            scope.loop(results, zero, UNROLLED, "zero"),
            scope.nest(self.phase.taps[: self.outer], step, name="tap"),
            scope.loop(self.rows, row, UNROLLED, "row"),
        )

    def _load_weights(self, weights: object, channel: Expr, outer_taps: Sequence[Expr]) -> Stmt:
        """The taps of a window, in vectors: [channel][outer taps][taps, rounded up]."""
        scope, taps = self.scope, prod(self.taps)
        outer = prod(self.phase.taps[: self.outer])
        more = -taps % VECTOR
        layout = Layout.identity((self.outputs, outer, taps)).pad(2, 0, more)
        shape = layout.logical_shape
        named = (f"depthwise{shape}", lambda w: w.reshape(shape))
        packed = scope.buffer(self.node.inputs[1], layout, named)
        at: Expr = i32(0)
        for tap, count in zip(outer_taps, self.phase.taps, strict=False):
            at = at * count + tap
        begin = (channel * outer + at) * (taps + more)
        return scope.loop(
            (taps + more) // VECTOR,
            lambda v: copy(scope, VECTOR, packed, begin + v * VECTOR, weights, v * VECTOR),
            UNROLLED,
        )

    def _load_window(
        self,
        window: object,
        n: Expr,
        channel: Expr,
        above: Sequence[Expr],
        outer_taps: Sequence[Expr],
        first: Sequence[Expr],
    ) -> list[Stmt]:
        """What this thread reads of the input for one outer tap, 0 outside the image."""
        source = channel // self.multiplier if self.multiplier > 1 else channel
        parts: list[Stmt] = []
        for number, (at, guard) in enumerate(self._inputs(above, outer_taps, first)):
            value = self.scope.load(self.node.inputs[0], [n, source, *at])
            value = or_zero(self.scope, guard, value)
            parts.append(tirx.BufferStore(window, value, [i32(number)]))
        return parts

    def _inputs(
        self, above: Sequence[Expr], outer_taps: Sequence[Expr], first: Sequence[Expr]
    ) -> Iterator[tuple[list[Expr], Expr]]:
        """The places of a window, and whether each lies in the image."""
        phase, shape = self.phase, self.node.inputs[0].shape[2:]
        simplify = self.scope.analyzer.simplify
        outer = [
            q * s + t * d + o
            for q, s, t, d, o in zip(
                above, phase.stride, outer_taps, phase.dilation, phase.offset, strict=False
            )
        ]
        for down, along in product(*self.read):
            last = first[1] * self.stride[1] + along + phase.offset[-1]
            inner = [last]
            if not self.flat:
                inner = [first[0] * self.stride[0] + down + phase.offset[-2], last]
            at = [simplify(p) for p in (*outer, *inner)]
            inside = (tirx.all(p >= 0, p < e) for p, e in zip(at, shape, strict=True))
            yield at, tirx.all(*inside)

    def _multiply(self, acc: object, window: object, weights: object) -> list[Stmt]:
        """Every result of this thread by every tap; all indices are numbers."""
        places = {where: number for number, where in enumerate(product(*self.read))}
        parts: list[Stmt] = []
        every = product(range(self.rows), range(self.columns), range(self.lanes))
        for row, column, lane in every:
            here = [i32((row * self.columns + column) * self.lanes + lane)]
            for number, (down, along) in enumerate(product(*map(range, self.taps))):
                where = (
                    row * self.stride[0] + down * self.dilation[0],
                    column * self.stride[1] + along * self.dilation[1],
                )
                read = tirx.BufferLoad(window, [i32(places[where] * self.lanes + lane)])
                term = read * tirx.BufferLoad(weights, [i32(number * self.lanes + lane)])
                parts.append(tirx.BufferStore(acc, tirx.BufferLoad(acc, here) + term, here))
        return parts

    def _write(
        self,
        acc: object,
        row: Expr,
        n: Expr,
        channel: Expr,
        above: Sequence[Expr],
        first: Sequence[Expr],
    ) -> Stmt:
        """The results of a row, through the epilogue."""
        scope, output = self.scope, self.scope.kernel.output
        found = scope.local(self.columns, output.dtype, "result")

        def indices(k: Expr) -> list[Expr]:
            place = [first[1] + k] if self.flat else [first[0] + row, first[1] + k]
            return [scope.analyzer.simplify(i) for i in (n, channel, *above, *place)]

        def compute(k: Expr) -> Stmt:
            emit = Emitter()
            given = {self.node.output: tirx.BufferLoad(acc, [row * self.columns + k])}
            value = scope.evaluate(output, indices(k), emit, given)
            return seq(*emit.statements, tirx.BufferStore(found, value, [k]))

        def store(k: Expr) -> Stmt:
            return scope.store(indices(k), tirx.BufferLoad(found, [k]))

        return seq(
            tirx.AllocBuffer(found),
            scope.loop(self.columns, compute, UNROLLED),
            scope.loop(self.columns, store, VECTORIZED if self.vectors else UNROLLED),
        )
