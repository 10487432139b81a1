"""Scheduled functions compute what the unscheduled ones do, and the wanted loops are in them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tvm
from tvm import s_tir, te
from tvm.script import tirx as T  # noqa: N812 - TVM's own spelling

from primitives.errors import ScheduleError
from primitives.loops import Loops, schedule
from primitives.loops_nest import placed_blocks
from tests.primitives.rewriting import run
from tests.primitives.scheduled import (
    ANCHOR,
    FUNCTIONS,
    check,
    conv,
    extents,
    kinds,
    matmul,
    names,
    odd_matmul,
)

pytestmark = pytest.mark.llvm


def test_the_function_it_starts_from_stays() -> None:
    func = matmul()
    before = func.script()
    recipe = schedule(func)
    recipe.parallel(recipe.loops("c")[0])
    assert func.script() == before
    assert recipe.func.script() != before


def test_loops_by_what_they_run_over() -> None:
    recipe = schedule(conv())
    spatial, reduction = recipe.axes("conv2d_nchw")
    assert [n.extent for n in spatial] == [1, 5, 5, 7]
    assert [n.extent for n in reduction] == [3, 3, 3]
    assert recipe.blocks == ("pad_temp", "conv2d_nchw", "T_add", "compute")


def test_split() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    assert [n.extent for n in recipe.split(j, 2, 3)] == [2, 2, 3]
    assert [n.extent for n in recipe.split(i, 6)] == [1, 6]
    assert extents(recipe, "c") == [1, 6, 2, 2, 3, 10]
    check("matmul", recipe)


@pytest.mark.parametrize("size", [2, 3, 8, 16])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_rest_is_refused_unless_asked_for(which: int, size: int) -> None:
    recipe = schedule(odd_matmul())
    loop = recipe.loops("c")[which]
    before = recipe.func.script()
    with pytest.raises(ScheduleError, match=rf"{loop.extent} is not a multiple of {size}"):
        recipe.split(loop, size)
    assert recipe.func.script() == before
    outer, inner = recipe.split(loop, size, partial=True)
    assert (outer.extent, inner.extent) == (-(-(loop.extent or 0) // size), size)
    check("odd_matmul", recipe)


def test_fuse() -> None:
    recipe = schedule(odd_matmul())
    i, j, k = recipe.loops("c")
    assert recipe.fuse(i, j).extent == 55
    assert extents(recipe, "c") == [55, k.extent]
    check("odd_matmul", recipe)


def test_reorder() -> None:
    recipe = schedule(conv())
    n, o, h, w, i, kh, kw = recipe.loops("conv2d_nchw")
    recipe.reorder(kw, i, o)
    order = [n, kw, h, w, i, kh, o]
    assert names(recipe, "conv2d_nchw") == [loop.name for loop in order]
    check("conv", recipe)


def test_tile() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    made = recipe.tile((i, j), (2, 4))
    assert [loop.extent for loop in made] == [3, 3, 2, 4]
    assert extents(recipe, "c") == [3, 3, 2, 4, 10]
    assert names(recipe, "c")[:4] == [loop.name for loop in made]
    check("matmul", recipe)


def test_vectorize_unroll_parallel() -> None:
    recipe = schedule(matmul())
    i, j, k = recipe.loops("c")
    jo, ji = recipe.split(j, 4)
    recipe.reorder(i, jo, k, ji)
    recipe.vectorize(ji)
    recipe.unroll(k)
    recipe.parallel(recipe.fuse(i, jo))
    assert kinds(recipe, "c") == [("parallel", 18), ("unrolled", 10), ("vectorized", 4)]
    check("matmul", recipe)


def test_cache_write_and_reverse_compute_at() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    recipe.reverse_compute_at("d", i)
    copy = recipe.cache_write("c")
    recipe.reverse_compute_at(copy, j)
    assert kinds(recipe, copy) == [("serial", 6), ("serial", 12)]
    assert [p.written[0].scope() for p in placed_blocks(recipe.func)] == [
        "local",
        "global",
        "global",
    ]
    assert recipe.blocks == ("c", copy, "d")
    check("matmul", recipe)


def test_cache_read() -> None:
    recipe = schedule(odd_matmul())
    i, _, _ = recipe.loops("c")
    copy = recipe.cache_read("c", "a")
    recipe.compute_at(copy, i)
    assert extents(recipe, copy) == [5, 7]
    (placed, *_) = placed_blocks(recipe.func)
    assert (placed.name, str(placed.written[0].scope())) == (copy, "local")
    check("odd_matmul", recipe)


def test_compute_at_covers_what_is_read() -> None:
    recipe = schedule(conv())
    rows = recipe.loops("conv2d_nchw")[2]
    recipe.compute_at("pad_temp", rows)
    assert extents(recipe, "pad_temp")[-3:] == [3, 3, 9]
    check("conv", recipe)


def test_inline() -> None:
    recipe = schedule(conv())
    recipe.inline("pad_temp")
    recipe.inline("T_add")
    assert recipe.blocks == ("conv2d_nchw", "compute")
    check("conv", recipe)
    recipe = schedule(conv())
    recipe.inline("compute", into_producer=True)
    assert recipe.blocks == ("pad_temp", "conv2d_nchw", "T_add")
    check("conv", recipe)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_decompose_reduction(name: str) -> None:
    recipe = schedule(FUNCTIONS[name]())
    block = ANCHOR[name]
    spatial, reduction = recipe.axes(block)
    start, update = recipe.decompose_reduction(block, reduction[0])
    assert extents(recipe, start) == [loop.extent for loop in spatial]
    assert extents(recipe, update) == [loop.extent for loop in (*spatial, *reduction)]
    assert all(p.block.init is None for p in placed_blocks(recipe.func))
    check(name, recipe)


def test_a_good_schedule_of_a_matrix_product() -> None:
    """Everything together: register tile, accumulator, epilogue."""
    recipe = schedule(matmul())
    recipe.inline(recipe.cache_write("c"))
    io, jo, ii, ji = recipe.tile(recipe.loops("d"), (3, 4))
    recipe.compute_at("c", jo)
    *_, row, column, k = recipe.loops("c")
    recipe.reorder(k, row, column)
    for loop in (row, ii):
        recipe.unroll(loop)
    for loop in (column, ji):
        recipe.vectorize(loop)
    recipe.parallel(recipe.fuse(io, jo))
    start, update = recipe.decompose_reduction("c", k)
    tile = [("unrolled", 3), ("vectorized", 4)]
    assert kinds(recipe, start) == kinds(recipe, "d") == [("parallel", 6), *tile]
    assert kinds(recipe, update) == [("parallel", 6), ("serial", 10), *tile]
    check("matmul", recipe)


@T.prim_func(s_tir=True)
def four_additions(
    a: T.Buffer((4,), "float32", offset_factor=1),
    b: T.Buffer((4,), "float32", offset_factor=1),
    c: T.Buffer((4,), "float32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(a[0:4], b[0:4])
        T.writes(c[0:4])
        for i in range(4):
            with T.sblock("add"):
                v = T.axis.spatial(4, i)
                c[v] = a[v] + b[v]


@T.prim_func(s_tir=True)
def one_vector_addition(
    a: T.Buffer((4,), "float32", offset_factor=1),
    b: T.Buffer((4,), "float32", offset_factor=1),
    c: T.Buffer((4,), "float32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(a[0:4], b[0:4])
        T.writes(c[0:4])
        c[T.ramp(0, 1, 4)] = a[T.ramp(0, 1, 4)] + b[T.ramp(0, 1, 4)]


def test_tensorize() -> None:
    a, b = te.placeholder((3, 8), name="a"), te.placeholder((3, 8), name="b")
    func = te.create_prim_func([a, b, te.compute((3, 8), lambda i, j: a[i, j] + b[i, j], name="c")])
    recipe = schedule(func)
    i, j = recipe.loops("c")
    _, inner = recipe.split(j, 4)
    s_tir.TensorIntrin.register("test_add", four_additions, one_vector_addition, override=True)
    with pytest.raises(ScheduleError, match=r"tensorize loop i of block c .* with test_add"):
        recipe.tensorize(i, "test_add")
    recipe.tensorize(inner, "test_add")
    assert [extents(recipe, block) for block in recipe.blocks] == [[3, 2]]
    arrays = [
        np.ones((3, 8), "float32"),
        np.full((3, 8), 2, "float32"),
        np.zeros((3, 8), "float32"),
    ]
    np.testing.assert_array_equal(run(recipe.func, arrays)[2], np.full((3, 8), 3))


# --- for a GPU ----------------------------------------------------------------------------------

CUDA = {"kind": "cuda", "arch": "sm_80"}
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


def shared_memory_matmul() -> Loops:
    """Tiles of 16x16 outputs a block, operands copied to shared memory by its threads."""
    recipe = schedule(matmul(64, 32, 48))
    recipe.inline(recipe.cache_write("c"))
    copies = [recipe.cache_read("c", tensor, "shared") for tensor in ("a", "b")]
    outer_and_inner = recipe.tile(recipe.loops("d"), (16, 16))
    axes = ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
    for loop, axis in zip(outer_and_inner, axes, strict=True):
        recipe.bind(loop, axis)
    recipe.compute_at("c", outer_and_inner[-1])
    ko, _ = recipe.split(recipe.loops("c")[-1], 8)
    for copy in copies:
        recipe.compute_at(copy, ko)
        cells = recipe.fuse(*recipe.loops(copy)[-2:])
        _, y, x = recipe.split(cells, 8, 16)
        recipe.bind(x, "threadIdx.x")
        with pytest.raises(ScheduleError, match="it runs 8 times, but loop"):
            recipe.bind(y, "threadIdx.y")
    recipe.decompose_reduction("c", ko)
    return recipe


@needs_nvcc
@pytest.mark.cuda_build
def test_a_matrix_product_for_a_gpu() -> None:
    recipe = shared_memory_matmul()
    assert [kind for kind, _ in kinds(recipe, "d")] == [
        "blockIdx.y",
        "blockIdx.x",
        "threadIdx.y",
        "threadIdx.x",
    ]
    built = tvm.compile(recipe.func.with_attr("global_symbol", "main"), tvm.target.Target(CUDA))
    (device,) = built.mod.imports
    assert "__shared__" in device.inspect_source()
