"""Pooling windows: maximum and average, any rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

from alt.elementary import Emitter, Expr, lowest
from alt.graph import Node
from alt.sketches.border import fill_border, vector_of_block
from alt.sketches.generic import write_region
from alt.sketches.scope import VECTORIZED, Scope, Stmt, allocate, i32, seq
from alt.storage import Border, block_of
from primitives.tensorir import tirx

Buffer = Any

UNROLLED_TAPS = 64
"""Longer windows are loops."""


def pool_border(node: Node, blocked: bool) -> Border:
    """The border of zeros an average wants around its input; a maximum checks its bounds."""
    spatial = len(node.output.shape) - 2
    if node.attrs["kind"] != "avg" or not blocked:
        return ((0, 0),) * spatial
    return tuple(node.attrs["pads"])


class Window:
    """What pooling computes, however it is scheduled."""

    def __init__(self, scope: Scope) -> None:
        node = scope.kernel.anchor
        assert node is not None
        self.scope = scope
        self.node = node
        self.x = node.inputs[0]
        self.shape = self.x.shape[2:]
        self.kernel: tuple[int, ...] = node.attrs["kernel"]
        self.maximum = node.attrs["kind"] == "max"
        self.bordered = not self.maximum and bool(scope.layout(self.x).has_padding)
        zero = tirx.const(0, self.x.dtype)
        self.nothing = lowest(self.x.dtype) if self.maximum else zero

    @property
    def is_long(self) -> bool:
        """Whether its taps are better a loop than spelled out."""
        return prod(self.kernel) > UNROLLED_TAPS

    def element(self, indices: Sequence[Expr], emit: Emitter) -> Expr:
        """The kernel's value at an output, taps spelled out."""
        where = list(indices)
        total: Expr | None = None
        for taps in product(*map(range, self.kernel)):
            value = self._tapped(self._at(where, taps), where)
            total = value if total is None else emit.bind(self._combine(total, value))
        return self._finish(where, total, emit)

    def looped(self, acc: Buffer, at: Callable[[Expr], list[Expr]]) -> Stmt:
        """A vector of outputs whose taps are loops.

        Args:
            acc: room for an element of each.
            at: the indices of one of them.
        """
        scope = self.scope
        lanes = int(acc.shape[0])

        def each(body: Callable[[Expr], Stmt]) -> Stmt:
            return scope.loop(lanes, body, VECTORIZED)

        def tap(*taps: Expr) -> Stmt:
            def lane(k: Expr) -> Stmt:
                indices = at(k)
                value = self._tapped(self._at(indices, taps), indices)
                return tirx.BufferStore(acc, self._combine(tirx.BufferLoad(acc, [k]), value), [k])

            return each(lane)

        def write(k: Expr) -> Stmt:
            emit, indices = Emitter(), at(k)
            value = self._finish(indices, tirx.BufferLoad(acc, [k]), emit)
            return seq(*emit.statements, scope.store(indices, value))

        start = each(lambda k: tirx.BufferStore(acc, self.nothing, [k]))
        return allocate(acc, start, scope.nest(self.kernel, tap), each(write))

    def _at(self, indices: list[Expr], taps: Sequence[Expr]) -> list[Expr]:
        """Which input element a tap reads, along each spatial axis."""
        a = self.node.attrs
        found: list[Expr] = []
        for axis, tap in enumerate(taps):
            first = indices[2 + axis] * a["strides"][axis] - a["pads"][axis][0]
            found.append(self.scope.analyzer.simplify(first + tap * a["dilation"][axis]))
        return found

    def _tapped(self, at: list[Expr], indices: list[Expr]) -> Expr:
        """The input element at a position, which may lie outside the data."""
        scope, x = self.scope, self.x
        if self.bordered:
            return scope.load(x, [*indices[:2], *at])
        inside = [
            scope.analyzer.simplify(tirx.all(p >= 0, p < extent))
            for p, extent in zip(at, self.shape, strict=True)
        ]
        guard = scope.analyzer.simplify(tirx.all(*inside)) if inside else tirx.const(True)
        if isinstance(guard, tirx.IntImm) and int(guard.value):
            return scope.load(x, [*indices[:2], *at])
        clamped = [
            scope.analyzer.simplify(tirx.max(tirx.min(p, i32(extent - 1)), i32(0)))
            for p, extent in zip(at, self.shape, strict=True)
        ]
        return tirx.Select(guard, scope.load(x, [*indices[:2], *clamped]), self.nothing)

    def _combine(self, total: Expr, value: Expr) -> Expr:
        return tirx.max(total, value) if self.maximum else total + value

    def _divisor(self, indices: list[Expr]) -> Expr:
        """How many elements an average counts; padding beyond the declared one never counts."""
        a, scope = self.node.attrs, self.scope
        kernel, strides, dilation, pads = self.kernel, a["strides"], a["dilation"], a["pads"]
        total: Expr | None = None
        for d, extent in enumerate(self.shape):
            lo, hi = a["declared"][d] if a["count_include_pad"] else (0, 0)
            start = indices[2 + d] * strides[d] - pads[d][0]
            low, high = -lo, extent + hi
            if dilation[d] == 1:
                first = tirx.max(start, i32(low))
                last = tirx.min(start + kernel[d], i32(high))
                count = last - first
            else:
                terms = [
                    tirx.Select(
                        tirx.all(start + t * dilation[d] >= low, start + t * dilation[d] < high),
                        i32(1),
                        i32(0),
                    )
                    for t in range(kernel[d])
                ]
                count = terms[0]
                for term in terms[1:]:
                    count = count + term
            count = scope.analyzer.simplify(count)
            total = count if total is None else total * count
        assert total is not None
        return scope.analyzer.simplify(total)

    def _finish(self, indices: list[Expr], total: Expr, emit: Emitter) -> Expr:
        """The kernel's value where the window comes to `total`."""
        scope = self.scope
        if not self.maximum:
            count = self._divisor(indices)
            if isinstance(count, tirx.IntImm):
                total = total * tirx.const(1.0 / int(count.value), self.x.dtype)
            else:
                total = total / tirx.Cast(self.x.dtype, tirx.max(count, i32(1)))
        return scope.evaluate(scope.kernel.output, indices, emit, {self.node.output: total})


