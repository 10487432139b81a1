"""The converse of a layout: functions over stored tensors become functions over logical ones.

Bugs the author planted, and what caught each:
- cells without an element read as if they held one:
  `test_a_cell_without_an_element_is_read_as_fill`;
- fill of another tensor read for them: `test_a_cell_without_an_element_is_read_as_fill`;
- the stored indices of an output taken for its logical ones: `test_back_from_random_layouts`;
- source and target of a conversion exchanged: `test_conversions`.
"""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te

from primitives.errors import LayoutError
from primitives.layout import Layout, blocked
from primitives.lower import conversion, rewrite
from primitives.reference import pack
from primitives.stages import shape_of_buffer, stages_of
from primitives.storage import Unpacked
from tests.primitives.operators import function, operator, placeholders
from tests.primitives.random_layouts import random_layout
from tests.primitives.rewriting import check_all, compiled, run, spoiled
from tests.primitives.test_rewrite_random import random_cases

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("name", ["matmul", "strided_conv2d", "max_pool2d", "softmax"])
def test_back_from_random_layouts(name: str) -> None:
    cases, rng = random_cases(name, 7, 4)
    check_all([case for case in cases if case.back], rng)


def test_back_is_the_function_as_it_was() -> None:
    func = operator("conv2d")
    layouts = {0: blocked((1, 4, 7, 6), 1, 4), 3: blocked((1, 6, 7, 6), 1, 3)}
    there = rewrite(func, layouts)
    back = rewrite(there, {k: Unpacked(v) for k, v in layouts.items()})
    assert [shape_of_buffer(p) for p in back.params] == [shape_of_buffer(p) for p in func.params]
    text = back.script()
    assert "//" not in text and "%" not in text


def test_a_cell_without_an_element_is_read_as_fill() -> None:
    stored, other = placeholders((8,), (8,))
    total = te.compute((8,), lambda i: stored[i] * 10 + other[i], "total")
    func = function([stored, other], total)
    layout = Layout.identity((5,)).pad(0, 1, 2)
    first, second = np.arange(5, dtype="float32"), np.arange(8, dtype="float32")
    unpacked = rewrite(func, {0: Unpacked(layout)}, fill={0: 3, 1: 4, "total": 5})
    found = run(unpacked, [first, second, spoiled((8,), "float32")])[2]
    np.testing.assert_array_equal(found, pack(first, layout, 3) * 10 + second)


def test_only_cells_that_hold_an_element_are_written() -> None:
    (x,) = placeholders((7,))
    func = function([x], te.compute((7,), lambda i: x[i] + 1, "y"))
    layout = Layout.identity((3,)).unfold(0, 2, 1).pad(0, 0, 0).fuse(0, 2).pad(0, 1, 2)
    unpacked = rewrite(func, {1: Unpacked(layout)})
    assert [axis.extent for axis in stages_of(unpacked)[0].spatial] == [3]
    cells = np.arange(7, dtype="float32")
    found = run(unpacked, [cells, spoiled((3,), "float32")])[1]
    np.testing.assert_array_equal(found, [layout.forward([e])[0] + 1 for e in range(3)])


def _convert(source: Layout, target: Layout, fill: float, given: np.ndarray) -> None:
    func = conversion(source, target, str(given.dtype), fill=fill)
    found = run(func, [pack(given, source, 1), spoiled(target.shape, str(given.dtype))])[1]
    np.testing.assert_array_equal(found, pack(given, target, fill), err_msg=f"{source} to {target}")


def test_conversions() -> None:
    rng = np.random.default_rng(0)
    shape = (2, 5, 4)
    pairs = [(random_layout(rng, shape), random_layout(rng, shape)) for _ in range(24)]
    pairs.append((blocked(shape, 1, 4), Layout.identity(shape)))
    given = rng.standard_normal(shape).astype("float32")
    calls = compiled([conversion(s, t, "float32", fill=-2) for s, t in pairs])
    for (source, target), call in zip(pairs, calls, strict=True):
        found = call([pack(given, source, 1), spoiled(target.shape, "float32")])[1]
        expected = pack(given, target, -2)
        np.testing.assert_array_equal(found, expected, err_msg=f"{source} to {target}")


def test_conversions_of_other_dtypes_and_of_scalars() -> None:
    layout = Layout.identity((3,)).pad(0, 0, 1).split(0, (2, 2))
    for dtype in ("int8", "int64", "float64", "bool"):
        _convert(layout, Layout.identity((3,)), 0, np.array([1, 0, 1], dtype))
    _convert(Layout.identity(()), Layout.identity(()), 0, np.array(2.5, "float32"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"shapes \(4,\) and \(5,\)"):
        conversion(Layout.identity((4,)), Layout.identity((5,)), "float32")
    layout = blocked((6, 10), 1, 4)
    with pytest.raises(LayoutError, match=r"unpacked from 6x10 pad.* takes \(6, 3, 4\)"):
        rewrite(operator("matmul"), {0: Unpacked(layout)})
