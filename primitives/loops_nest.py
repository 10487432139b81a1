"""The loops around the blocks of a scheduled function, and the schedule behind a recipe."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from primitives.errors import ScheduleError
from primitives.stage import mentions
from primitives.tensorir import Any, Buffer, Expr, PrimFunc, s_tir, tirx, tvm

_Made = TypeVar("_Made")


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
    guard: Expr
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
            yield Placed(block, tuple(statement.iter_values), statement.predicate, loops)
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
