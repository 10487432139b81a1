"""Layouts by example: what the builders simplify, what is refused and how it is said."""

from __future__ import annotations

import numpy as np
import pytest

from primitives.errors import LayoutError
from primitives.layout import Layout, blocked
from primitives.reference import pack, unpack
from primitives.steps import Fold, Fuse, Pad, Reorder, Split, Step, Unfold, Unpad
from primitives.text import read_steps
from tests.primitives.chains import numbered


def test_builders_drop_what_does_nothing() -> None:
    layout = Layout.identity((4, 6))
    assert layout.split(0, (4,)).fuse(1, 1).pad(0, 0, 0).reorder((0, 1)) == layout
    assert layout.reorder((1, 0)).reorder((1, 0)) == layout
    assert layout.reorder((1, 0)).reorder((1, 0)).is_identity
    assert not layout.split(1, (2, 3)).is_identity


SIMPLER = [
    ("6 split(0,2,3) fuse(0,2)", "6"),
    ("2x3 fuse(0,2) split(0,2,3)", "2x3"),
    ("2x3 fuse(0,2) split(0,3,2)", "2x3 fuse(0,2) split(0,3,2)"),
    ("2x3x2 fuse(0,3) split(0,2,6)", "2x3x2 fuse(0,3) split(0,2,6)"),
    ("6 split(0,2,3) pad(0,0,1) fuse(0,2)", "6 split(0,2,3) pad(0,0,1) fuse(0,2)"),
    ("4 pad(0,2,2) unpad(0,2,2)", "4"),
    ("4 pad(0,2,2) unpad(0,1,2)", "4 pad(0,1,0)"),
    ("4 pad(0,2,0) pad(0,1,3) unpad(0,2,3)", "4 pad(0,1,0)"),
    ("4 pad(0,3,3) split(0,2,5) fuse(0,2) unpad(0,2,1)", "4 pad(0,1,2)"),
    ("4 pad(0,3,3) reorder(0) unpad(0,3,0)", "4 pad(0,0,3)"),
    ("9 unfold(0,4,3) fold(0,9,3)", "9"),
    ("9 unfold(0,4,3) fold(0,9,3) unfold(0,4,3)", "9 unfold(0,4,3)"),
    ("2x3x4 reorder(1,2,0) reorder(2,0,1)", "2x3x4"),
]


@pytest.mark.parametrize(("written", "expected"), SIMPLER)
def test_builders_drop_steps_that_undo_each_other(written: str, expected: str) -> None:
    start, *texts = written.split(" ")
    layout = Layout.parse(start)
    for text in texts:
        (step,) = read_steps(text) or ()
        layout = layout.apply(step)
    assert str(layout) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1x5x7 pad(1,2,3) reorder(1,2,0) unpad(0,1,3)",
        "6 pad(0,4,5) split(0,5,3) unpad(0,1,1)",
        "1x1x5 pad(2,0,3) fuse(0,3) unpad(0,0,3)",
        "2x3 pad(0,1,0) fuse(0,2) unpad(0,3,0)",
        "4 pad(0,5,6) unfold(0,3,2) unpad(0,2,2)",
        "4 pad(0,1,1) unfold(0,3,1) fold(0,6,1) unpad(0,1,1)",
        "8x3 unfold(0,4,2) pad(2,1,0) reorder(2,0,1) fold(1,8,2)",
        "8 unfold(0,4,2) unfold(0,2,1) fold(0,3,1) fold(0,8,2)",
    ],
)
def test_cells_that_hold_no_element_may_go(text: str) -> None:
    layout = Layout.parse(text)
    array = numbered(layout.logical_shape)
    np.testing.assert_array_equal(unpack(pack(array, layout), layout), array)


