"""Pictures of small layouts: which stored cell holds which element."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from primitives.errors import LayoutError
from primitives.text import write_shape

if TYPE_CHECKING:
    from primitives.layout import Layout

_MOST_INDICES = 3
"""Elements of tensors with more axes are shown by number, not by their indices."""


def table(layout: Layout, most_cells: int = 1000) -> str:
    """The stored cells as lines of text: the last stored axis across, the others down.

    Each line begins with the indices of the stored axes but the last. A cell shows the logical
    indices of its element, or for tensors of more than three axes its number in row-major order;
    `.` is a cell that holds no element, and `'` marks further copies of an element that unfold
    stored more than once. Dashes separate what differs in more than the last axis but one.

    Args:
        layout: what to show.
        most_cells: refuse to show more stored cells than these.

    Raises:
        LayoutError: if the layout has more cells.

    >>> from primitives.layout import Layout
    >>> print(table(Layout.parse("4x6 split(0,2,2) split(2,2,3) reorder(0,2,1,3)")))
    4x6 split(0,2,2) split(2,2,3) reorder(0,2,1,3): stored as 2x2x2x3
    0,0,0 | 0,0  0,1  0,2
    0,0,1 | 1,0  1,1  1,2
    ------+--------------
    0,1,0 | 0,3  0,4  0,5
    0,1,1 | 1,3  1,4  1,5
    ------+--------------
    1,0,0 | 2,0  2,1  2,2
    1,0,1 | 3,0  3,1  3,2
    ------+--------------
    1,1,0 | 2,3  2,4  2,5
    1,1,1 | 3,3  3,4  3,5
    >>> print(table(Layout.parse("7 pad(0,1,0) unfold(0,4,3)")))
    7 pad(0,1,0) unfold(0,4,3): stored as 3x4
    0 |  .   0   1  2'
    1 |  2   3   4  5'
    2 |  5   6   .   .
    """
    what = f"{layout}: stored as {write_shape(layout.shape)}"
    if layout.elements > most_cells:
        raise LayoutError(
            f"table of {layout}: it stores {layout.elements} cells, and at most {most_cells} are "
            "shown; use a smaller shape with the same steps, or pass a higher most_cells"
        )
    *outer, across = layout.shape or (1,)
    lines: list[tuple[tuple[int, ...], list[str]]] = []
    for row in product(*map(range, outer)):
        cells = ((*row, column)[: len(layout.shape)] for column in range(across))
        lines.append((row, [_cell(layout, cell) for cell in cells]))
    return "\n".join([what, *_ruled(lines)])


def _cell(layout: Layout, cell: tuple[int, ...]) -> str:
    """What a cell of the picture shows."""
    logical, valid = layout.inverse(cell)
    if not valid:
        return "."
    if 0 < len(logical) <= _MOST_INDICES:
        name = ",".join(map(str, logical))
    else:
        extents = layout.logical_shape
        name = str(sum(i * prod(extents[axis + 1 :]) for axis, i in enumerate(logical)))
    return name if tuple(layout.forward(logical)) == cell else f"{name}'"


def _ruled(lines: list[tuple[tuple[int, ...], list[str]]]) -> Iterator[str]:
    """Rows of cells under each other, with labels before them and rules between blocks."""
    width = max(len(cell) for _, row in lines for cell in row)
    labels = [",".join(map(str, label)) for label, _ in lines]
    margin = max(map(len, labels))
    above = lines[0][0]
    for (label, row), name in zip(lines, labels, strict=True):
        cells = "  ".join(cell.rjust(width) for cell in row)
        if label[:-1] != above[:-1]:
            yield f"{'-' * margin}-+-{'-' * len(cells)}"
        yield f"{name.rjust(margin)} | {cells}".rstrip() if label else cells
        above = label
