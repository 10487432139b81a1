"""What a recipe must not do.

TVM 0.27 accepts each thing refused here, and then computes something else or fails when it builds.
"""

from __future__ import annotations

from collections.abc import Sequence

from primitives.errors import ScheduleError
from primitives.loops_nest import Placed, extent_of, kind_of, same
from primitives.tensorir import Any, Buffer, ir, sym, tirx

THREAD_AXES = tuple(
    f"{level}.{axis}" for level in ("blockIdx", "threadIdx", "vthread") for axis in "xyz"
)
"""What a loop can be bound to on a GPU."""


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


def check_reads(asked: str, block: Placed, loop: Any, placed: Sequence[Placed]) -> None:
    """Refuse to move a block behind others that make nothing it reads, or have not finished it.

    TVM moves a producer behind its own readers, and a reader into the reduction of what it reads.
    """
    read = [region.source for region in block.block.reads]
    makers = [
        p
        for p in placed
        if not p.block.same_as(block.block)
        and any(made.same_as(buffer) for made in p.written for buffer in read)
    ]
    if not makers:
        raise ScheduleError(
            f"{asked}: it reads nothing that another block makes; use compute_at, which moves a "
            "block to its readers"
        )
    for maker in makers:
        for other in maker.loops:
            if maker.below(loop) and maker.reduces(other):
                raise ScheduleError(
                    f"{asked}: inside loop {other.loop_var.name} block {maker.name} has not added "
                    "up what it reads; choose a loop further out"
                )
            if same(other, loop):
                break


def check_whole(asked: str, block: Placed) -> None:
    """Refuse a move after which a block no longer makes all of its elements.

    Behind a producer TVM keeps only what reads the produced elements: a pad loses its border.
    """
    analyzer = sym.Analyzer()
    for loop in block.loops:
        analyzer.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))
    for axis, binding in zip(block.block.iter_vars, block.bindings, strict=True):
        bound, extent = analyzer.const_int_bound(binding), int(axis.dom.extent.value)
        if int(bound.min_value) > 0 or int(bound.max_value) < extent - 1:
            raise ScheduleError(
                f"{asked}: it would run for {axis.var.name} from {bound.min_value} to "
                f"{bound.max_value} only, of 0 to {extent - 1}; leave it, or use compute_at"
            )


def check_unguarded(asked: str, block: Placed) -> None:
    """Refuse a copy for a block that is guarded: TVM leaves the guard out of the copy."""
    if not isinstance(block.guard, tirx.IntImm):
        raise ScheduleError(
            f"{asked}: it runs only where {block.guard}; make copies before splits that leave a "
            "rest"
        )


def check_start(asked: str, block: Placed, loop: Any) -> None:
    """Refuse to set the start of a reduction before loops that add an element's terms twice.

    Blocks that were moved to their readers compute what two of these share once for each: that is
    right only while each time starts anew.
    """
    where = next((k for k, other in enumerate(block.loops) if same(other, loop)), None)
    if where is None:
        names = ", ".join(str(other.loop_var.name) for other in block.loops)
        raise ScheduleError(f"{asked}: that loop is not around the block; use one of {names}")
    for other in block.loops:
        if kind_of(other) in THREAD_AXES and block.reduces(other):
            raise ScheduleError(
                f"{asked}: its reduction loop {other.loop_var.name} is {kind_of(other)}, "
                "threads then add at the same time; leave the reduction whole"
            )
    ranges = {n.loop_var: ir.Range.from_min_extent(n.min, n.extent) for n in block.loops[where:]}
    found = sym.detect_iter_map(
        list(block.bindings), ranges, check_level=sym.iter_affine_map.IterMapLevel.Bijective
    )
    if not found.indices:
        raise ScheduleError(
            f"{asked}: from that loop on, terms are added more than once; "
            "choose a loop further in, or leave the reduction whole"
        )