def pooling(scope: Scope) -> Stmt:
    """Every output reduces its window in registers; bounds are checked only where a window can
    leave the data.
    """
    window = Window(scope)
    if window.is_long:
        return _vector_by_vector(scope, window.x.dtype, window.looped)
    output = scope.kernel.output
    return write_region(scope, (0,) * len(output.shape), output.shape, window.element)


def _vector_by_vector(
    scope: Scope, dtype: str, compute: Callable[[Buffer, Callable[[Expr], list[Expr]]], Stmt]
) -> Stmt:
    """Every vector of outputs by itself: `compute` gets room for one, and where its lanes lie."""
    batch, channels, *spatial = scope.kernel.output.shape
    block = block_of(scope.output_layout)
    width = spatial[-1]
    blocked = block > 1
    lanes = vector_of_block(scope, block) if blocked else min(width, scope.machine.lanes(dtype))
    acc = scope.local(lanes, dtype, "window")

    def row(n: Expr, b: Expr, *above: Expr) -> Stmt:
        if blocked:
            return scope.loop(
                width, lambda w: compute(acc, lambda k: [n, b * lanes + k, *above, w])
            )

        def piece(p: Expr) -> Stmt:
            # The last one ends flush with the row: it computes some outputs twice.
            first = scope.analyzer.simplify(tirx.min(p * lanes, i32(width - lanes)))
            return compute(acc, lambda k: [n, b, *above, first + k])

        return scope.loop(-(-width // lanes), piece)

    step = lanes if blocked else 1
    planes = [batch, -(-channels // step)]
    rows = scope.parallel([*planes, *spatial[:-1]], row)
    if fill_border(scope, i32(0), i32(0), step) is None:
        return rows
    return seq(
        scope.parallel(planes, lambda n, b: seq(fill_border(scope, n, b * step, step))), rows
    )
