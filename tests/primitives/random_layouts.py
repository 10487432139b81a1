"""Random layouts: chains of legal steps, also such that undo each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.stages import shape_of_buffer, stages_of
from primitives.steps import Fold, Fuse, Pad, Reorder, Split, Step, Unfold, Unpad


def _random_step(rng: np.random.Generator, layout: Layout) -> Step:
    """One step that the layout's shape allows."""
    shape = layout.shape
    axis = int(rng.integers(len(shape)))
    extent = shape[axis]
    match rng.integers(6):
        case 0:
            inner = int(rng.choice([f for f in range(1, extent + 1) if extent % f == 0]))
            return Split(axis, (extent // inner, inner))
        case 1:
            return Reorder(tuple(int(p) for p in rng.permutation(len(shape))))
        case 2:
            return Fuse(axis, int(rng.integers(1, len(shape) - axis + 1)))
        case 3:
            return Pad(axis, int(rng.integers(3)), int(rng.integers(3)))
        case _:
            size = int(rng.integers(1, extent + 1))
            return Unfold(axis, size, int(rng.integers(max(1, size // 2), size + 1)))


def _inverse(step: Step, shape: tuple[int, ...]) -> Step:
    """The step that undoes one that was applied to a tensor of this shape."""
    match step:
        case Split(axis, factors):
            return Fuse(axis, len(factors))
        case Fuse(axis, count):
            return Split(axis, shape[axis : axis + count])
        case Reorder(perm):
            return Reorder(tuple(int(p) for p in np.argsort(perm)))
        case Pad(axis, before, after):
            return Unpad(axis, before, after)
        case Unfold(axis, _, stride):
            return Fold(axis, shape[axis], stride)
        case _:
            raise AssertionError(step)


def random_layout(rng: np.random.Generator, shape: tuple[int, ...], steps: int = 5) -> Layout:
    """A chain of at most so many random legal steps that at most quadruples the tensor.

    One in four layouts has a step, perhaps a pad of another axis, and then that step's inverse,
    written out where `Layout.apply` would cancel them.
    """
    chain: tuple[Step, ...] = ()
    layout = Layout.identity(shape)
    goal = int(rng.integers(0, steps + 1))
    for _ in range(3 * goal):
        if not layout.shape or len(chain) >= goal:
            break
        step = _random_step(rng, layout)
        tried: tuple[Step, ...] = (step,)
        if goal - len(chain) >= 3 and rng.integers(4) == 0:
            undo = _inverse(step, layout.shape)
            last = len(layout.apply(step).shape) - 1
            touched = {Pad: 1, Unfold: 2}.get(type(step), last + 1)
            apart = touched <= last and step.arguments[0] + touched <= last
            between = (Pad(last, 0, 1),) if apart else ()
            tried = (step, *between, undo)
        try:
            grown = Layout(shape, (*chain, *tried))
        except LayoutError:
            continue
        if grown.elements <= 4 * layout_cells(shape) and len(grown.shape) <= 9:
            chain, layout = grown.steps, grown
    return layout


def layout_cells(shape: tuple[int, ...]) -> int:
    """Elements of a tensor of this shape."""
    return Layout.identity(shape).elements


def random_layouts(rng: np.random.Generator, func: Any) -> Mapping[str | int, Layout]:
    """Layouts for every parameter of a function, and for half of the tensors inside."""
    layouts: dict[str | int, Layout] = {
        k: random_layout(rng, shape_of_buffer(p)) for k, p in enumerate(func.params)
    }
    params = {str(p.name) for p in func.params}
    for stage in stages_of(func):
        for buffer in stage.outputs:
            if str(buffer.name) not in params and rng.integers(2):
                layouts[str(buffer.name)] = random_layout(rng, shape_of_buffer(buffer))
    return layouts
