"""Random chains of layout steps, and what the laws about them need."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tvm import tirx

from primitives.layout import Layout
from primitives.provenance import check
from primitives.steps import Fold, Fuse, Pad, Reorder, Split, Step, Unfold, Unpad
from primitives.store_at import Joint
from primitives.tensorir import ffi, sym

# Sampled, not drawn as integers or lists, which would be small or empty far too often.
SHAPES = st.sampled_from([1, 2, 3, 2, 4, 0]).flatmap(
    lambda rank: st.tuples(*[st.sampled_from([1, 2, 3, 4, 5, 6, 7])] * rank)
)

ARBITRARY_STEPS = st.one_of(
    st.builds(Split, st.integers(-2, 5), st.lists(st.integers(-1, 7), max_size=3).map(tuple)),
    st.builds(Reorder, st.lists(st.integers(-1, 4), max_size=5).map(tuple)),
    st.builds(Fuse, st.integers(-2, 5), st.integers(-1, 5)),
    st.builds(Pad, st.integers(-2, 5), st.integers(-2, 4), st.integers(-2, 4)),
    st.builds(Unpad, st.integers(-2, 5), st.integers(-2, 4), st.integers(-2, 4)),
    st.builds(Unfold, st.integers(-2, 5), st.integers(-2, 7), st.integers(-2, 7)),
    st.builds(Fold, st.integers(-2, 5), st.integers(-2, 9), st.integers(-2, 7)),
)


@st.composite
def steps_on(draw: st.DrawFn, layout: Layout) -> Step:
    """A legal step for a tensor that is stored so and has at least one axis."""
    rank = len(layout.shape)
    axis = draw(st.integers(0, rank - 1))
    extent = layout.shape[axis]
    known = check(layout.logical_shape, layout.steps)
    kinds = ["split", "reorder", "fuse", "pad", "unfold"]
    cuts = [a for a in range(rank) if known[a].before or known[a].after]
    folds = [
        a
        for a in range(rank - 1)
        if known[a].unfolded is not None
        and known[a].unfolded == known[a + 1].unfolded
        and not known[a].place
        and known[a + 1].place
    ]
    kinds += ["unpad"] * (2 * bool(cuts)) + ["fold"] * (4 * bool(folds))
    match draw(st.sampled_from(kinds)):
        case "split":
            factors: list[int] = []
            while extent > 1 and len(factors) < 3:
                factors.append(
                    draw(st.sampled_from([f for f in range(1, extent + 1) if extent % f == 0]))
                )
                extent //= factors[-1]
            return Split(axis, (*factors, extent))
        case "reorder":
            return Reorder(tuple(draw(st.permutations(range(rank)))))
        case "fuse":
            return Fuse(axis, draw(st.integers(1, rank - axis)))
        case "pad":
            pads = st.sampled_from([1, 0, 2, 3])
            return Pad(axis, draw(pads), draw(pads))
        case "unpad":
            axis = draw(st.sampled_from(cuts))
            before = draw(st.sampled_from(range(known[axis].before, -1, -1)))
            return Unpad(axis, before, draw(st.sampled_from(range(known[axis].after, -1, -1))))
        case "fold":
            axis = draw(st.sampled_from(folds))
            origin = known[axis].unfolded
            assert origin is not None
            return Fold(axis, origin[2], origin[1].stride)
        case _:
            size = draw(st.sampled_from(range(1, extent + 1)))
            return Unfold(axis, size, draw(st.sampled_from(range(1, size + 1))))


@st.composite
def layouts(draw: st.DrawFn, start: Layout | None = None, most: int = 5) -> Layout:
    """A chain of up to five legal steps, as written or as the builders simplify it."""
    layout = Layout(draw(SHAPES)) if start is None else start
    built = draw(st.booleans())
    for _ in range(draw(st.sampled_from(range(most, -1, -1)))):
        if not layout.shape or len(layout.shape) > 8:
            break
        step = draw(steps_on(layout))
        longer = Layout(layout.logical_shape, (*layout.steps, step))
        if longer.elements > 4_000:
            break
        layout = layout.apply(step) if built else longer
    return layout


@st.composite
def joints(draw: st.DrawFn) -> Joint:
    """Two small tensors in one buffer."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    host = draw(layouts(Layout(shape), most=2).filter(lambda host: bool(host.shape)))
    axis = draw(st.integers(0, len(host.shape) - 1))
    wanted = (*host.shape[:axis], *host.shape[axis + 1 :])
    guest = Layout(wanted)
    longer = [a for a, extent in enumerate(wanted) if extent > 1]
    match draw(st.sampled_from(["plain", "reordered", "padded"])):
        case "reordered":
            order = draw(st.permutations(range(len(wanted))))
            guest = Layout(tuple(wanted[a] for a in order))
            guest = guest.reorder(sorted(range(len(wanted)), key=order.__getitem__))
        case "padded" if longer:
            a = draw(st.sampled_from(longer))
            before = draw(st.integers(0, wanted[a] - 1))
            less = draw(st.integers(before, wanted[a] - 1))
            guest = Layout((*wanted[:a], wanted[a] - less, *wanted[a + 1 :]))
            guest = guest.pad(a, before, less - before)
        case _:
            pass
    joint = Joint(host, guest, axis)
    return Joint(host, guest, axis, draw(layouts(Layout(joint.shape), most=3)).steps)


def cells(shape: tuple[int, ...]) -> Any:
    """All indices of a shape, in row-major order."""
    return itertools.product(*map(range, shape))


def numbered(shape: tuple[int, ...], first: int = 1) -> Any:
    """An array with another number in each place."""
    return np.arange(int(np.prod(shape))).reshape(shape) + first


def at(index: Any, cell: tuple[int, ...]) -> Any:
    """An index or a validity at one cell of the grid that it was computed for."""
    return index[cell] if isinstance(index, np.ndarray) else index


def evaluate(expr: Any, values: dict[Any, int]) -> int:
    """The number that an index expression is for these values of its variables."""
    if isinstance(expr, int | bool):
        return int(expr)
    put = ffi.structural_map(expr, [(tirx.Var, lambda v: tirx.const(values[v], str(v.ty.dtype)))])
    return int(sym.Analyzer().simplify(put))
