"""Pictures of layouts show each cell where it is.

Bugs the author planted, and what caught each:
- rows and columns exchanged, `.` for the wrong cells, copies marked at the canonical place: each by
  `test_every_cell_is_shown_where_it_is`.
"""

from __future__ import annotations

import pytest
from hypothesis import given

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.reference import pack
from tests.primitives.chains import layouts, numbered


@given(layouts(most=3).filter(lambda layout: layout.elements <= 300))
def test_every_cell_is_shown_where_it_is(layout: Layout) -> None:
    """Read back as a tensor of row-major numbers, the picture is the packed tensor."""
    title, *lines = layout.table().splitlines()
    assert title.startswith(str(layout))
    rows = [line.split(" | ")[-1].split() for line in lines if "-+-" not in line]
    expected = pack(numbered(layout.logical_shape, first=0), layout, fill=-1)
    found: list[int] = []
    copies = 0
    for cell in (cell for row in rows for cell in row):
        copies += cell.endswith("'")
        indices = [int(i) for i in cell.rstrip("'").split(",")] if cell != "." else []
        number = indices[0] if indices else -1
        if len(indices) > 1:
            number = 0
            for index, extent in zip(indices, layout.logical_shape, strict=True):
                number = number * extent + index
        found.append(number)
    assert found == expected.ravel().tolist()
    assert {len(row) for row in rows} == {(layout.shape or (1,))[-1]}
    assert len(found) - copies - layout.padded_elements == numbered(layout.logical_shape).size


def test_labels_and_rules_name_the_outer_axes() -> None:
    lines = Layout.parse("2x2x2 reorder(2,0,1)").table().splitlines()[1:]
    assert [line.split(" | ")[0] for line in lines if "-+-" not in line] == [
        "0,0",
        "0,1",
        "1,0",
        "1,1",
    ]
    assert ["-+-" in line for line in lines] == [False, False, True, False, False]


def test_a_scalar_and_a_vector_have_one_row() -> None:
    assert Layout(()).table().splitlines()[1:] == ["0"]
    assert Layout((3,)).pad(0, 1, 0).table().splitlines()[1:] == [".  0  1  2"]


def test_big_layouts_are_refused() -> None:
    with pytest.raises(LayoutError, match="it stores 1001 cells, and at most 1000 are shown"):
        Layout((1001,)).table()
    assert len(Layout((1001,)).table(most_cells=1001).splitlines()) == 2
