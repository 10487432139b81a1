"""How many more cells a layout stores than its tensor has elements."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from primitives.errors import LayoutError
from primitives.steps import Unfold
from primitives.text import write_steps

if TYPE_CHECKING:
    from primitives.layout import Layout


def empty_cells(layout: Layout) -> int:
    """How many stored cells hold no element."""
    if not any(isinstance(step, Unfold) for step in layout.steps):
        return layout.elements - prod(layout.logical_shape)
    _, valid = layout.inverse(list(np.indices(layout.shape, sparse=True)))
    # The condition has an extent of 1 along the stored axes that it does not depend on.
    return 0 if valid is True else int((~valid).sum()) * (layout.elements // valid.size)


def check_expansion(layout: Layout, most: float) -> None:
    """Refuse a layout that stores more cells per element.

    >>> from primitives.layout import Layout
    >>> check_expansion(Layout.identity((4, 6)).pad(0, 2, 2).unfold(1, 3, 1), most=2)
    Traceback (most recent call last):
        ...
    primitives.errors.LayoutError: 4x6 pad(0,2,2) unfold(1,3,1) within 2 times its elements: it
    stores 96 cells for 24 elements, 4 times as many, by pad(0,2,2) (2 times) and unfold(1,3,1)
    (2 times); use smaller pads, tiles that overlap less, or a higher bound
    """
    if layout.expansion <= most:
        return
    grown: list[str] = []
    shape = layout.logical_shape
    for step in layout.steps:
        stored = step.shape(shape)
        if prod(stored) > prod(shape):
            grown.append(f"{write_steps([step])} ({prod(stored) / prod(shape):.4g} times)")
        shape = stored
    raise LayoutError(
        f"{layout} within {most:g} times its elements: it stores {layout.elements} cells for "
        f"{prod(layout.logical_shape)} elements, {layout.expansion:.4g} times as many"
        + f", by {' and '.join(grown)}" * bool(grown)
        + "; use smaller pads, tiles that overlap less, or a higher bound"
    )
