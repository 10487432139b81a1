"""A TensorIR function read as stages: for each buffer it writes, a formula for its elements.

This takes a function apart that has not been scheduled, as `relax.transform.LegalizeOps` and
`te.create_prim_func` make them: one block a buffer, each element written once. What a stage says
does not depend on loops, so it can be computed again in any order and any layout.
"""

from __future__ import annotations

from dataclasses import dataclass

from primitives.expressions import reads_of, same_indices, substitute
from primitives.stage import (
    Axis,
    Stage,
    distinct,
    dtype_of_buffer,
    mentions,
    refusal,
    shape_of_buffer,
    static,
)
from primitives.tensorir import Any, Buffer, Expr, PrimFunc, Var, ffi, ir, s_tir, sym, tirx

__all__ = ["Axis", "Stage", "dtype_of_buffer", "shape_of_buffer", "stages_of"]

_PURE = 1
"""The greatest of TVM's call effects that is none: expression annotations and pure functions."""


def stages_of(func: PrimFunc) -> list[Stage]:
    """The stages of a function, in an order in which every buffer is written before it is read.

    Args:
        func: an unscheduled TensorIR function with static shapes.

    Raises:
        Opaque: if some part of it is not "each element of a buffer, once, by a formula".
    """
    return _Reading(func).stages


class _Reading:
    """One call of `stages_of`."""

    def __init__(self, func: PrimFunc) -> None:
        self.stages: list[Stage] = []
        self.written: dict[Buffer, Stage] = {}
        self.read: set[Buffer] = set()
        body = func.body
        if isinstance(body, s_tir.SBlockRealize) and not body.block.iter_vars:
            self.scope(body, [])
        else:
            self.statement(body, [])

    def scope(self, realize: Any, loops: list[Any]) -> None:
        """A block that only holds other blocks."""
        block = realize.block
        if block.match_buffers or block.init is not None:
            raise refusal(f"block {block.name_hint}", "it matches buffer regions or has an init")
        self.statement(block.body, loops)

    def statement(self, stmt: Any, loops: list[Any]) -> None:
        if isinstance(stmt, tirx.SeqStmt):
            for each in stmt.seq:
                self.statement(each, loops)
        elif isinstance(stmt, tirx.For):
            self.statement(stmt.body, [*loops, stmt])
        elif isinstance(stmt, s_tir.SBlockRealize):
            if not stmt.block.iter_vars and not isinstance(stmt.block.body, tirx.BufferStore):
                if loops:
                    raise refusal(f"block {stmt.block.name_hint}", "it has no axes of its own")
                self.scope(stmt, loops)
            else:
                self.block(stmt, loops)
        elif isinstance(stmt, tirx.AllocBuffer):
            pass
        else:
            raise refusal(
                "a function", f"it has a statement of kind {type(stmt).__name__} outside blocks"
            )

    def block(self, realize: Any, loops: list[Any]) -> None:
        """A block that computes; appends its stage."""
        block = realize.block
        where = f"block {block.name_hint}"
        if block.match_buffers:
            raise refusal(where, "it matches buffer regions")
        if block.alloc_buffers:
            raise refusal(where, "it has buffers of its own")
        _check_covered(where, realize, loops)
        stores, bound = _stores_of(where, block.body)
        axes, renamed = _axes_of(where, block, stores[0])
        outputs = tuple(store.buffer for store in stores)
        if len({*outputs}) != len(outputs):
            raise refusal(where, "it writes one buffer twice")
        for store in stores[1:]:
            if not same_indices(store.indices, stores[0].indices):
                raise refusal(where, "its buffers are written at different indices")
        reduction = tuple(a for a in axes if a.is_reduction)
        spatial, reduce = (
            _in_output_order(where, stores[0], axes, renamed),
            tuple(Axis(a.var, a.extent) for a in reduction),
        )
        accumulators: tuple[Var, ...] = ()
        init: tuple[Expr, ...] = ()
        if block.init is not None:
            init = _init_of(where, block.init, stores, renamed)
            accumulators = tuple(tirx.Var(f"{b.name}_so_far", dtype_of_buffer(b)) for b in outputs)
        elif reduce:
            raise refusal(where, "it reduces without an init")
        index = stores[0].indices
        so_far = dict(zip(outputs, accumulators, strict=False))

        def read(buffer: Buffer, indices: list[Expr]) -> Expr:
            if buffer in outputs:
                if not so_far or not same_indices(indices, index):
                    raise refusal(where, f"it reads {buffer.name}, which it is writing")
                return so_far[buffer]
            return tirx.BufferLoad(buffer, indices)

        lets: dict[Var, Expr] = {}
        for bind in bound:
            _check_pure(where, bind.value)
            lets[bind.var] = substitute(bind.value, lets, read)
        values: list[Expr] = []
        for place, store in enumerate(stores):
            _check_pure(where, store.value)
            if any(r.buffer in outputs[:place] for r in reads_of(store.value)):
                raise refusal(where, "it reads a value that it has just written")
            values.append(substitute(store.value, lets, read))
        values = [substitute(v, renamed) for v in values]
        self.append(
            Stage(
                name=str(block.name_hint),
                outputs=outputs,
                spatial=spatial,
                reduce=reduce,
                accumulators=accumulators,
                init=init,
                values=tuple(values),
                reads=distinct(r for v in (*init, *values) for r in reads_of(v)),
            )
        )

    def append(self, stage: Stage) -> None:
        for read in stage.reads:
            self.read.add(read.buffer)
        for buffer in stage.outputs:
            if buffer in self.written:
                raise refusal(
                    f"block {stage.name}", f"it writes {buffer.name}, as another block does"
                )
            if buffer in self.read:
                raise refusal(f"block {stage.name}", f"it writes {buffer.name} after it was read")
            self.written[buffer] = stage
        self.stages.append(stage)


