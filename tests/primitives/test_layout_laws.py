"""Laws that hold for every layout.

Bugs the author planted, and what caught each:
- `Pad`: an upper bound of `<=`; `Reorder`: the permutation for its inverse; `Fuse`: wrong strides
  of three axes; `Split`: digits without remainder: each by `test_every_cell_is_an_element_or_fill`,
  none by `test_unpack_undoes_pack`;
- merged reorders composed in the wrong order: `test_builders_mean_the_steps_they_stand_for`;
- `border` that ignores reorders, or pads after a split: `test_border_indices_find_fill`;
- `unpack` that transposes the way `pack` does: `test_unpack_undoes_pack`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from primitives.errors import LayoutError
from primitives.layout import Layout, blocked
from primitives.reference import pack, unpack
from primitives.steps import Fuse, Pad, Reorder, Split, Step
from primitives.tensorir import ffi, sym

SHAPES = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """A chain of up to five legal steps."""
    layout = Layout(draw(SHAPES))
    for _ in range(draw(st.integers(0, 5))):
        rank = len(layout.shape)
        if not rank or rank > 8 or layout.elements > 20_000:
            break
        axis = draw(st.integers(0, rank - 1))
        match draw(st.sampled_from(["split", "reorder", "fuse", "pad"])):
            case "split":
                factors: list[int] = []
                left = layout.shape[axis]
                while left > 1 and len(factors) < 3:
                    factor = draw(st.sampled_from([f for f in range(1, left + 1) if left % f == 0]))
                    factors.append(factor)
                    left //= factor
                layout = Layout(
                    layout.logical_shape, (*layout.steps, Split(axis, (*factors, left)))
                )
            case "reorder":
                layout = layout.reorder(draw(st.permutations(range(rank))))
            case "fuse":
                layout = layout.fuse(axis, draw(st.integers(1, rank - axis)))
            case _:
                layout = layout.pad(axis, draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    return layout


def cells(shape: tuple[int, ...]) -> Any:
    """All indices of a shape, in row-major order."""
    return itertools.product(*map(range, shape))


@given(layouts())
def test_unpack_undoes_pack(layout: Layout) -> None:
    array = np.arange(np.prod(layout.logical_shape)).reshape(layout.logical_shape) + 1
    np.testing.assert_array_equal(unpack(pack(array, layout), layout), array)


@given(layouts())
def test_every_cell_is_an_element_or_fill(layout: Layout) -> None:
    array = np.arange(np.prod(layout.logical_shape)).reshape(layout.logical_shape) + 1
    stored = pack(array, layout, fill=-7)
    assert stored.shape == layout.shape
    held: set[tuple[int, ...]] = set()
    for cell in cells(layout.shape):
        logical, valid = layout.inverse(cell)
        if not valid:
            assert stored[cell] == -7
            continue
        assert all(0 <= i < d for i, d in zip(logical, layout.logical_shape, strict=True))
        assert stored[cell] == array[tuple(logical)]
        assert tuple(layout.forward(logical)) == cell
        held.add(tuple(logical))
    assert len(held) == array.size
    assert layout.padded_elements == stored.size - array.size


@given(layouts())
def test_arrays_of_indices_behave_like_ints(layout: Layout) -> None:
    grid = list(np.indices(layout.shape))
    logical, valid = layout.inverse(grid)
    for cell in cells(layout.shape):
        expected, inside = layout.inverse(cell)
        found = [i if isinstance(i, int) else int(i[cell]) for i in logical]
        assert found == expected
        assert bool(valid if valid is True else valid[cell]) == bool(inside)


@settings(max_examples=40)
@given(layouts(), st.data())
def test_expressions_behave_like_ints(layout: Layout, data: st.DataObject) -> None:
    analyzer = sym.Analyzer()

    def evaluate(expr: Any, values: dict[Any, int]) -> int:
        if isinstance(expr, int | bool):
            return int(expr)
        put = ffi.structural_map(
            expr, [(tirx.Var, lambda v: tirx.const(values[v], str(v.ty.dtype)))]
        )
        return int(analyzer.simplify(put))

    stored = [tirx.Var(f"s{k}", "int32") for k in range(len(layout.shape))]
    logical, valid = layout.inverse(stored)
    cell = tuple(data.draw(st.integers(0, extent - 1)) for extent in layout.shape)
    expected, inside = layout.inverse(cell)
    values = dict(zip(stored, cell, strict=True))
    assert [evaluate(i, values) for i in logical] == expected
    assert bool(evaluate(valid, values)) == bool(inside)
    axes = [tirx.Var(f"l{k}", "int32") for k in range(len(layout.logical_shape))]
    index = tuple(data.draw(st.integers(0, extent - 1)) for extent in layout.logical_shape)
    forward = [evaluate(i, dict(zip(axes, index, strict=True))) for i in layout.forward(axes)]
    assert forward == layout.forward(index)


@given(layouts())
def test_text_parses_back(layout: Layout) -> None:
    again = Layout.parse(str(layout))
    assert again == layout
    assert hash(again) == hash(layout)
    assert again.shape == layout.shape


@given(layouts(), st.data())
def test_then_is_one_layout_after_the_other(layout: Layout, data: st.DataObject) -> None:
    second = Layout(layout.shape)
    if layout.shape:
        second = second.pad(0, 1, 0).reorder(data.draw(st.permutations(range(len(layout.shape)))))
    array = np.arange(np.prod(layout.logical_shape)).reshape(layout.logical_shape)
    both = layout.then(second)
    np.testing.assert_array_equal(pack(array, both), pack(pack(array, layout), second))


@given(layouts(), st.data())
def test_builders_mean_the_steps_they_stand_for(layout: Layout, data: st.DataObject) -> None:
    orders = st.permutations(range(len(layout.shape))).map(tuple)
    first, second = Reorder(data.draw(orders)), Reorder(data.draw(orders))
    built = layout.apply(first).apply(second)
    written = Layout(layout.logical_shape, (*layout.steps, first, second))
    array = np.arange(np.prod(layout.logical_shape)).reshape(layout.logical_shape)
    np.testing.assert_array_equal(pack(array, built), pack(array, written))


@given(layouts())
def test_border_indices_find_fill(layout: Layout) -> None:
    array = np.ones(layout.logical_shape)
    stored = pack(array, layout)
    for axis, (before, after) in enumerate(layout.border):
        extent = layout.logical_shape[axis]
        for outside in (*range(-before, 0), *range(extent, extent + after)):
            index = [0] * array.ndim
            index[axis] = outside
            cell = tuple(layout.forward(index))
            assert all(0 <= i < d for i, d in zip(cell, layout.shape, strict=True))
            assert stored[cell] == 0


STEPS = st.one_of(
    st.builds(Split, st.integers(-2, 5), st.lists(st.integers(-1, 7), max_size=3).map(tuple)),
    st.builds(Reorder, st.lists(st.integers(-1, 4), max_size=5).map(tuple)),
    st.builds(Fuse, st.integers(-2, 5), st.integers(-1, 5)),
    st.builds(Pad, st.integers(-2, 5), st.integers(-2, 4), st.integers(-2, 4)),
)


@given(st.lists(st.integers(-1, 6), max_size=4).map(tuple), st.lists(STEPS, max_size=5))
def test_arbitrary_steps_are_legal_or_refused(shape: tuple[int, ...], steps: list[Step]) -> None:
    try:
        layout = Layout(shape, tuple(steps))
    except LayoutError:
        return
    array = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(unpack(pack(array, layout), layout), array)


@given(st.text(alphabet="0123456789x ,()-splitreorderfusepad", max_size=30))
def test_arbitrary_text_is_a_layout_or_refused(text: str) -> None:
    try:
        layout = Layout.parse(text)
    except LayoutError:
        return
    assert Layout.parse(str(layout)) == layout


def test_builders_drop_what_does_nothing() -> None:
    layout = Layout.identity((4, 6))
    assert layout.split(0, (4,)).fuse(1, 1).pad(0, 0, 0).reorder((0, 1)) == layout
    assert layout.reorder((1, 0)).reorder((1, 0)) == layout
    assert layout.reorder((1, 0)).reorder((1, 0)).is_identity
    assert not layout.split(1, (2, 3)).is_identity


REFUSALS: list[tuple[Step, str]] = [
    (
        Split(1, (2, 16)),
        "split axis 1 of (1, 30) into (2, 16): 30 is not a multiple of 16; pad it by 2 first",
    ),
    (
        Split(1, (2, 15, 2)),
        (
            "split axis 1 of (1, 30) into (2, 15, 2): the factors' product is 60, not 30; "
            "split by 15 by 2 takes 1 as its first factor"
        ),
    ),
    (Split(2, (1,)), "split axis 2 of (1, 30): there is no axis 2; axes are 0 to 1"),
    (
        Reorder((0, 0)),
        "reorder (1, 30) by (0, 0): not a permutation of its 2 axes; name each of 0 to 1 once",
    ),
    (Fuse(1, 2), "fuse 2 axes from axis 1 of (1, 30): there are 1; fuse 1 to 1"),
    (
        Pad(0, -1, 0),
        (
            "pad axis 0 of (1, 30) by -1 before and 0 after: pads must be 0 or more; "
            "to cut a tensor, slice it"
        ),
    ),
]


@pytest.mark.parametrize(("step", "message"), REFUSALS)
def test_errors_say_what_to_do(step: Step, message: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout((1, 30), (step,))
    assert str(caught.value) == message


def test_a_factor_left_open_must_divide() -> None:
    assert Layout((1, 30)).split(1, (-1, 15)).shape == (1, 2, 15)
    with pytest.raises(LayoutError, match="30 is not a multiple of 16; pad it by 2 first"):
        Layout((1, 30)).split(1, (-1, 16))


@pytest.mark.parametrize(("channels", "block"), [(32, 16), (24, 16), (3, 8), (5, 1)])
def test_blocked_stores_blocks_innermost(channels: int, block: int) -> None:
    layout = blocked((2, channels, 4, 5), 1, block, border=((2, 1, 0), (3, 2, 2)))
    blocks = -(-channels // block)
    expected = (2, blocks, 5, 9, block) if block > 1 else (2, channels, 5, 9)
    assert layout.shape == expected
    assert layout.border[2:] == ((1, 0), (2, 2))
    assert layout.forward((1, channels - 1, 0, 0))[1] == (channels - 1) // block
