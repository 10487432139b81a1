"""Laws that hold for every layout.

Bugs the author planted, and what caught each:
- `Pad`: an upper bound of `<=`; `Reorder`: the permutation for its inverse; `Fuse`: wrong strides
  of three axes; `Split`: digits without remainder: each by `test_every_cell_is_an_element_or_fill`,
  none by `test_unpack_undoes_pack`;
- merged reorders composed in the wrong order: `test_builders_mean_the_steps_they_stand_for`;
- `border` that ignores reorders, or pads after a split: `test_border_indices_find_fill`;
- `unpack` that transposes the way `pack` does: `test_unpack_undoes_pack`;
- `Unfold`: the last tile's validity with `<=`, or none; elements at `size` apart instead of
  `stride`: `test_every_cell_is_an_element_or_fill` alone; the kept copy one tile too late, or
  `tiles_of` rounding down: that, `test_unpack_undoes_pack` and
  `test_unfold_keeps_the_copy_that_the_paper_names`;
- `Fold`: forward by `size` for `stride`, a copy kept that lies behind the last tile:
  `test_every_cell_is_an_element_or_fill`; tiles that a pad moved still taken for tiles:
  `test_an_arbitrary_step_loses_no_element`; the stride, the extent, the order of the axes or which
  unfold made them not compared: `test_no_step_drops_an_element` in `test_layout.py`, each;
- `Unpad`: forward that adds, inverse that does not move, margins that stay after a cut:
  `test_every_cell_is_an_element_or_fill`; a split's margin not divided, given to the inner factor
  or rounded up, a fuse's taken of the longest, those of reordered axes left where they were:
  `test_what_is_known_to_be_empty_is_empty`; a border that an unpad leaves as it was:
  `test_border_indices_find_fill`, or for blocks `test_border` in `test_layout.py`;
- simplified though the second step does not undo the first: `test_undo_leaves_no_step`, and
  `test_builders_mean_the_steps_they_stand_for`; empty cells counted without those of tiles, or
  only where the condition changes: `test_every_cell_is_an_element_or_fill`.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tvm import tirx

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.provenance import check
from primitives.reference import pack, unpack
from primitives.steps import Step, Unfold
from tests.primitives.chains import ARBITRARY_STEPS, at, cells, evaluate, layouts, numbered

FILL = -7


def cells_of_elements(layout: Layout) -> None:
    """Each element has a cell in the stored tensor, which holds it."""
    for logical in cells(layout.logical_shape):
        cell = layout.forward(logical)
        assert all(0 <= i < d for i, d in zip(cell, layout.shape, strict=True))
        assert layout.inverse(cell) == (list(logical), True)


@given(layouts())
def test_unpack_undoes_pack(layout: Layout) -> None:
    array = numbered(layout.logical_shape)
    np.testing.assert_array_equal(unpack(pack(array, layout), layout), array)


@given(layouts())
def test_every_cell_is_an_element_or_fill(layout: Layout) -> None:
    array = numbered(layout.logical_shape)
    stored = pack(array, layout, fill=FILL)
    assert stored.shape == layout.shape
    overlapping = any(isinstance(step, Unfold) for step in layout.steps)
    for cell in cells(layout.shape):
        logical, valid = layout.inverse(cell)
        if not valid:
            assert stored[cell] == FILL
            continue
        assert all(0 <= i < d for i, d in zip(logical, layout.logical_shape, strict=True))
        assert stored[cell] == array[tuple(logical)]
        assert overlapping or tuple(layout.forward(logical)) == cell
    cells_of_elements(layout)
    assert layout.padded_elements == (stored == FILL).sum()
    assert layout.has_padding == (FILL in stored)


@given(layouts())
def test_arrays_of_indices_behave_like_ints(layout: Layout) -> None:
    logical, valid = layout.inverse(list(np.indices(layout.shape)))
    for cell in cells(layout.shape):
        assert ([at(i, cell) for i in logical], at(valid, cell)) == layout.inverse(cell)
    stored = layout.forward(list(np.indices(layout.logical_shape)))
    for index in cells(layout.logical_shape):
        assert [at(i, index) for i in stored] == layout.forward(index)


@settings(max_examples=40)
@given(layouts(), st.data())
def test_expressions_behave_like_ints(layout: Layout, data: st.DataObject) -> None:
    stored = [tirx.Var(f"s{k}", "int32") for k in range(len(layout.shape))]
    logical, valid = layout.inverse(stored)
    cell = tuple(data.draw(st.integers(0, extent - 1)) for extent in layout.shape)
    values = dict(zip(stored, cell, strict=True))
    found = [evaluate(i, values) for i in logical], bool(evaluate(valid, values))
    assert found == layout.inverse(cell)
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
    second = data.draw(layouts(Layout(layout.shape), most=2))
    array = numbered(layout.logical_shape)
    both = layout.then(second)
    np.testing.assert_array_equal(pack(array, both), pack(pack(array, layout), second))


@given(layouts())
def test_builders_mean_the_steps_they_stand_for(layout: Layout) -> None:
    built = reduce(Layout.apply, layout.steps, Layout(layout.logical_shape))
    array = numbered(layout.logical_shape)
    np.testing.assert_array_equal(pack(array, built), pack(array, layout))
    assert len(built.steps) <= len(layout.steps)


@given(layouts())
def test_undo_leaves_no_step(layout: Layout) -> None:
    assert layout.undo() == Layout(layout.logical_shape)


@given(layouts())
def test_inverse_steps_give_the_tensor_back(layout: Layout) -> None:
    array = numbered(layout.logical_shape)
    undone = reduce(Layout.apply, layout.inverse_steps(), layout)
    np.testing.assert_array_equal(pack(array, undone), array)


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


@example(Layout.parse("4 pad(0,4,3) unfold(0,3,2)"))
@example(Layout.parse("6 pad(0,4,5) split(0,5,3)"))
@example(Layout.parse("2x3 pad(0,1,2) pad(1,1,1) fuse(0,2)"))
@given(layouts())
def test_what_is_known_to_be_empty_is_empty(layout: Layout) -> None:
    stored = pack(np.ones(layout.logical_shape), layout)
    for axis, known in enumerate(check(layout.logical_shape, layout.steps)):
        extent = layout.shape[axis]
        empty = [*range(known.before), *range(extent - known.after, extent)]
        assert not stored.take(empty, axis).any()


@given(st.lists(st.integers(-1, 6), max_size=4).map(tuple), st.lists(ARBITRARY_STEPS, max_size=5))
def test_arbitrary_steps_are_legal_or_refused(shape: tuple[int, ...], steps: list[Step]) -> None:
    try:
        layout = Layout(shape, tuple(steps))
    except LayoutError:
        return
    array = numbered(shape)
    np.testing.assert_array_equal(unpack(pack(array, layout), layout), array)


@settings(max_examples=300)
@given(layouts(most=4), ARBITRARY_STEPS)
def test_an_arbitrary_step_loses_no_element(layout: Layout, step: Step) -> None:
    try:
        longer = Layout(layout.logical_shape, (*layout.steps, step))
    except LayoutError:
        return
    array = numbered(layout.logical_shape)
    np.testing.assert_array_equal(unpack(pack(array, longer), longer), array)
    cells_of_elements(longer)


@example("9 unfold(0,4,3) fold(0,9,3)")
@given(st.text(alphabet="0123456789x ,()-splitreorderfusepadunfold", max_size=30))
def test_arbitrary_text_is_a_layout_or_refused(text: str) -> None:
    try:
        layout = Layout.parse(text)
    except LayoutError:
        return
    assert Layout.parse(str(layout)) == layout