MAY_HOLD_ELEMENTS = [
    ("4 pad(0,1,1) unpad(0,0,2)", "only its first 1 and last 1 cells are known to hold no element"),
    ("4 pad(0,1,1) split(0,3,2) unpad(0,0,1)", "only its first 0 and last 0 cells"),
    ("4 pad(0,3,1) split(0,4,2) unpad(0,1,1)", "only its first 1 and last 0 cells"),
    ("2x3 pad(1,1,0) fuse(0,2) unpad(0,2,0)", "only its first 1 and last 0 cells"),
    ("4 pad(0,4,3) unfold(0,3,2) unpad(0,2,0)", "only its first 1 and last 1 cells"),
    ("9 unfold(0,4,3) fold(0,10,3)", "unfolded from 9 with stride 3; fold with these"),
    ("9 unfold(0,4,3) fold(0,9,4)", "unfolded from 9 with stride 3; fold with these"),
    ("3x4 fold(0,10,3)", "undo the steps since the unfold first"),
    ("8x3x3 unfold(0,4,2) reorder(0,2,1,3) fold(0,7,2)", "undo the steps since the unfold first"),
    ("10 unfold(0,4,2) reorder(1,0) fold(0,10,2)", "undo the steps since the unfold first"),
    ("8 unfold(0,4,2) pad(0,1,0) fold(0,10,2)", "undo the steps since the unfold first"),
    ("8x8 unfold(1,4,2) unfold(0,4,2) reorder(0,3,2,1) fold(0,8,2)", "undo the steps since"),
]


@pytest.mark.parametrize(("text", "message"), MAY_HOLD_ELEMENTS)
def test_no_step_drops_an_element(text: str, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        Layout.parse(text)
    before, last = text.rsplit(" ", 1)
    (step,) = read_steps(last) or ()
    with pytest.raises(LayoutError, match=message):
        Layout.parse(before).apply(step)


@pytest.mark.parametrize(
    ("extent", "size", "stride"), [(8, 4, 2), (9, 4, 3), (7, 7, 1), (10, 3, 3)]
)
def test_unfold_keeps_the_copy_that_the_paper_names(extent: int, size: int, stride: int) -> None:
    layout = Layout((extent,)).unfold(0, size, stride)
    tiles = -((size - extent) // stride) + 1
    assert layout.shape == (tiles, size)
    for e in range(extent):
        p = min(e // stride, tiles - 1)
        assert layout.forward((e,)) == [p, e - stride * p]


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
    (
        Unpad(1, 20, 10),
        "unpad axis 1 of (1, 30) by 20 before and 10 after: 0 cells would be left; keep at least 1",
    ),
    (
        Unfold(1, 4, 6),
        (
            "unfold axis 1 of (1, 30) into tiles of 4 every 6: elements between tiles would be "
            "lost; use a stride of 1 to 4"
        ),
    ),
    (
        Unfold(1, 32, 6),
        (
            "unfold axis 1 of (1, 30) into tiles of 32 every 6: the axis is shorter than a tile; "
            "pad it by 2 first"
        ),
    ),
    (
        Fold(0, 40, 10),
        (
            "fold axes 0 and 1 of (1, 30) into 40 with stride 10: that would be 2 tiles, not 1; "
            "use an extent of 30 to 30"
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


def test_a_bound_on_what_is_stored() -> None:
    layout = Layout.identity((2, 8)).unfold(1, 4, 2).pad(0, 0, 1)
    assert layout.expansion == 36 / 16
    assert layout.within(2.25) is layout
    with pytest.raises(LayoutError) as caught:
        layout.within(2)
    for part in ("36 cells", "16 elements", "2.25 times", "unfold(1,4,2)", "pad(0,0,1)", "bound"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "border"),
    [
        ("4x4 pad(0,2,1) unfold(0,3,1)", ((2, 1), (0, 0))),
        ("4x4 pad(0,2,1) unpad(0,1,0)", ((1, 1), (0, 0))),
        # Cutting a row of the blocks cuts off what the border would have found.
        ("4x4 pad(0,2,2) pad(1,1,1) split(0,4,2) unpad(0,1,0)", ((0, 0), (1, 1))),
    ],
)
def test_border(text: str, border: tuple[tuple[int, int], ...]) -> None:
    assert Layout.parse(text).border == border
