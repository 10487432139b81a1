"""The loops of one stage, rebuilt over the cells in which its output is stored.

Source: ALT (EuroSys 2023, arXiv 2210.12415): spatial loops are rebuilt from the *stored* axes of
the output; with S_Y its layout and S_X an input's, X[f(L)] becomes X'[S_X(f(S_Y^-1(L')))].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import nullcontext

from primitives.borders import analyzer_for
from primitives.errors import LayoutError
from primitives.expressions import substitute
from primitives.stage import Axis, Stage, dtype_of_buffer, shape_of_buffer
from primitives.storage import Storage
from primitives.tensorir import Any, Buffer, Expr, Var, ffi, ir, s_tir, tirx


def nest_of(stage: Stage, storages: Mapping[Buffer, Storage]) -> Any:
    """Loops over the stored output, around one block.

    Raises:
        LayoutError: if the stage's outputs are not all stored alike.
    """
    targets = [storages[b] for b in stage.outputs]
    form = targets[0].form
    if any(target.form != form for target in targets):
        names = ", ".join(str(b.name) for b in stage.outputs)
        raise LayoutError(
            f"layouts of {names}: computed together, but stored differently; give all one layout"
        )
    dtype = _index_dtype(stage)
    if form.is_identity:
        spatial = [Axis(tirx.Var(str(a.var.name), dtype), a.extent) for a in stage.spatial]
    else:
        shape = shape_of_buffer(targets[0].buffer)
        spatial = [Axis(tirx.Var(f"v{k}", dtype), extent) for k, extent in enumerate(shape)]
    reduce = [Axis(tirx.Var(str(a.var.name), dtype), a.extent) for a in stage.reduce]
    analyzer = analyzer_for([*spatial, *reduce])
    cells = [axis.var for axis in spatial]
    logical, valid = targets[0].element(cells)
    variables: dict[Var, Expr] = {}
    for axis, index in zip(stage.spatial, logical, strict=True):
        variables[axis.var] = index if isinstance(index, int) else analyzer.simplify(index)
    variables.update((old.var, new.var) for old, new in zip(stage.reduce, reduce, strict=True))
    if valid is not True:
        valid = analyzer.simplify(valid)
    loads = [tirx.BufferLoad(target.buffer, cells) for target in targets]
    variables.update(zip(stage.accumulators, loads, strict=False))

    def read(buffer: Buffer, indices: list[Expr]) -> Expr:
        return storages[buffer].load([_index(i, dtype) for i in indices], reduce, analyzer)

    def made(expr: Expr, otherwise: Expr) -> Expr:
        # What is computed only for cells that hold an element may be simplified as for those.
        with nullcontext() if valid is True else analyzer.constraint_scope(valid):
            value = substitute(expr, variables, read, dtype)
        if valid is True or ffi.structural_equal(value, otherwise):
            return value
        return tirx.if_then_else(valid, value, otherwise)

    fills = [target.fill_value for target in targets]
    init = None
    if stage.accumulators:
        starts = [made(v, f) for v, f in zip(stage.init, fills, strict=True)]
        init = _stores(targets, cells, starts)
    if stage.combiner is not None:
        # Without an element there is nothing to combine: the fill stays as it is.
        neutral = _neutral(stage.combiner, fills[0])
        values = [_COMBINE[stage.combiner](loads[0], made(stage.source, neutral))]
    else:
        values = [made(v, f) for v, f in zip(stage.values, fills, strict=True)]
    body = _stores(targets, cells, values)
    named = [*stage.outputs, *(r.buffer for r in stage.reads)]
    touched = {storages[b].buffer: storages[b].buffer for b in named}
    return _loops(stage.name, spatial, reduce, body, init, touched)


_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": operator.add,
    "mul": operator.mul,
    "max": tirx.max,
    "min": tirx.min,
}


def _neutral(combiner: str, fill: Expr) -> Expr:
    """What leaves the fill as it is: of a maximum or minimum only the fill itself always does."""
    match combiner:
        case "max" | "min":
            return fill
        case _:
            return tirx.const(0 if combiner == "add" else 1, str(fill.ty.dtype))


def _stores(targets: list[Storage], cells: list[Var], values: list[Expr]) -> Any:
    """The stores as one statement; of several values all are computed before any is stored."""
    buffers = [target.buffer for target in targets]
    named: list[Any] = []
    if len(values) > 1:
        named = [
            tirx.Bind(tirx.Var(f"next_{b.name}", dtype_of_buffer(b)), v)
            for b, v in zip(buffers, values, strict=True)
        ]
        values = [bind.var for bind in named]
    stores = [tirx.BufferStore(b, v, cells) for b, v in zip(buffers, values, strict=True)]
    return _sequence([*named, *stores])


def _sequence(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def _loops(
    name: str,
    spatial: list[Axis],
    reduce: list[Axis],
    body: Any,
    init: Any,
    touched: dict[Buffer, Buffer],
) -> Any:
    """The block and the loops around it, one for each of its axes."""
    iterations: list[Any] = []
    loops: list[tuple[Var, Expr]] = []
    for axis in (*spatial, *reduce):
        dtype = str(axis.var.ty.dtype)
        zero, extent = tirx.const(0, dtype), tirx.const(axis.extent, dtype)
        kind = tirx.IterVar.CommReduce if len(iterations) >= len(spatial) else tirx.IterVar.DataPar
        iterations.append(tirx.IterVar(ir.Range.from_min_extent(zero, extent), axis.var, kind))
        loops.append((tirx.Var(f"{axis.var.name}_loop", dtype), extent))
    bare = s_tir.SBlock(iterations, [], [], name, body, init)
    reads, writes = s_tir.analysis.get_sblock_read_write_region(bare, touched)
    block = s_tir.SBlock(iterations, reads, writes, name, body, init)
    nest: Any = s_tir.SBlockRealize([variable for variable, _ in loops], True, block)
    for variable, extent in reversed(loops):
        nest = tirx.For(
            variable, tirx.const(0, str(variable.ty.dtype)), extent, tirx.ForKind.SERIAL, nest
        )
    return nest


def _index_dtype(stage: Stage) -> str:
    for axis in (*stage.spatial, *stage.reduce):
        return str(axis.var.ty.dtype)
    return "int32"


def _index(index: Expr | int, dtype: str) -> Expr:
    return tirx.const(index, dtype) if isinstance(index, int) else index
