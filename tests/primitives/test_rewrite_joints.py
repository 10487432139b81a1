"""Two inputs kept in one buffer are read where they are.

Bugs the author planted in `storage.py`, and what caught each:
- the guest read at the host's first slice: `test_a_bias_stored_at_its_weights_column`;
- the guest's parameter left in place: `test_a_bias_stored_at_its_weights_column`;
- the slice of the guest taken for a border of the host: `test_the_guest_is_no_border`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import te, tirx, topi

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.lower import rewrite
from primitives.store_at import Joint, store_at
from tests.primitives.operators import function, operator, placeholders
from tests.primitives.rewriting import Case, check, check_all

pytestmark = pytest.mark.llvm


def _biased_matmul(rows: int, inner: int, columns: int) -> Any:
    x, w, b = placeholders((rows, inner), (inner, columns), (columns,))
    return function([x, w, b], topi.nn.relu(topi.add(topi.matmul(x, w), b)))


def _beside(weights: tuple[int, ...], bias: tuple[int, ...]) -> Joint:
    """A convolution's bias at the end of each channel's weights."""
    host = Layout.identity(weights).fuse(1, len(weights) - 1)
    return store_at(host, Layout.identity(bias).fuse(0, len(bias)), 1)


def test_a_bias_stored_at_its_weights_column() -> None:
    func = _biased_matmul(5, 6, 8)
    joint = store_at(Layout.identity((6, 8)), Layout.identity((8,)), 0)
    packed = joint.split(1, (2, 4)).reorder((1, 0, 2))
    rng = np.random.default_rng(0)
    rewritten = check_all(
        [Case(func, {}, joints={(1, 2): joint}), Case(func, {}, joints={(1, 2): packed})], rng
    )
    shapes = [[tuple(map(int, p.ty.shape)) for p in f.params] for f in rewritten]
    assert shapes == [[(5, 6), (7, 8), (5, 8)], [(5, 6), (2, 7, 4), (5, 8)]]


@pytest.mark.parametrize("more", ["", "split(0,3,2) reorder(0,2,1)", "pad(1,1,2) unfold(1,20,15)"])
def test_a_bias_stored_at_its_convolutions_weights(more: str) -> None:
    joint = Joint.parse(f"{_beside((6, 4, 3, 3), (6, 1, 1))} {more}")
    func = operator("conv2d")
    layouts = {0: Layout.identity((1, 4, 7, 6)).pad(2, 1, 1).pad(3, 1, 1)}
    check(func, layouts, np.random.default_rng(0), joints={(1, 2): joint})


def test_random_joints() -> None:
    rng = np.random.default_rng(0)
    cases: list[Case] = []
    for _ in range(24):
        rows, inner, columns = (int(n) for n in rng.integers(1, 9, 3))
        host = Layout.identity((inner, columns)).pad(0, int(rng.integers(3)), int(rng.integers(3)))
        guest = Layout.identity((columns,))
        axis = 0
        if rng.integers(2):
            host, axis = host.reorder((1, 0)), 1
        joint = store_at(host, guest, axis)
        joint = joint.pad(int(rng.integers(2)), int(rng.integers(2)), int(rng.integers(3)))
        other = int(rng.integers(2))
        extent = joint.shape[other]
        if rng.integers(2):
            size = int(rng.integers(1, extent + 1))
            joint = joint.unfold(other, size, int(rng.integers(1, size + 1)))
        else:
            joint = joint.reorder((1, 0)).fuse(0, 2)
        fill = float(rng.choice([0, 3]))
        cases.append(Case(_biased_matmul(rows, inner, columns), {}, fill, joints={(1, 2): joint}))
    check_all(cases, rng)


def test_the_guest_is_no_border() -> None:
    """A guard against reading behind the host stays, although there is a slice."""
    x, b = placeholders((6, 3), (3,))
    zero = tirx.const(0, "float32")
    shifted = te.compute(
        (6, 3), lambda i, j: te.if_then_else(i + 1 < 6, x[i + 1, j], zero) + b[j], "y"
    )
    func = function([x, b], shifted)
    for host, guarded in ((Layout.identity((6, 3)), True), (Layout.parse("6x3 pad(0,0,1)"), False)):
        joint = store_at(host, Layout.identity((3,)), 0)
        rewritten = check(func, {}, np.random.default_rng(0), joints={(0, 1): joint})
        assert ("if_then_else" in rewritten.script()) == guarded


def test_what_cannot_share_is_refused() -> None:
    func = _biased_matmul(5, 6, 8)
    joint = store_at(Layout.identity((6, 8)), Layout.identity((8,)), 0)
    with pytest.raises(LayoutError, match=r"is no input; only inputs can share"):
        rewrite(func, {}, joints={(1, 3): joint})
    with pytest.raises(LayoutError, match=r"is no input"):
        rewrite(func, {}, joints={("T_matmul", 2): joint})
    with pytest.raises(LayoutError, match=r"takes \(6, 8\), and x0 has shape \(5, 6\)"):
        rewrite(func, {}, joints={(0, 2): joint})
    with pytest.raises(LayoutError, match=r"x1 has a layout or another joint already"):
        rewrite(func, {1: Layout.parse("6x8 pad(0,0,1)")}, joints={(1, 2): joint})
    with pytest.raises(LayoutError, match=r"x1 has a layout or another joint already"):
        rewrite(func, {}, joints={(1, 2): joint, ("x1", "x2"): joint})
    with pytest.raises(LayoutError, match=r"fills 1 and 0 for one buffer"):
        rewrite(func, {}, joints={(1, 2): joint}, fill={1: 1})
    with pytest.raises(LayoutError, match=r"joint of parameter 9: the function has 4"):
        rewrite(func, {}, joints={(1, 9): joint})
    square = store_at(Layout.identity((1, 4)), Layout.identity((1, 4)).fuse(0, 2), 0)
    (x,) = placeholders((1, 4))
    with pytest.raises(LayoutError, match=r"they are one tensor"):
        rewrite(function([x], topi.nn.relu(x)), {}, joints={(0, "x0"): square})
    x, y = te.placeholder((1, 4), "int8", "x"), te.placeholder((1, 4), "int32", "y")
    mixed = function([x, y], te.compute((1, 4), lambda i, j: x[i, j].astype("int32") + y[i, j]))
    with pytest.raises(LayoutError, match=r"int8 and int32; cast one"):
        rewrite(mixed, {}, joints={(0, 1): square})
