"""Pooling windows: maximum and average, any rank."""

from __future__ import annotations

from math import prod

from tvm import tirx

from alt.elementary import Emitter, Expr
from alt.graph import Node
from alt.sketches.generic import write_region
from alt.sketches.scope import Scope, Stmt, i32
from alt.storage import Border


def pool_border(node: Node, blocked: bool) -> Border:
    """The border of zeros an average wants around its input; a maximum checks its bounds."""
    spatial = len(node.output.shape) - 2
    if node.attrs["kind"] != "avg" or not blocked:
        return ((0, 0),) * spatial
    return tuple(node.attrs["pads"])


def pooling(scope: Scope) -> Stmt:
    """Every output reduces its window in registers; bounds are checked only where a window can
    leave the data."""
    node = scope.kernel.anchor
    assert node is not None
    a = node.attrs
    x = node.inputs[0]
    shape = x.shape[2:]
    kernel, strides, dilation, pads = a["kernel"], a["strides"], a["dilation"], a["pads"]
    maximum = a["kind"] == "max"
    spatial = len(shape)
    bordered = not maximum and bool(scope.layout(x).has_padding)
    lowest = float(-3.4028234663852886e38)

    def window(at: list[Expr], axis: int, taps: list[Expr], indices: list[Expr]) -> list[Expr]:
        """The input elements of one window."""
        if axis == spatial:
            where = [*indices[:2], *at]
            element = scope.load(x, where)
            if bordered:
                return [element]
            inside = [
                scope.analyzer.simplify(tirx.all(p >= 0, p < extent))
                for p, extent in zip(at, shape, strict=True)
            ]
            guard = scope.analyzer.simplify(tirx.all(*inside)) if inside else tirx.const(True)
            if isinstance(guard, tirx.IntImm) and int(guard.value):
                return [element]
            other = tirx.const(lowest if maximum else 0.0, x.dtype)
            clamped = [
                scope.analyzer.simplify(tirx.max(tirx.min(p, i32(extent - 1)), i32(0)))
                for p, extent in zip(at, shape, strict=True)
            ]
            return [tirx.Select(guard, scope.load(x, [*indices[:2], *clamped]), other)]
        found: list[Expr] = []
        for t in range(kernel[axis]):
            position = indices[2 + axis] * strides[axis] + (t * dilation[axis] - pads[axis][0])
            found.extend(window([*at, scope.analyzer.simplify(position)], axis + 1, taps, indices))
        return found

    def divisor(indices: list[Expr]) -> Expr:
        """How many elements an average counts; padding beyond the declared one never counts."""
        total: Expr | None = None
        for d in range(spatial):
            lo, hi = a["declared"][d] if a["count_include_pad"] else (0, 0)
            start = indices[2 + d] * strides[d] - pads[d][0]
            low, high = -lo, shape[d] + hi
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

    def element(indices: list[Expr], emit: Emitter) -> Expr:
        values = window([], 0, [], list(indices))
        total = values[0]
        for value in values[1:]:
            total = emit.bind(tirx.max(total, value) if maximum else total + value)
        if not maximum:
            count = divisor(list(indices))
            if isinstance(count, tirx.IntImm):
                total = total * tirx.const(1.0 / int(count.value), x.dtype)
            else:
                total = total / tirx.Cast(x.dtype, tirx.max(count, i32(1)))
        return scope.evaluate(scope.kernel.output, indices, emit, {node.output: total})

    if prod(kernel) > 64:
        return _long_windows(scope, node)
    output = scope.kernel.output
    return write_region(scope, (0,) * len(output.shape), output.shape, element)


def _long_windows(scope: Scope, node: Node) -> Stmt:
    """Windows too long to unroll: a loop over the taps, one output vector at a time."""
    raise AssertionError(f"pooling window of {prod(node.attrs['kernel'])} taps")
