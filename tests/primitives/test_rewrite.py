"""Rewritten functions compute what the untouched ones do.

Bugs planted by the author, and what caught each:
Bugs the author planted, and what caught each:
- any guard dropped whose reads stay inside the border: `test_guards_that_mask_real_elements_stay`;
- a border taken to be one wider than it is: `test_a_border_must_reach_as_far_as_the_reads`;
- a border of zeros taken for any fill: `test_a_border_of_other_fill_keeps_the_guard`;
- sources of a reduction read for cells without an element: `test_random_layouts`;
- 0 as what leaves a maximum alone: `test_reductions_leave_the_fill_alone`;
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
from primitives.stages import shape_of_buffer, stages_of
from tests.primitives.rewriting import check, random_layout

pytestmark = pytest.mark.llvm


def _placeholders(*shapes: tuple[int, ...]) -> list[Any]:
    return [te.placeholder(s, name=f"x{k}") for k, s in enumerate(shapes)]


def _function(inputs: list[Any], output: Any) -> Any:
    return te.create_prim_func([*inputs, output])


def matmul() -> Any:
    a, b = _placeholders((6, 10), (10, 12))
    return _function([a, b], topi.nn.relu(topi.matmul(a, b)))


def batched_matmul() -> Any:
    a, b = _placeholders((2, 5, 6), (2, 7, 6))
    return _function([a, b], topi.nn.batch_matmul(a, b))


def conv1d() -> Any:
    a, w = _placeholders((1, 4, 9), (6, 4, 3))
    return _function([a, w], topi.nn.conv1d_ncw(a, w, 2, 1, 1))


def conv2d() -> Any:
    a, w, b = _placeholders((1, 4, 7, 6), (6, 4, 3, 3), (6, 1, 1))
    conv = topi.nn.conv2d(a, w, 1, 1, 1, data_layout="NCHW", out_dtype="float32")
    return _function([a, w, b], topi.nn.relu(topi.add(conv, b)))


def strided_conv2d() -> Any:
    a, w = _placeholders((2, 3, 8, 7), (4, 3, 3, 3))
    return _function([a, w], topi.nn.conv2d(a, w, 2, 1, 1, data_layout="NCHW", out_dtype="float32"))


def dilated_conv2d() -> Any:
    a, w = _placeholders((1, 4, 9, 9), (4, 4, 3, 3))
    return _function([a, w], topi.nn.conv2d(a, w, 1, 2, 2, data_layout="NCHW", out_dtype="float32"))


def conv3d() -> Any:
    a, w = _placeholders((1, 2, 4, 5, 5), (4, 2, 3, 3, 3))
    return _function([a, w], topi.nn.conv3d_ncdhw(a, w, 1, 1, 1, 1))


def grouped_conv2d() -> Any:
    a, w = _placeholders((1, 6, 6, 5), (4, 3, 3, 3))
    return _function([a, w], topi.nn.group_conv2d_nchw(a, w, 1, 1, 1, 2))


def depthwise_conv2d() -> Any:
    a, w = _placeholders((1, 6, 7, 7), (6, 1, 3, 3))
    return _function([a, w], topi.nn.depthwise_conv2d_nchw(a, w, 1, 1, 1))


def max_pool2d() -> Any:
    (a,) = _placeholders((1, 4, 7, 7))
    return _function([a], topi.nn.pool2d(a, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max"))


def avg_pool2d() -> Any:
    (a,) = _placeholders((1, 4, 7, 7))
    return _function([a], topi.nn.pool2d(a, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "avg"))


def elementwise() -> Any:
    a, b = _placeholders((2, 6, 4), (6, 1))
    return _function([a, b], topi.tanh(topi.multiply(topi.add(a, b), a)))


def softmax() -> Any:
    (a,) = _placeholders((4, 9))
    return _function([a], topi.nn.softmax(a))


FUNCTIONS = {
    f.__name__: f
    for f in (
        matmul,
        batched_matmul,
        conv1d,
        conv2d,
        strided_conv2d,
        dilated_conv2d,
        conv3d,
        grouped_conv2d,
        depthwise_conv2d,
        max_pool2d,
        avg_pool2d,
        elementwise,
        softmax,
    )
}


def _random_case(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    func = FUNCTIONS[name]()
    layouts: dict[str | int, Layout] = {
        k: random_layout(rng, shape_of_buffer(p)) for k, p in enumerate(func.params)
    }
    for stage in stages_of(func):
        for buffer in stage.outputs:
            if str(buffer.name) not in {str(p.name) for p in func.params} and rng.integers(2):
                layouts[str(buffer.name)] = random_layout(rng, shape_of_buffer(buffer))
    check(func, layouts, rng, absorb=bool(rng.integers(2)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_layouts(name: str, seed: int) -> None:
    _random_case(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_random_layouts(name: str, seed: int) -> None:
    _random_case(name, seed)


@pytest.mark.parametrize("width", [0, 1, 2])
def test_a_border_replaces_the_pad_stage_where_it_is_wide_enough(width: int) -> None:
    func = conv2d()
    border = ((2, width, width), (3, width, width))
    layouts = {0: blocked((1, 4, 7, 6), 1, 4, border), 3: blocked((1, 6, 7, 6), 1, 3)}
    rewritten = check(func, layouts, np.random.default_rng(width))
    names = [stage.name for stage in stages_of(rewritten)]
    assert ("pad_temp" in names) == (width < 1)
    assert ("if_then_else" in rewritten.script()) == (width < 1)


def test_guards_that_mask_real_elements_stay() -> None:
    (a,) = _placeholders((8,))
    masked = te.compute(
        (8,), lambda i: te.if_then_else(te.all(i >= 2, i < 7), a[i - 1], te.const(0, "float32"))
    )
    layout = Layout.identity((8,)).pad(0, 1, 1)
    rewritten = check(_function([a], masked), {0: layout}, np.random.default_rng(0))
    assert "if_then_else" in rewritten.script()


def test_a_border_of_other_fill_keeps_the_guard() -> None:
    (a,) = _placeholders((8,))
    shifted = te.compute((8,), lambda i: te.if_then_else(i >= 1, a[i - 1], te.const(1, "float32")))
    func, layout = _function([a], shifted), Layout.identity((8,)).pad(0, 1, 0)
    rng = np.random.default_rng(0)
    assert "if_then_else" in check(func, {0: layout}, rng).script()
    assert "if_then_else" not in check(func, {0: layout}, rng, fill=1).script()


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_border_must_reach_as_far_as_the_reads(shift: int, before: int, after: int) -> None:
    (a,) = _placeholders((8,))
    shifted = te.compute(
        (8,),
        lambda i: te.if_then_else(
            te.all(i + shift >= 0, i + shift < 8), a[i + shift], te.const(0, "float32")
        ),
    )
    layout = Layout.identity((8,)).pad(0, before, after)
    rewritten = check(_function([a], shifted), {0: layout}, np.random.default_rng(0))
    assert ("if_then_else" in rewritten.script()) == (-shift > before or shift > after)


@pytest.mark.parametrize("fill", [0, -3.5, 2])
@pytest.mark.parametrize("reduce", [topi.sum, topi.max, topi.min, topi.prod])
def test_reductions_leave_the_fill_alone(reduce: Any, fill: float) -> None:
    (a,) = _placeholders((5, 6))
    layout = Layout.identity((5,)).pad(0, 2, 1).split(0, (2, 4))
    check(_function([a], reduce(a, 1)), {1: layout}, np.random.default_rng(0), fill=fill)


@pytest.mark.parametrize("fill", [0, -3.5])
def test_cells_without_an_element_get_the_fill(fill: float) -> None:
    layouts = {
        0: blocked((6, 10), 1, 4),
        1: blocked((10, 12), 1, 8),
        2: blocked((6, 12), 0, 4, ((1, 1, 2),)),
    }
    check(matmul(), layouts, np.random.default_rng(1), fill=fill)


def test_argmax_in_layouts() -> None:
    (a,) = _placeholders((4, 9))
    func = _function([a], topi.argmax(a, 1))
    layout = Layout.identity((4,)).pad(0, 0, 2).split(0, (2, 3))
    both = {"x0_red_temp.v0": layout, "x0_red_temp.v1": layout}
    check(func, {0: blocked((4, 9), 1, 4), "x0_red": layout, **both}, np.random.default_rng(2))
    with pytest.raises(LayoutError, match="computed together"):
        rewrite(func, {"x0_red_temp.v0": layout})


def test_values_reduced_together_do_not_see_each_others_next() -> None:
    (a,) = _placeholders((4, 9))
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
    (a,) = _placeholders((4, 9))
    k = te.reduce_axis((2, 7), "k")
    func = _function([a], te.compute((4,), lambda i: te.sum(a[i, k], axis=k)))
    check(func, {0: blocked((4, 9), 1, 4)}, np.random.default_rng(4))


def test_index_arithmetic_disappears_where_layouts_agree() -> None:
    layout = blocked((2, 6, 4), 1, 2)
    func = _function(*_two_sums((2, 6, 4)))
    text = rewrite(func, {0: layout, 1: layout, 2: layout}).script()
    assert "//" not in text
    assert "%" not in text


def _two_sums(shape: tuple[int, ...]) -> tuple[list[Any], Any]:
    a, b = _placeholders(shape, shape)
    return [a, b], topi.add(a, b)


def test_layouts_that_fit_nothing_are_refused() -> None:
    func = matmul()
    with pytest.raises(LayoutError, match=r"parameter 7: the function has 3"):
        rewrite(func, {7: Layout.identity((6, 10))})
    with pytest.raises(LayoutError, match="0 of that name"):
        rewrite(func, {"nothing": Layout.identity((6, 10))})
    with pytest.raises(LayoutError, match=r"has shape \(6, 10\)"):
        rewrite(func, {0: Layout.identity((10, 6))})


def test_a_function_that_writes_in_place_is_refused() -> None:
    (a,) = _placeholders((4,))
    func = _function([a], topi.cumsum(a))
    with pytest.raises(Opaque):
        rewrite(func, {})