@dataclass(frozen=True, eq=False)
class _BlockAxis:
    var: Var
    extent: int
    is_reduction: bool


def _stores_of(where: str, body: Any) -> tuple[list[Any], list[Any]]:
    """The stores of a block's body and the values named before them."""
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    stores = [s for s in statements if isinstance(s, tirx.BufferStore)]
    bound = statements[: len(statements) - len(stores)]
    for stmt in bound:
        if not isinstance(stmt, tirx.Bind):
            raise refusal(where, f"it holds a statement of kind {type(stmt).__name__}")
    if not stores or any(
        store.predicate is not None for store in stores if hasattr(store, "predicate")
    ):
        raise refusal(where, "it stores nothing, or under a mask")
    return stores, bound


def _axes_of(where: str, block: Any, store: Any) -> tuple[list[_BlockAxis], dict[Var, Expr]]:
    """The block's axes, and what to put for those that do not start at 0."""
    axes: list[_BlockAxis] = []
    renamed: dict[Var, Expr] = {}
    for iteration in block.iter_vars:
        kind = int(iteration.iter_type)
        if kind not in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce):
            raise refusal(where, f"its axis {iteration.var} is neither spatial nor a reduction")
        start = static(where, iteration.dom.min)
        extent = static(where, iteration.dom.extent)
        axes.append(_BlockAxis(iteration.var, extent, kind == tirx.IterVar.CommReduce))
        if start:
            if any(mentions(i, iteration.var) for i in store.indices):
                raise refusal(where, f"its axis {iteration.var} starts at {start}")
            renamed[iteration.var] = iteration.var + start
    return axes, renamed


