"""Where a read finds its element in a stored tensor, in one tile per window where it can be.

An unfolded axis stores elements more than once. `Layout.forward` names one canonical copy, by a
division and a minimum; the copies exist so that a window, all that a point of the output reads
along the axis, lies in one tile whose number no reduction changes. Such a copy is named here
wherever the analyzer proves that it holds the element.

Source: ALT (EuroSys 2023, arXiv 2210.12415), the access rule of `unfold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from primitives.layout import Layout
from primitives.stage import Axis
from primitives.steps import Unfold, tiles_of
from primitives.tensorir import Any, Expr, sym, tirx


class Place(NamedTuple):
    """A cell of an unfolded axis: which tile, and where in it."""

    tile: Expr
    offset: Expr


def stored_indices(
    layout: Layout, indices: Sequence[Expr], reduce: Sequence[Axis], analyzer: Any
) -> list[Expr]:
    """The stored indices of an element: those of `layout.forward`, or of an equal copy.

    Rewrite:
        before: x[2*(4*o + i) + r], r < 3, x unfolded into tiles of 9 every 8
        after:  x[o, 2*i + r]

    Args:
        layout: how the tensor that is read is stored.
        indices: the logical indices, over the axes of a stage.
        reduce: the stage's reduction axes: the indices of one window differ in these.
        analyzer: knows the ranges of all axes, and what else may be assumed of the read.

    >>> from primitives.borders import analyzer_for
    >>> o, i, r = (Axis(tirx.Var(name, "int32"), n) for name, n in (("o", 3), ("i", 4), ("r", 3)))
    >>> row = (o.var * 4 + i.var) * 2 + r.var
    >>> layout = Layout.parse("25 unfold(0,9,8)")
    >>> print(*stored_indices(layout, [row], [r], analyzer_for((o, i, r))), sep=", ")
    o, i * 2 + r
    """
    if not any(isinstance(step, Unfold) for step in layout.steps):
        return layout.forward(indices)
    result = list(indices)
    shape = layout.logical_shape
    for step in layout.steps:
        place = None
        if isinstance(step, Unfold):
            place = _place(result[step.axis], step, shape[step.axis], reduce, analyzer)
            if place is not None:
                result[step.axis : step.axis + 1] = place
        if place is None:
            result = step.forward(result, shape)
        shape = step.shape(shape)
    return result


def _place(
    index: Expr, step: Unfold, extent: int, reduce: Sequence[Axis], analyzer: Any
) -> Place | None:
    """A provably right cell for an index of an axis that is unfolded, None if none is found."""
    if isinstance(index, int):
        return None
    index = analyzer.simplify(index)
    tiles = tiles_of(extent, step.size, step.stride)
    window = _tile_of_window(index, step, reduce, analyzer)
    for tile in (window, _tile_of_terms(index, step)):
        if tile is None:
            continue
        place = Place(analyzer.simplify(tile), analyzer.simplify(index - tile * step.stride))
        if _is_below(place.tile, tiles, analyzer) and (
            tile is window or _is_below(place.offset, step.size, analyzer)
        ):
            return place
    return None


def _tile_of_window(
    index: Expr, step: Unfold, reduce: Sequence[Axis], analyzer: Any
) -> Expr | None:
    """The tile in which the index's whole window lies, None if some window lies in no one tile.

    A window begins at `start`, what is left of the index where the reduction axes make it least,
    and reaches `reach` further. It lies in tile `start // stride` if
    `start % stride + reach < size`.
    """
    found = list(sym.detect_linear_equation(index, [axis.var for axis in reduce]))
    if not found or not all(isinstance(factor, tirx.IntImm) for factor in found[:-1]):
        return None
    spans = [
        int(factor.value) * (axis.extent - 1)
        for factor, axis in zip(found[:-1], reduce, strict=True)
    ]
    start = analyzer.simplify(found[-1] + sum(span for span in spans if span < 0))
    reach = sum(abs(span) for span in spans)
    latest = analyzer.const_int_bound(analyzer.simplify(start % step.stride)).max_value
    return start // step.stride if latest + reach < step.size else None


def _tile_of_terms(index: Expr, step: Unfold) -> Expr:
    """The part of the index that counts in whole strides, in strides: right for equal layouts."""
    stride = step.stride
    tile: Expr = 0
    for factor, term in _terms(index):
        if term is None:
            tile = tile + factor // stride
        elif factor % stride == 0:
            tile = tile + term * (factor // stride)
    return tirx.const(tile, str(index.ty.dtype)) if isinstance(tile, int) else tile


def _terms(expr: Expr, factor: int = 1) -> list[tuple[int, Expr | None]]:
    """A sum as its terms and their constant factors; None is the term 1."""
    if isinstance(expr, tirx.IntImm):
        return [(factor * int(expr.value), None)]
    if isinstance(expr, tirx.Add):
        return [*_terms(expr.a, factor), *_terms(expr.b, factor)]
    if isinstance(expr, tirx.Sub):
        return [*_terms(expr.a, factor), *_terms(expr.b, -factor)]
    if isinstance(expr, tirx.Mul) and isinstance(expr.b, tirx.IntImm):
        return _terms(expr.a, factor * int(expr.b.value))
    return [(factor, expr)]


def _is_below(index: Expr, extent: int, analyzer: Any) -> bool:
    """Whether an index provably is at least 0 and less than the extent."""
    bound = analyzer.const_int_bound(index)
    if bound.min_value >= 0 and bound.max_value < extent:
        return True
    return bool(analyzer.can_prove(tirx.all(index >= 0, index < extent)))
