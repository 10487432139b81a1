"""Each tensor has its own fill, and a border serves where its fill cannot change a result.

Bugs the author planted, and what caught each:
- a minimum's start compared as a maximum's: `test_minima_ignore_a_border_of_infinity`;
- a tensor of other readers taken for one that only a maximum reads:
  `test_a_maximum_is_not_the_only_reader`;
- a start below the fill not looked at: `test_a_maximum_that_starts_lower_sees_the_fill`;
- the first tensor's fill taken for all: `test_fills_by_tensor`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.lower import rewrite
from tests.primitives.operators import function, operator, placeholders
from tests.primitives.rewriting import check

pytestmark = pytest.mark.llvm

LOWEST = float(np.finfo("float32").min)


def _is_guarded(func: Any) -> bool:
    return "if_then_else" in func.script()


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_fills_by_tensor() -> None:
    x, y = placeholders((5,), (5,))
    func = function([x, y], te.compute((5,), lambda i: x[i] + y[i], "z"))
    layout = Layout.identity((5,)).pad(0, 1, 2)
    check(func, {0: layout, 1: layout, 2: layout}, _rng(), fill={0: 1, "x1": -np.inf, "z": 7})


@pytest.mark.parametrize("fill", [-np.inf, LOWEST, 0, 1])
@pytest.mark.parametrize("name", ["max_pool1d", "max_pool2d"])
def test_a_border_of_the_lowest_values_serves_max_pooling(name: str, fill: float) -> None:
    func = operator(name)
    layout = Layout.identity(_shape(func, 0))
    for axis in range(2, len(layout.shape)):
        layout = layout.pad(axis, 1, 1)
    rewritten = check(func, {0: layout}, _rng(), fill={0: fill})
    assert _is_guarded(rewritten) == (fill >= 0)


def test_rows_with_nothing_real_are_the_same_too() -> None:
    """A window that lies in the border as a whole: the maximum of nothing is where it starts."""
    (a,) = placeholders((3,))
    padded = te.compute(
        (9,),
        lambda i: te.if_then_else(te.all(i >= 4, i < 7), a[i - 4], te.min_value("float32")),
        "padded",
    )
    r = te.reduce_axis((0, 2), "r")
    func = function([a], te.compute((4,), lambda i: te.max(padded[i * 2 + r], axis=r), "y"))
    rewritten = check(func, {0: Layout.identity((3,)).pad(0, 4, 2)}, _rng(), fill={0: -np.inf})
    assert not _is_guarded(rewritten)


def test_average_pooling_wants_zeros() -> None:
    layout = Layout.identity((1, 4, 7, 7)).pad(2, 1, 1).pad(3, 1, 1)
    func = operator("avg_pool2d")
    assert not _is_guarded(check(func, {0: layout}, _rng()))
    assert _is_guarded(check(func, {0: layout}, _rng(), fill={0: -np.inf}))


def _shifted(other: float, reduce: Any, start: float | None, **also: Any) -> Any:
    """y[i] = the greatest or least of x[i - 1], x[i], where x[-1] is `other`."""
    (a,) = placeholders((6,))
    guarded = te.compute(
        (7,), lambda i: te.if_then_else(i >= 1, a[i - 1], tirx.const(other, "float32")), "guarded"
    )
    r = te.reduce_axis((0, 2), "r")
    init = {} if start is None else {"init": tirx.const(start, "float32")}
    best = te.compute((6,), lambda i: reduce(guarded[i + r], axis=r, **init), "best")
    if also.get("reader") == "sum":
        again = te.compute((6,), lambda i: best[i] + guarded[i], "y")
        return function([a], again)
    return function([a], best)


def test_minima_ignore_a_border_of_infinity() -> None:
    func = _shifted(float(np.finfo("float32").max), te.min, None)
    layout = Layout.identity((6,)).pad(0, 1, 0)
    assert not _is_guarded(check(func, {0: layout}, _rng(), fill={0: np.inf}))
    assert _is_guarded(check(func, {0: layout}, _rng(), fill={0: -np.inf}))


def test_a_maximum_is_not_the_only_reader() -> None:
    func = _shifted(LOWEST, te.max, None, reader="sum")
    layout = Layout.identity((6,)).pad(0, 1, 0)
    assert _is_guarded(check(func, {0: layout}, _rng(), fill={0: -np.inf}))
    assert not _is_guarded(check(func, {0: layout}, _rng(), fill={0: LOWEST}))


def _maximum_from(start: float, other: float) -> Any:
    """y[i] = max(start, x[i - 1], x[i]), where x[-1] is `other`."""
    (a,) = placeholders((6,))
    r = te.reduce_axis((0, 2), "r")
    reducer = te.comm_reducer(
        lambda x, y: te.max(x, y), lambda dtype: tirx.const(start, dtype), "max_from"
    )

    def value(i: Any) -> Any:
        read = te.if_then_else(i + r >= 1, a[i + r - 1], tirx.const(other, "float32"))
        return reducer(read, axis=r)

    return function([a], te.compute((6,), value, "y"))


def test_a_maximum_that_starts_lower_sees_the_fill() -> None:
    layout = Layout.identity((6,)).pad(0, 1, 0)
    low = np.full(6, -9, "float32")
    for start, other, fill, absorbed in (
        (-5, -6, -np.inf, True),
        (-5, -6, -5, True),
        (-5, -6, -4, False),
        (-5, -4, -np.inf, False),
    ):
        func = _maximum_from(start, other)
        rewritten = check(func, {0: layout}, _rng(), fill={0: fill}, inputs={0: low})
        assert _is_guarded(rewritten) != absorbed


def test_fills_that_fit_nothing_are_refused() -> None:
    func = operator("of_integers")
    layout = Layout.identity((3, 8)).pad(0, 0, 1)
    with pytest.raises(LayoutError, match=r"fill -inf of x0: its dtype is int32"):
        rewrite(func, {0: layout}, fill=-np.inf)
    with pytest.raises(LayoutError, match=r"fill of parameter 5: the function has 3"):
        rewrite(func, {0: layout}, fill={5: 1})
    with pytest.raises(LayoutError, match="given twice"):
        rewrite(func, {0: layout}, fill={0: 1, "x0": 2})


def _shape(func: Any, position: int) -> tuple[int, ...]:
    return tuple(int(extent) for extent in func.params[position].ty.shape)
