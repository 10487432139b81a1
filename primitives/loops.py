"""Loop primitives: a TensorIR function is scheduled by a recipe that reads like one.

`schedule(func)` starts a recipe; its primitives take blocks by name and loops by handle, and give
handles of the loops that they make; `.func` is the function as it is then. What one starts from
stays as it is.

Source: the vocabulary is that of TVM's `s_tir.Schedule`; ALT (EuroSys 2023, arXiv 2210.12415)
builds its loop space from the same primitives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import prod

from primitives.errors import ScheduleError
from primitives.loops_legal import (
    THREAD_AXES,
    check_kind,
    check_place,
    check_reads,
    check_start,
    check_unguarded,
    check_whole,
)
from primitives.loops_nest import Loop, Nest, kind_of, placed_blocks, same
from primitives.tensorir import Any, PrimFunc


def schedule(func: PrimFunc) -> Loops:
    """Start a recipe for a function."""
    return Loops(func)


class Loops(Nest):
    """A function on its way from plain loops to a schedule.

    Example:
        >>> from tvm import te
        >>> a, b = te.placeholder((8, 32), name="a"), te.placeholder((32, 48), name="b")
        >>> k = te.reduce_axis((0, 32), "k")
        >>> c = te.compute((8, 48), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
        >>> recipe = schedule(te.create_prim_func([a, b, c]))
        >>> i, j, k = recipe.loops("c")
        >>> jo, ji = recipe.split(j, 16)
        >>> recipe.reorder(jo, i, k, ji)
        >>> recipe.vectorize(ji)
        >>> recipe.parallel(recipe.fuse(jo, i))
        >>> recipe.loops("c")
        (j_0_i_fused:24, k:32, j_1:16)
    """

    def loops(self, block: str) -> tuple[Loop, ...]:
        """The loops around a block, outermost first."""
        self._placed(f"loops of {block}", block)
        return tuple(map(self._loop, self._do("loops", lambda s: s.get_loops(block))))

    def axes(self, block: str) -> tuple[tuple[Loop, ...], tuple[Loop, ...]]:
        """The loops around a block in two: those over elements, and those it reduces over."""
        placed = self._placed(f"axes of {block}", block)
        reducing = list(map(placed.reduces, placed.loops))
        loops = list(zip(self.loops(block), reducing, strict=True))
        return tuple(n for n, r in loops if not r), tuple(n for n, r in loops if r)

    def split(self, loop: Loop, *sizes: int, partial: bool = False) -> tuple[Loop, ...]:
        """Cut a loop into nested ones: what is left of it, and one for each size.

        Rewrite:
            before: for i in range(32): a[i] = ...
            after:  for o, l in grid(4, 8): a[o * 8 + l] = ...

        Args:
            loop: the loop to cut.
            sizes: extents of the inner loops, outermost first.
            partial: allow a size that leaves a rest: the last pass is then guarded by a predicate.
        """
        asked = f"split {self._called(loop)} by {', '.join(map(str, sizes))}"
        self._check_plain(asked, loop)
        if not sizes or any(size < 1 for size in sizes):
            raise ScheduleError(f"{asked}: give sizes of 1 or more")
        if not partial and (loop.extent is None or loop.extent % prod(sizes)):
            raise ScheduleError(
                f"{asked}: {loop.extent} is not a multiple of {prod(sizes)}; choose a divisor, "
                "pad the axis in the layout, or allow a guarded rest with partial=True"
            )
        made = self._do(asked, lambda s: s.split(loop.handle, [None, *sizes]))
        return tuple(map(self._loop, made))

    def fuse(self, *loops: Loop) -> Loop:
        """Make one loop of loops that are directly nested, outermost first.

        Rewrite:
            before: for i, j in grid(4, 8): a[i, j] = ...
            after:  for f in range(32): a[f // 8, f % 8] = ...
        """
        asked = f"fuse {', '.join(map(self._called, loops))}"
        for loop in loops:
            self._check_plain(asked, loop)
        return self._loop(self._do(asked, lambda s: s.fuse(*(n.handle for n in loops))))

    def reorder(self, *loops: Loop) -> None:
        """Nest these loops in this order, in the places that they have between them.

        Rewrite:
            before: for i, j, k in grid(4, 8, 2): ...        reorder(k, i)
            after:  for k, j, i in grid(2, 8, 4): ...
        """
        asked = f"reorder {', '.join(map(self._called, loops))}"
        current = [self._current(asked, loop) for loop in loops]
        if any(same(a, b) for a, b in combinations(current, 2)):
            raise ScheduleError(f"{asked}: a loop is named twice; name each once")
        self._do(asked, lambda s: s.reorder(*(n.handle for n in loops)))

    def tile(
        self, loops: Sequence[Loop], sizes: Sequence[int], *, partial: bool = False
    ) -> tuple[Loop, ...]:
        """Split each loop and bring the inner parts together; gives outer ones, then inner ones.

        Rewrite:
            before: for i, j in grid(8, 32): ...
            after:  for io, jo, il, jl in grid(2, 2, 4, 16): ...       tile((i, j), (4, 16))
        """
        if len(loops) != len(sizes):
            raise ScheduleError(
                f"tile {', '.join(map(self._called, loops))}: {len(sizes)} sizes for "
                f"{len(loops)} loops; give one for each"
            )
        parts = [self.split(n, size, partial=partial) for n, size in zip(loops, sizes, strict=True)]
        made = (*(outer for outer, _ in parts), *(inner for _, inner in parts))
        self.reorder(*made)
        return made

    def vectorize(self, loop: Loop) -> None:
        """Run all iterations of a loop as one vector operation.

        Rewrite:
            before: for l in range(8): a[l] = b[l] + 1
            after:  a[0:8] = b[0:8] + 1
        """
        self._mark("vectorize", "vectorized", loop, lambda s: s.vectorize(loop.handle))

    def unroll(self, loop: Loop) -> None:
        """Write out every iteration of a loop.

        Rewrite:
            before: for i in range(2): a[i] = b[i]
            after:  a[0] = b[0]; a[1] = b[1]
        """
        self._mark("unroll", "unrolled", loop, lambda s: s.unroll(loop.handle))

    def parallel(self, loop: Loop) -> None:
        """Share the iterations of a loop out among threads of the CPU.

        Rewrite:
            before: for i in range(n): ...
            after:  parallel for i in range(n): ...
        """
        self._mark("parallel", "parallel", loop, lambda s: s.parallel(loop.handle))

    def bind(self, loop: Loop, axis: str) -> None:
        """Share the iterations of a loop out among threads of a GPU.

        Rewrite:
            before: for i in range(64): a[i] = ...
            after:  i = threadIdx.x; a[i] = ...              bind(i, "threadIdx.x")
        """
        if axis not in THREAD_AXES:
            raise ScheduleError(
                f"bind {self._called(loop)} to {axis!r}: no such axis; use one of "
                f"{', '.join(THREAD_AXES)}"
            )
        self._mark(f"bind to {axis}:", axis, loop, lambda s: s.bind(loop.handle, axis))

    def cache_read(self, block: str, tensor: str, scope: str = "local") -> str:
        """Let a block read a tensor from a copy; gives the name of the block that copies.

        Rewrite:
            before: c[i] = f(a[i])
            after:  a_local[i] = a[i]; c[i] = f(a_local[i])

        Args:
            block: the block that reads.
            tensor: the name of the tensor read.
            scope: where the copy lives: `local`, `shared`, `global`.
        """
        return self._cache("cache_read", block, tensor, scope)

    def cache_write(self, block: str, scope: str = "local") -> str:
        """Let a block write into a copy; gives the name of the block that copies it out.

        Rewrite:
            before: c[i] = f(a[i])
            after:  c_local[i] = f(a[i]); c[i] = c_local[i]
        """
        return self._cache("cache_write", block, None, scope)

    def compute_at(self, block: str, loop: Loop) -> None:
        """Compute what a loop's body reads of a block inside that loop, just before it.

        Rewrite:
            before: for i: b[i] = f(a[i])
                    for i: c[i] = g(b[i])
            after:  for i: b[i] = f(a[i]); c[i] = g(b[i])      compute_at("b", i)
        """
        self._move("compute_at", block, loop)

    def reverse_compute_at(self, block: str, loop: Loop) -> None:
        """Consume what a loop's body makes inside that loop, just behind it.

        Rewrite:
            before: for i: b[i] = f(a[i])
                    for i: c[i] = g(b[i])
            after:  for i: b[i] = f(a[i]); c[i] = g(b[i])      reverse_compute_at("c", i)
        """
        self._move("reverse_compute_at", block, loop)

    def inline(self, block: str, *, into_producer: bool = False) -> None:
        """Write a block's formula wherever its result is read, or into the block that it reads.

        Rewrite:
            before: b[i] = a[i] + 1; c[i] = b[i] * 2
            after:  c[i] = (a[i] + 1) * 2
        """
        asked = f"inline {block}"
        self._placed(asked, block)
        name = "reverse_compute_inline" if into_producer else "compute_inline"
        self._do(asked, lambda s: getattr(s, name)(block))

    def decompose_reduction(self, block: str, loop: Loop) -> tuple[str, str]:
        """Set the start of a reduction before a loop; gives the two blocks that it becomes.

        Do it last: the new loops take over the kinds of the old, and TVM gives no other kinds to
        loops around a block that has been cut in two.

        Rewrite:
            before: for k: c = (0 if k == 0 else c) + a[k]
            after:  c = 0
                    for k: c = c + a[k]
        """
        asked = f"decompose_reduction of block {block} at {self._called(loop)}"
        placed, current = self._placed(asked, block), self._current(asked, loop)
        check_start(asked, placed, current)
        made = self._do(asked, lambda s: s.decompose_reduction(block, loop.handle))
        return str(self._schedule.get(made).name_hint), f"{block}_update"

    def tensorize(self, loop: Loop, intrinsic: str) -> None:
        """Replace a loop and all inside it by one instruction registered as a `TensorIntrin`.

        Rewrite:
            before: for i, j, k in grid(16, 16, 16): c[i, j] += a[i, k] * b[k, j]
            after:  mma(c[0:16, 0:16], a[0:16, 0:16], b[0:16, 0:16])
        """
        asked = f"tensorize {self._called(loop)} with {intrinsic}"
        self._check_plain(asked, loop)
        self._do(asked, lambda s: s.tensorize(loop.handle, intrinsic))

    def _cache(self, primitive: str, block: str, tensor: str | None, scope: str) -> str:
        asked = f"{primitive} of block {block} in {scope}"
        placed = self._placed(asked, block)
        regions = placed.block.writes if tensor is None else placed.block.reads
        check_unguarded(asked, placed)
        names = [str(region.source.name) for region in regions]
        if tensor is not None and names.count(tensor) != 1:
            raise ScheduleError(
                f"{asked}: it reads {names.count(tensor)} tensors named {tensor}; "
                f"use one of {', '.join(names) or '(none)'}"
            )
        index = 0 if tensor is None else names.index(tensor)
        made = self._do(asked, lambda s: getattr(s, primitive)(block, index, scope))
        return str(self._schedule.get(made).name_hint)

    def _move(self, primitive: str, block: str, loop: Loop) -> None:
        asked = f"{primitive} of block {block} at {self._called(loop)}"
        placed, current = self._placed(asked, block), self._current(asked, loop)
        others = placed_blocks(self.func)
        check_place(asked, placed, current, others)
        if primitive == "reverse_compute_at":
            check_reads(asked, placed, current, others)
        before, self._schedule = self._schedule, self._schedule.copy()
        try:
            self._do(asked, lambda s: getattr(s, primitive)(block, loop.handle))
            check_whole(asked, self._placed(asked, block))
        except ScheduleError:
            self._schedule = before
            raise

    def _mark(self, verb: str, kind: str, loop: Loop, apply: Callable[[Any], None]) -> None:
        asked = f"{verb} {self._called(loop)}"
        check_kind(asked, kind, self._current(asked, loop), placed_blocks(self.func))
        self._do(asked, apply)

    def _check_plain(self, asked: str, loop: Loop) -> None:
        kind = kind_of(self._current(asked, loop))
        if kind != "serial":
            raise ScheduleError(
                f"{asked}: it is {kind}, which would be lost; cut loops first, then give kinds"
            )
