"""Rewritten functions compute what the untouched ones do.

Bugs the author planted, and what caught each:
- any guard dropped whose reads stay inside the border: `test_guards_that_mask_real_elements_stay`;
- a border taken to be one wider than it is: `test_a_border_must_reach_as_far_as_the_reads`;
- a border of zeros taken for any fill: `test_a_border_of_other_fill_keeps_the_guard`;
- sources of a reduction read for cells without an element: `test_random_layouts` (test_rewrite_random.py);
- 0, or the least finite number, as what leaves a maximum alone:
  `test_reductions_leave_the_fill_alone`;
- values reduced together stored one by one: `test_values_reduced_together_...`;
- a reduction's lower bound ignored: `test_a_reduction_that_starts_elsewhere`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import te, tirx, topi

from primitives.errors import LayoutError, Opaque
from primitives.layout import Layout, blocked
from primitives.lower import rewrite
from primitives.stages import stages_of
from tests.primitives.operators import function, operator, placeholders
from tests.primitives.rewriting import check

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("width", [0, 1, 2])
def test_a_border_replaces_the_pad_stage_where_it_is_wide_enough(width: int) -> None:
    func = operator("conv2d")
    border = ((2, width, width), (3, width, width))
    layouts = {0: blocked((1, 4, 7, 6), 1, 4, border), 3: blocked((1, 6, 7, 6), 1, 3)}
    rewritten = check(func, layouts, np.random.default_rng(width))
    names = [stage.name for stage in stages_of(rewritten)]
    assert ("pad_temp" in names) == (width < 1)
    assert ("if_then_else" in rewritten.script()) == (width < 1)


def test_guards_that_mask_real_elements_stay() -> None:
    (a,) = placeholders((8,))
    masked = te.compute(
        (8,), lambda i: te.if_then_else(te.all(i >= 2, i < 7), a[i - 1], te.const(0, "float32"))
    )
    layout = Layout.identity((8,)).pad(0, 1, 1)
    rewritten = check(function([a], masked), {0: layout}, np.random.default_rng(0))
    assert "if_then_else" in rewritten.script()


def test_a_border_of_other_fill_keeps_the_guard() -> None:
    (a,) = placeholders((8,))
    shifted = te.compute((8,), lambda i: te.if_then_else(i >= 1, a[i - 1], te.const(1, "float32")))
    func, layout = function([a], shifted), Layout.identity((8,)).pad(0, 1, 0)
    rng = np.random.default_rng(0)
    assert "if_then_else" in check(func, {0: layout}, rng).script()
    assert "if_then_else" not in check(func, {0: layout}, rng, fill=1).script()


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_border_must_reach_as_far_as_the_reads(shift: int, before: int, after: int) -> None:
    (a,) = placeholders((8,))
    shifted = te.compute(
        (8,),
        lambda i: te.if_then_else(
            te.all(i + shift >= 0, i + shift < 8), a[i + shift], te.const(0, "float32")
        ),
    )
    layout = Layout.identity((8,)).pad(0, before, after)
    rewritten = check(function([a], shifted), {0: layout}, np.random.default_rng(0))
    assert ("if_then_else" in rewritten.script()) == (-shift > before or shift > after)


@pytest.mark.parametrize("fill", [0, -3.5, 2, -np.inf, np.inf])
@pytest.mark.parametrize("reduce", [topi.sum, topi.max, topi.min, topi.prod])
def test_reductions_leave_the_fill_alone(reduce: Any, fill: float) -> None:
    (a,) = placeholders((5, 6))
    layout = Layout.identity((5,)).pad(0, 2, 1).split(0, (2, 4))
    check(function([a], reduce(a, 1)), {1: layout}, np.random.default_rng(0), fill=fill)


@pytest.mark.parametrize("fill", [0, -3.5])
def test_cells_without_an_element_get_the_fill(fill: float) -> None:
    layouts = {
        0: blocked((6, 10), 1, 4),
        1: blocked((10, 12), 1, 8),
        2: blocked((6, 12), 0, 4, ((1, 1, 2),)),
    }
    check(operator("matmul"), layouts, np.random.default_rng(1), fill=fill)


def test_argmax_in_layouts() -> None:
    (a,) = placeholders((4, 9))
    func = function([a], topi.argmax(a, 1))
    layout = Layout.identity((4,)).pad(0, 0, 2).split(0, (2, 3))
    both = {"x0_red_temp.v0": layout, "x0_red_temp.v1": layout}
    check(func, {0: blocked((4, 9), 1, 4), "x0_red": layout, **both}, np.random.default_rng(2))
    with pytest.raises(LayoutError, match="computed together"):
        rewrite(func, {"x0_red_temp.v0": layout})


def test_values_reduced_together_do_not_see_each_others_next() -> None:
    (a,) = placeholders((4, 9))
    k = te.reduce_axis((0, 9), "k")
    # The greatest value and its index, the value first: its index must be chosen by the old one.
    greatest = te.comm_reducer(
        lambda x, y: (
            te.max(x[0], y[0]),
            tirx.Select(y[0] > x[0], y[1], x[1]),
        ),
        lambda *dtypes: (te.min_value(dtypes[0]), tirx.const(-1, dtypes[1])),
    )
    value, index = te.compute((4,), lambda i: greatest((a[i, k], k), axis=k), name="best")
    func = te.create_prim_func([a, value, index])
    layout = Layout.identity((4,)).pad(0, 1, 1)
    check(func, {1: layout, 2: layout}, np.random.default_rng(3))


def test_a_reduction_that_starts_elsewhere() -> None:
    (a,) = placeholders((4, 9))
    k = te.reduce_axis((2, 7), "k")
    func = function([a], te.compute((4,), lambda i: te.sum(a[i, k], axis=k)))
    check(func, {0: blocked((4, 9), 1, 4)}, np.random.default_rng(4))


def test_index_arithmetic_disappears_where_layouts_agree() -> None:
    layout = blocked((2, 6, 4), 1, 2)
    func = function(*_two_sums((2, 6, 4)))
    text = rewrite(func, {0: layout, 1: layout, 2: layout}).script()
    assert "//" not in text
    assert "%" not in text


def _two_sums(shape: tuple[int, ...]) -> tuple[list[Any], Any]:
    a, b = placeholders(shape, shape)
    return [a, b], topi.add(a, b)


def test_layouts_that_fit_nothing_are_refused() -> None:
    func = operator("matmul")
    with pytest.raises(LayoutError, match=r"parameter 7: the function has 3"):
        rewrite(func, {7: Layout.identity((6, 10))})
    with pytest.raises(LayoutError, match="0 of that name"):
        rewrite(func, {"nothing": Layout.identity((6, 10))})
    with pytest.raises(LayoutError, match=r"has shape \(6, 10\)"):
        rewrite(func, {0: Layout.identity((10, 6))})


def test_a_function_that_writes_in_place_is_refused() -> None:
    (a,) = placeholders((4,))
    func = function([a], topi.cumsum(a))
    with pytest.raises(Opaque):
        rewrite(func, {})
