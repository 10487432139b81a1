"""Every operator that relax legalises is read as stages, or refused as opaque; never misread.

Bugs the author planted, and what caught each:
- loops taken to cover a block without looking how far:
  `test_a_block_under_a_predicate_is_read_if_its_loops_cover_it`;
- named values of a block that still read what it writes: `test_operators_...[argmax]`;
- a second writer of a buffer unnoticed: `test_a_buffer_that_two_blocks_write_is_refused`;
- an int32 index left in an int64 value: `test_substitution_changes_the_width_of_indices_...`.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from tvm import s_tir, te, tirx

from primitives.errors import Opaque
from primitives.expressions import reads_of, substitute
from primitives.stages import shape_of_buffer, stages_of
from tests.primitives.legalised import ARGS, functions
from tests.primitives.random_layouts import random_layout
from tests.primitives.rewriting import check

OPAQUE = {
    "median": "calls a sort",
    "dynamic_strided_slice": "shape known at run time",
    "index_put": "scatters",
    "scatter_elements": "scatters",
    "scatter_nd": "scatters",
    "bucketize": "searches",
    "nn.adaptive_avg_pool1d": "windows of several sizes",
    "nn.adaptive_avg_pool2d": "windows of several sizes",
    "nn.adaptive_avg_pool3d": "windows of several sizes",
    "vision.non_max_suppression": "calls a sort",
    "layout_transform": "writes at computed indices",
}
ROIS = np.array([[0, 1, 1, 6, 5], [0, 0, 2, 4, 7]], "float32")
UNLEGALISED = ("cumsum", "sort", "argsort", "topk", "unique", "nonzero", "arange")


@pytest.mark.llvm
@pytest.mark.parametrize("name", [n for n in ARGS if n not in UNLEGALISED])
def test_operators_in_random_layouts(name: str) -> None:
    found = functions(name)
    assert found
    if name in OPAQUE:
        with pytest.raises(Opaque):
            list(map(stages_of, found))
        return
    for func in found:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        layouts = {k: random_layout(rng, shape_of_buffer(p)) for k, p in enumerate(func.params)}
        check(func, layouts, rng, inputs={1: ROIS} if "roi" in name else None)


def _split_loop(extent: int, outer: int, inner: int, predicate: bool) -> tirx.PrimFunc:
    """y[i] = x[i] + 1 with i = o * inner + l, as a schedule leaves it."""
    a = te.placeholder((extent,), name="x")
    func = te.create_prim_func([a, te.compute((extent,), lambda i: a[i] + 1)])
    realize = func.body.block.body.body
    o, i = tirx.Var("o", "int32"), tirx.Var("i", "int32")
    index = o * inner + i
    inside = index < extent if predicate else True
    nest = s_tir.SBlockRealize([index], inside, realize.block)
    for var, count in ((i, inner), (o, outer)):
        nest = tirx.For(var, 0, count, tirx.ForKind.SERIAL, nest)
    root = s_tir.SBlock([], [], [], "root", nest)
    return func.with_body(s_tir.SBlockRealize([], True, root))


def test_a_block_under_a_predicate_is_read_if_its_loops_cover_it() -> None:
    assert stages_of(_split_loop(12, 3, 4, False))[0].spatial[0].extent == 12
    assert stages_of(_split_loop(10, 3, 4, True))[0].spatial[0].extent == 10
    for uncovered in (_split_loop(12, 2, 4, False), _split_loop(10, 2, 4, True)):
        with pytest.raises(Opaque, match="its loops"):
            stages_of(uncovered)


def test_a_buffer_that_two_blocks_write_is_refused() -> None:
    func = _split_loop(12, 3, 4, False)
    nest = func.body.block.body
    twice = s_tir.SBlock([], [], [], "root", tirx.SeqStmt([nest, nest]))
    with pytest.raises(Opaque, match="as another block does"):
        stages_of(func.with_body(s_tir.SBlockRealize([], True, twice)))


def test_substitution_changes_the_width_of_indices_but_not_of_values() -> None:
    wide, narrow = tirx.Var("i", "int64"), tirx.Var("j", "int32")
    x = tirx.decl_buffer((8,), "float32", "x")
    value = tirx.if_then_else(wide >= 1, tirx.BufferLoad(x, [wide - 1]), tirx.Cast("float32", wide))
    made = substitute(value, {wide: narrow})
    assert str(made.ty.dtype) == "float32"
    assert str(reads_of(made)[0].indices[0].ty.dtype) == "int32"
    assert str(substitute(wide + 1, {wide: narrow}).ty.dtype) == "int64"


def test_substitution_folds_what_becomes_constant() -> None:
    i, j = tirx.Var("i", "int32"), tirx.Var("j", "int32")
    x = tirx.decl_buffer((8,), "float32", "x")
    guarded = tirx.if_then_else(
        tirx.all(i >= 1, j < 4), tirx.BufferLoad(x, [i - 1 + j]), tirx.FloatImm("float32", 0)
    )
    assert isinstance(substitute(guarded, {i: 0}), tirx.FloatImm)
    assert len(reads_of(substitute(guarded, {i: 3, j: 2}))) == 1
    assert int(reads_of(substitute(guarded, {i: 3, j: 2}))[0].indices[0]) == 4
    assert not isinstance(substitute(guarded, {i: 3, j: 2}), type(guarded))


def _squares(reducer: Any, a: Any, k: Any) -> Any:
    return lambda i: reducer(a[i, k] * a[i, k], axis=k)


def test_combiners_are_recognised() -> None:
    a = te.placeholder((4, 5), name="x")
    k = te.reduce_axis((0, 5))
    for reducer, name in ((te.sum, "add"), (te.max, "max"), (te.min, "min")):
        made = te.compute((4,), _squares(reducer, a, k))
        (stage,) = stages_of(te.create_prim_func([a, made]))
        assert stage.combiner == name
        assert [axis.extent for axis in stage.reduce] == [5]
        assert stage.source is not None
        assert len(reads_of(stage.source)) == 2
        assert len(stage.reads) == 1
