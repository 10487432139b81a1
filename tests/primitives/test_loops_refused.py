"""What a recipe must not do is refused.

Bugs planted by the author, and what caught each:
- a loop that holds a tensor of its own vectorised (TVM then computes something else):
  `test_a_loop_that_holds_a_tensor_is_not_vectorised`;
- a block moved into a vectorised loop: `test_blocks_are_placed_before_vectors`, random recipes;
- a producer moved behind its readers, as TVM allows: random recipes found it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import s_tir

from primitives.errors import LayoutError, ScheduleError
from primitives.loops import Loops, schedule
from tests.primitives.rewriting import run
from tests.primitives.scheduled import (
    FUNCTIONS,
    check,
    expected,
    matmul,
)

pytestmark = pytest.mark.llvm


# --- refusals -----------------------------------------------------------------------------------


def test_errors_say_what_was_asked() -> None:
    recipe = schedule(matmul())
    i, j, k = recipe.loops("c")
    with pytest.raises(LayoutError, match=r"split loop j of block c \(extent 12\) by 5: 12 is not"):
        recipe.split(j, 5)
    with pytest.raises(
        ScheduleError, match=r"parallel loop k of block c.*: The .parallel."
    ) as found:
        recipe.parallel(k)
    assert isinstance(found.value.__cause__, Exception)
    with pytest.raises(ScheduleError, match="0 blocks named nothing; use one of c, d"):
        recipe.loops("nothing")
    with pytest.raises(ScheduleError, match="0 tensors named x; use one of a, b"):
        recipe.cache_read("c", "x")
    with pytest.raises(ScheduleError, match="no such axis"):
        recipe.bind(i, "threadIdx.q")
    with pytest.raises(ScheduleError, match="2 sizes for 1 loops"):
        recipe.tile((i,), (2, 3))
    with pytest.raises(ScheduleError, match="named twice"):
        recipe.reorder(i, j, recipe.loops("c")[0])
    with pytest.raises(ScheduleError, match="sizes of 1 or more"):
        recipe.split(j, 0)
    with pytest.raises(
        ScheduleError, match=r"fuse loop i of block c .* loop k of block c .*parent"
    ):
        recipe.fuse(i, k)
    with pytest.raises(ScheduleError, match="'nothing' is not registered"):
        recipe.tensorize(k, "nothing")
    with pytest.raises(ScheduleError, match="inline d: Cannot operate on an output block"):
        recipe.inline("d")
    recipe.split(j, 4)
    with pytest.raises(ScheduleError, match="no longer exists"):
        recipe.vectorize(j)
    with pytest.raises(ScheduleError, match="another recipe"):
        schedule(matmul()).vectorize(i)


def test_a_kind_is_not_lost() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    recipe.parallel(i)
    recipe.vectorize(j)
    for refused in (
        lambda: recipe.split(i, 2),
        lambda: recipe.fuse(i, j),
        lambda: recipe.vectorize(i),
        lambda: recipe.tensorize(j, "nothing"),
    ):
        with pytest.raises(ScheduleError, match=r"it is (parallel|vectorized)"):
            refused()
    check("matmul", recipe)


def test_one_parallel_loop_around_a_block() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    recipe.parallel(i)
    with pytest.raises(ScheduleError, match="loop i around it is parallel"):
        recipe.parallel(j)
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    recipe.parallel(j)
    with pytest.raises(ScheduleError, match="loop j inside it is parallel"):
        recipe.parallel(i)
    with pytest.raises(ScheduleError, match="loop j inside it is parallel"):
        recipe.vectorize(i)


def test_a_loop_that_holds_a_tensor_is_not_vectorised() -> None:
    recipe = schedule(matmul())
    _, j = recipe.loops("d")
    recipe.compute_at("c", j)
    with pytest.raises(
        ScheduleError, match="tensor c is made in it by block c and used only there"
    ):
        recipe.vectorize(j)
    check("matmul", recipe)


def test_blocks_are_placed_before_vectors() -> None:
    recipe = schedule(matmul())
    i, j = recipe.loops("d")
    recipe.vectorize(j)
    with pytest.raises(ScheduleError, match="place blocks first"):
        recipe.compute_at("c", j)
    recipe.compute_at("c", i)
    check("matmul", recipe)
    recipe = schedule(matmul())
    recipe.vectorize(recipe.loops("c")[1])
    with pytest.raises(ScheduleError, match="which the move would drop"):
        recipe.compute_at("c", recipe.loops("d")[0])


def test_thread_axes_are_consistent() -> None:
    recipe = schedule(matmul())
    i, j, _ = recipe.loops("c")
    recipe.bind(i, "threadIdx.x")
    with pytest.raises(ScheduleError, match=r"loop i around block c is threadIdx.x already"):
        recipe.bind(j, "threadIdx.x")
    _, column = recipe.loops("d")
    recipe.bind(column, "threadIdx.x")  # another kernel
    with pytest.raises(ScheduleError, match="which the move would drop"):
        recipe.reverse_compute_at("d", i)
    recipe = schedule(matmul())
    i, j = recipe.loops("d")
    recipe.compute_at("c", i)
    recipe.bind(recipe.loops("c")[-1], "threadIdx.x")
    with pytest.raises(ScheduleError, match=r"it runs 12 times, but loop .* 10 times"):
        recipe.bind(j, "threadIdx.x")
    with pytest.raises(ScheduleError, match=r"reduction loop .* is threadIdx.x"):
        recipe.decompose_reduction("c", recipe.loops("c")[-1])


def test_threads_do_not_add_to_one_element() -> None:
    recipe = schedule(matmul())
    *_, k = recipe.loops("c")
    _, update = recipe.decompose_reduction("c", k)
    with pytest.raises(ScheduleError, match="its start is set elsewhere"):
        recipe.bind(recipe.loops(update)[-1], "threadIdx.x")


def test_a_block_does_not_move_behind_its_readers() -> None:
    recipe = schedule(matmul())
    with pytest.raises(ScheduleError, match="reads nothing that another block makes"):
        recipe.reverse_compute_at("c", recipe.loops("d")[0])


def test_what_one_thread_keeps_no_other_reads() -> None:
    recipe = schedule(matmul())
    recipe.inline(recipe.cache_write("c"))
    i, _ = recipe.loops("d")
    recipe.compute_at("c", i)
    column = recipe.loops("c")[1]
    with pytest.raises(ScheduleError, match=r"c_local that c makes is local.* but d outside"):
        recipe.bind(column, "threadIdx.x")


def overlapping(partial: int) -> tuple[Loops, str]:
    """Row blocks of a product, each computed for the rows that it shares with the next."""
    recipe = schedule(matmul())
    _, j = recipe.loops("d")
    outer, _ = recipe.split(j, 4)
    recipe.split(recipe.loops("d")[-1], partial, partial=True)
    recipe.compute_at("c", recipe.loops("d")[-1])
    return recipe, outer.name


def test_terms_are_added_once() -> None:
    recipe, name = overlapping(5)
    loops = {loop.name: loop for loop in recipe.loops("c")}
    with pytest.raises(ScheduleError, match="terms are added more than once"):
        recipe.decompose_reduction("c", loops[name])
    recipe.decompose_reduction("c", recipe.loops("c")[-1])
    check("matmul", recipe)


def test_a_rest_is_no_reason_to_keep_a_reduction_whole() -> None:
    recipe = schedule(matmul())
    i, j, k = recipe.loops("c")
    outer, inner = recipe.split(j, 5, partial=True)
    some, each = recipe.split(k, 4, partial=True)
    recipe.reorder(i, some, outer, each, inner)
    recipe.decompose_reduction("c", some)
    check("matmul", recipe)


def test_a_pad_keeps_its_border() -> None:
    recipe = schedule(FUNCTIONS["pool"]())
    copy = recipe.cache_read("pad_temp", "x")
    before = recipe.func.script()
    with pytest.raises(ScheduleError, match=r"from 1 to 7 only, of 0 to 8"):
        recipe.reverse_compute_at("pad_temp", recipe.loops(copy)[1])
    assert recipe.func.script() == before
    recipe.compute_at(copy, recipe.loops("pad_temp")[1])
    check("pool", recipe)


def test_copies_come_before_rests() -> None:
    recipe = schedule(matmul())
    recipe.split(recipe.loops("c")[0], 4, partial=True)
    with pytest.raises(ScheduleError, match=r"it runs only where .* < 6"):
        recipe.cache_write("c")
    with pytest.raises(ScheduleError, match=r"it runs only where .* < 6"):
        recipe.cache_read("c", "a")


def test_sums_are_finished_before_they_are_read() -> None:
    recipe = schedule(matmul())
    i, j, k = recipe.loops("c")
    with pytest.raises(ScheduleError, match="inside loop k block c has not added up"):
        recipe.reverse_compute_at("d", k)
    recipe.reorder(k, i)
    with pytest.raises(ScheduleError, match="inside loop k block c has not added up"):
        recipe.reverse_compute_at("d", j)


# --- why these are refused: what TVM itself does, so that an upgrade tells what to delete ----------


def through_tvm(apply: Callable[[Any], None]) -> bool:
    """Whether TVM accepts a schedule of `matmul`, and then computes something else."""
    raw = s_tir.Schedule(matmul())
    apply(raw)
    arrays, wanted = expected("matmul")
    found = run(raw.mod["main"], arrays)[-1]
    return not np.allclose(found, wanted, atol=1e-4)


def test_tvm_shares_one_element_among_lanes() -> None:
    def apply(raw: Any) -> None:
        _, j = raw.get_loops("d")
        raw.compute_at("c", j)
        raw.vectorize(j)

    assert through_tvm(apply)


def test_tvm_moves_a_producer_behind_its_readers() -> None:
    def apply(raw: Any) -> None:
        copy = raw.cache_write("d", 0, "local")
        raw.reverse_compute_at("c", raw.get_loops(copy)[1])

    assert through_tvm(apply)


def test_tvm_forgets_the_kind_of_a_loop_that_it_splits() -> None:
    raw = s_tir.Schedule(matmul())
    i, _, _ = raw.get_loops("c")
    raw.parallel(i)
    assert [int(raw.get(part).kind) for part in raw.split(i, [None, 2])] == [0, 0]
