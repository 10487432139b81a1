"""The loops around the blocks of a scheduled function: reading them, and what must not be done.

TVM 0.27 accepts each thing refused here, and then computes something else or fails when it builds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from primitives.errors import ScheduleError
from primitives.stage import mentions
from primitives.tensorir import Any, Buffer, Expr, PrimFunc, s_tir, tirx, tvm

_Made = TypeVar("_Made")

THREAD_AXES = tuple(
    f"{level}.{axis}" for level in ("blockIdx", "threadIdx", "vthread") for axis in "xyz"
)
"""What a loop can be bound to on a GPU."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A handle of one loop; it is spent once the loop is split or fused.

    Attributes:
        name: the name of the loop's variable.
        extent: how often it runs; None where that is not a number.
        handle: TVM's name for it.
    """

    name: str
    extent: int | None
    handle: Any

    def __repr__(self) -> str:
        return f"{self.name}:{'?' if self.extent is None else self.extent}"


@dataclass(frozen=True, eq=False)
class Placed:
    """A block and the loops around it, outermost first, as they are in the function now."""

    block: Any
    bindings: tuple[Expr, ...]
    loops: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The block's name."""
        return str(self.block.name_hint)

    @property
    def written(self) -> tuple[Buffer, ...]:
        """The buffers it writes."""
        return tuple(region.source for region in self.block.writes)

    def below(self, loop: Any) -> bool:
        """Whether this loop is around the block."""
        return any(same(loop, other) for other in self.loops)

    def moves_with(self, loop: Any) -> bool:
        """Whether different iterations of this loop run different instances of the block."""
        return any(mentions(binding, loop.loop_var) for binding in self.bindings)

    def reduces(self, loop: Any) -> bool:
        """Whether different iterations of this loop add to the same element."""
        return any(
            axis.iter_type == tirx.IterVar.CommReduce and mentions(binding, loop.loop_var)
            for axis, binding in zip(self.block.iter_vars, self.bindings, strict=True)
        )


def same(loop: Any, other: Any) -> bool:
    """Whether two loops of a function are one."""
    return bool(loop.loop_var.same_as(other.loop_var))


def placed_blocks(func: PrimFunc) -> list[Placed]:
    """Every block of a function but its root, in the order in which they run."""
    return list(_placed(func.body.block.body, ()))


def _placed(statement: Any, loops: tuple[Any, ...]) -> Iterator[Placed]:
    match statement:
        case tirx.For():
            yield from _placed(statement.body, (*loops, statement))
        case tirx.SeqStmt():
            for one in statement.seq:
                yield from _placed(one, loops)
        case _ if hasattr(statement, "block"):
            block = statement.block
            yield Placed(block, tuple(statement.iter_values), loops)
            yield from _placed(block.body, loops)
        case _:
            return


def kind_of(loop: Any) -> str:
    """`serial`, `parallel`, `vectorized`, `unrolled`, or the thread axis."""
    if loop.thread_binding is not None:
        return str(loop.thread_binding.thread_tag)
    return {
        tirx.ForKind.SERIAL: "serial",
        tirx.ForKind.PARALLEL: "parallel",
        tirx.ForKind.VECTORIZED: "vectorized",
        tirx.ForKind.UNROLLED: "unrolled",
    }.get(loop.kind, "bound")


def extent_of(loop: Any) -> int | None:
    """How often a loop runs, where that is a number."""
    return int(loop.extent.value) if isinstance(loop.extent, tirx.IntImm) else None


def check_kind(asked: str, kind: str, loop: Any, placed: Sequence[Placed]) -> None:
    """Refuse a kind of loop that the loops around and inside it do not allow."""
    if kind_of(loop) != "serial":
        raise ScheduleError(f"{asked}: it is {kind_of(loop)} already; give a loop one kind")
    inside = [p for p in placed if p.below(loop)]
    if kind in THREAD_AXES:
        _check_thread(asked, kind, loop, inside, placed)
    nested = {"parallel": ("parallel",), "vectorized": ("vectorized", "parallel", *THREAD_AXES)}
    for one in inside:
        where = next(k for k, other in enumerate(one.loops) if same(loop, other))
        for position, other in enumerate(one.loops):
            place = "inside" if position > where else "around"
            outer, inner = kind_of(other), kind
            if position > where:
                outer, inner = inner, outer
            if inner in nested.get(outer, ()):
                raise ScheduleError(
                    f"{asked}: loop {other.loop_var.name} {place} it is {kind_of(other)}; "
                    "fuse the two or choose one"
                )
    if kind == "vectorized":
        _check_vectors(asked, loop, inside, placed)


def _check_vectors(
    asked: str, loop: Any, inside: Sequence[Placed], placed: Sequence[Placed]
) -> None:
    """Refuse to vectorise a loop in which a tensor is made and used up.

    TVM keeps one element of that tensor for all lanes together: they overwrite each other.
    """
    if extent_of(loop) is None:
        raise ScheduleError(f"{asked}: its extent {loop.extent} is not a number; split it first")
    outside = [p for p in placed if not p.below(loop)]
    for one in inside:
        for buffer in one.written:
            used = any(_touches(other, buffer) for other in outside)
            readers = [p for p in inside if not p.block.same_as(one.block) and _touches(p, buffer)]
            if readers and not used:
                raise ScheduleError(
                    f"{asked}: tensor {buffer.name} is made in it by block {one.name} and used "
                    f"only there, by {readers[0].name}; move that block to a loop outside, or "
                    "vectorise loops that each hold one block"
                )