def _in_output_order(
    where: str, store: Any, axes: list[_BlockAxis], renamed: dict[Var, Expr]
) -> tuple[Axis, ...]:
    """The spatial axes as the output's dimensions have them; adds the missing ones to `renamed`."""
    shape = shape_of_buffer(store.buffer)
    by_var = {axis.var: axis for axis in axes if not axis.is_reduction}
    ordered: list[Axis] = []
    for dimension, (index, extent) in enumerate(zip(store.indices, shape, strict=True)):
        if isinstance(index, tirx.IntImm) and int(index.value) == 0 and extent == 1:
            ordered.append(Axis(tirx.Var(f"i{dimension}", str(index.ty.dtype)), 1))
            continue
        axis = by_var.pop(index, None) if isinstance(index, tirx.Var) else None
        if axis is None or axis.extent != extent:
            raise refusal(
                where,
                f"it writes {store.buffer.name} of shape {shape} at {list(store.indices)}, "
                "not once at each index",
            )
        ordered.append(Axis(axis.var, extent))
    for axis in by_var.values():
        if axis.extent != 1:
            raise refusal(
                where, f"its axis {axis.var} of extent {axis.extent} writes the same cells again"
            )
        renamed.setdefault(axis.var, tirx.const(0, str(axis.var.ty.dtype)))
    return tuple(ordered)


def _init_of(
    where: str, init: Any, stores: list[Any], renamed: dict[Var, Expr]
) -> tuple[Expr, ...]:
    """The initial value of each output of a reduction, in the order of the stores."""
    starts, bound = _stores_of(where, init)
    if bound:
        raise refusal(where, "its init names values")
    by_buffer = {start.buffer: start for start in starts}
    values: list[Expr] = []
    for store in stores:
        start = by_buffer.get(store.buffer)
        if start is None or not same_indices(start.indices, store.indices):
            raise refusal(where, f"its init does not set {store.buffer.name} where it is updated")
        _check_pure(where, start.value)
        if any(r.buffer in by_buffer for r in reads_of(start.value)):
            raise refusal(where, "its init reads what it writes")
        values.append(substitute(start.value, renamed))
    return tuple(values)


def _check_covered(where: str, realize: Any, loops: list[Any]) -> None:
    """Refuse a block whose loops do not run through its whole domain, each point once."""
    block = realize.block
    values = list(realize.iter_values)
    always = isinstance(realize.predicate, tirx.IntImm) and bool(realize.predicate)
    left = {loop.loop_var: loop for loop in loops}
    plain = always
    for iteration, value in zip(block.iter_vars, values, strict=True):
        if isinstance(value, tirx.IntImm):
            starts = ffi.structural_equal(value, iteration.dom.min)
            plain &= starts and _is_one(iteration.dom.extent)
            continue
        loop = left.pop(value, None) if isinstance(value, tirx.Var) else None
        plain &= (
            loop is not None
            and ffi.structural_equal(loop.extent, iteration.dom.extent)
            and ffi.structural_equal(loop.min, iteration.dom.min)
        )
    if plain and all(_is_one(loop.extent) for loop in left.values()):
        return
    ranges = {loop.loop_var: ir.Range.from_min_extent(loop.min, loop.extent) for loop in loops}
    level = sym.iter_affine_map.IterMapLevel.Bijective
    found = sym.detect_iter_map(
        values, ranges, realize.predicate, check_level=level, simplify_trivial_iterators=False
    )
    domains = [(iteration.dom.min, iteration.dom.extent) for iteration in block.iter_vars]
    if len(found.indices) != len(domains) or not domains:
        raise refusal(where, "its loops do not run through each point once")
    for index, (start, extent) in zip(found.indices, domains, strict=True):
        parts = [(part.scale, part.extent) for part in index.args] or [(1, 1)]
        scale, covered = parts[0]
        if len(parts) > 1 or _number(scale) != 1:
            raise refusal(where, "its loops do not run through each point once")
        if (_number(index.base), _number(covered)) != (_number(start), _number(extent)):
            raise refusal(where, "its loops run through other points than the block has")


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | tirx.IntImm) else None


def _is_one(extent: Any) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent.value) == 1


def _check_pure(where: str, expr: Expr) -> None:
    def check(call: Any) -> None:
        effect = call.op.get_attr("TCallEffectKind") if isinstance(call.op, ir.Op) else None
        if effect is None or int(effect) > _PURE:
            raise refusal(where, f"it calls {getattr(call.op, 'name', call.op)}")

    ffi.structural_walk(expr, [(ir.Call, check)])