def _touches(placed: Placed, buffer: Buffer) -> bool:
    regions = (*placed.block.reads, *placed.block.writes)
    return any(region.source.same_as(buffer) for region in regions)


def _check_thread(
    asked: str, axis: str, loop: Any, inside: Sequence[Placed], placed: Sequence[Placed]
) -> None:
    """Refuse a thread axis twice around one block, or with two extents in one kernel."""
    nests = [one.loops[0] for one in inside]
    for one in placed:
        if not any(one.loops and same(one.loops[0], nest) for nest in nests):
            continue
        around = one.below(loop)
        for other in one.loops:
            if kind_of(other) != axis:
                continue
            if around and one.moves_with(other) and one.moves_with(loop):
                raise ScheduleError(
                    f"{asked}: loop {other.loop_var.name} around block {one.name} is {axis} "
                    "already, and one thread would run only where both agree; use another axis"
                )
            if extent_of(other) != extent_of(loop):
                raise ScheduleError(
                    f"{asked}: it runs {loop.extent} times, but loop {other.loop_var.name} of the "
                    f"same kernel, also {axis}, {other.extent} times; make the extents equal"
                )
    for one in inside:
        for buffer in one.written:
            readers = [p.name for p in placed if not p.below(loop) and _touches(p, buffer)]
            if axis.startswith("threadIdx") and buffer.scope() == "local" and readers:
                raise ScheduleError(
                    f"{asked}: tensor {buffer.name} that {one.name} makes is local, each thread "
                    f"has its own, but {readers[0]} outside this loop uses it; make it shared"
                )
        if one.reduces(loop) and one.block.init is None:
            raise ScheduleError(
                f"{asked}: block {one.name} adds to one element in all its iterations and its "
                "start is set elsewhere; bind before `decompose_reduction`, or a spatial loop"
            )


def check_place(asked: str, block: Placed, loop: Any, placed: Sequence[Placed]) -> None:
    """Refuse to move a block into a vectorised loop, or away from loops that have a kind."""
    around = next((p.loops for p in placed if p.below(loop)), ())
    inner = next((k for k, other in enumerate(around) if same(other, loop)), -1)
    for other in around[: inner + 1]:
        if kind_of(other) == "vectorized":
            raise ScheduleError(
                f"{asked}: loop {other.loop_var.name} is vectorized, and its lanes would share "
                "one element; place blocks first, then vectorise"
            )
    for other in block.loops:
        if kind_of(other) != "serial" and not any(same(other, outer) for outer in around):
            raise ScheduleError(
                f"{asked}: its loop {other.loop_var.name} is {kind_of(other)}, which the move "
                "would drop; place blocks first, then give loops their kinds"
            )


def check_reads(asked: str, block: Placed, placed: Sequence[Placed]) -> None:
    """Refuse to move a block behind others if it reads none of what they make.

    TVM moves it behind its own readers.
    """
    made = [b for p in placed if not p.block.same_as(block.block) for b in p.written]
    if not any(region.source.same_as(b) for region in block.block.reads for b in made):
        raise ScheduleError(
            f"{asked}: it reads nothing that another block makes; use compute_at, which moves a "
            "block to its readers"
        )


class Nest:
    """A TVM schedule of one function: blocks by name, loops by handle, refusals ours."""

    def __init__(self, func: PrimFunc) -> None:
        self._schedule: Any = s_tir.Schedule(
            tvm.IRModule({"main": func}), error_render_level="fast"
        )

    @property
    def func(self) -> PrimFunc:
        """The function as the primitives so far have made it."""
        return self._schedule.mod["main"]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks, in the order in which they run."""
        return tuple(placed.name for placed in placed_blocks(self.func))

    def _placed(self, asked: str, block: str) -> Placed:
        found = [p for p in placed_blocks(self.func) if p.name == block]
        if len(found) != 1:
            raise ScheduleError(
                f"{asked}: the function has {len(found)} blocks named {block}; "
                f"use one of {', '.join(self.blocks)}"
            )
        return found[0]

    def _current(self, asked: str, loop: Loop) -> Any:
        """The loop's statement."""
        return self._do(asked, lambda s: s.get(loop.handle))

    def _called(self, loop: Loop) -> str:
        """How a message speaks of a loop."""
        text = f"loop {loop.name}"
        try:
            current = self._schedule.get(loop.handle)
        except (ValueError, IndexError):
            return text
        names = [p.name for p in placed_blocks(self.func) if p.below(current)]
        return f"{text} of block {'/'.join(names)} (extent {current.extent})"

    def _loop(self, handle: Any) -> Loop:
        current = self._schedule.get(handle)
        return Loop(str(current.loop_var.name), extent_of(current), handle)

    def _do(self, asked: str, apply: Callable[[Any], _Made]) -> _Made:
        with _translated(asked):
            return apply(self._schedule)


@contextmanager
def _translated(asked: str) -> Generator[None]:
    """TVM's refusals as ours."""
    try:
        yield
    except (s_tir.ScheduleError, tvm.error.InternalError, ValueError, IndexError) as cause:
        why = str(cause).strip().rpartition("\n")[-1].removeprefix("ScheduleError: ")
        if isinstance(cause, IndexError):
            why = "its loop belongs to another recipe"
        raise ScheduleError(
            f"{asked}: {why.rstrip('.')}; look at the loops with `.func.script()`"
        ) from cause
