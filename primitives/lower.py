"""Rewriting a TensorIR function for tensors that are stored in given layouts.

Source: ALT (EuroSys 2023, arXiv 2210.12415): spatial loops are rebuilt from the *stored* axes of
the output; with S_Y its layout and S_X an input's, X[f(L)] becomes X'[S_X(f(S_Y^-1(L')))].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from primitives.borders import analyzer_for, is_one_of, without_copies, without_guards
from primitives.errors import LayoutError
from primitives.expressions import substitute
from primitives.layout import Layout
from primitives.stage import Axis, Stage, dtype_of_buffer, shape_of_buffer
from primitives.stages import stages_of
from primitives.tensorir import Any, Buffer, Expr, PrimFunc, Var, ffi, ir, s_tir, tirx


def rewrite(
    func: PrimFunc, layouts: Mapping[str | int, Layout], *, fill: float = 0, absorb: bool = True
) -> PrimFunc:
    """The same computation over tensors stored in these layouts.

    Rewrite:
        before: for i in range(32): y[i] = x[i] + 1
        after:  for o, l in grid(4, 8): y[o, l] = x[o, l] + 1   with both split into (4, 8)

    Cells of an output that hold no element are set to `fill`, and those of every tensor that is
    read are taken to hold it: a guard against reading outside a tensor, `if_then_else(inside,
    x[i - 1], fill)`, becomes a plain read where the layout has a border as wide.

    Args:
        func: an unscheduled TensorIR function, see `stages.stages_of`.
        layouts: layouts by position of the parameter, or by name for parameters and intermediate
            tensors; the others stay as they are.
        fill: what cells that hold no element contain.
        absorb: whether a stage that only copies, as a pad does once its guard is gone, disappears
            into its readers.

    Raises:
        LayoutError: if a layout names no tensor of the function, or one of another shape.
        Opaque: if the function cannot be read as stages.
    """
    stages = stages_of(func)
    params = list(func.params)
    by_buffer = _layouts_of(params, stages, layouts)
    stages = [without_guards(stage, by_buffer, fill) for stage in stages]
    if absorb:
        stages = without_copies(stages, params, by_buffer)
    stored: dict[Buffer, Buffer] = {}
    for buffer in [*params, *(b for stage in stages for b in stage.outputs)]:
        layout = by_buffer.get(buffer)
        stored[buffer] = buffer if layout is None else _stored_buffer(buffer, layout)
    nests = [_nest(stage, stored, by_buffer, fill) for stage in stages]
    made = [b for stage in stages for b in stage.outputs if not is_one_of(b, params)]
    root = s_tir.SBlock(
        [],
        [],
        [],
        "root",
        tirx.SeqStmt(nests) if len(nests) > 1 else nests[0],
        alloc_buffers=[stored[b] for b in made],
    )
    return tirx.PrimFunc(
        [stored[p] for p in params],
        s_tir.SBlockRealize([], True, root),
        ret_type=func.ret_type,
        attrs=func.attrs,
    )


def _layouts_of(
    params: list[Buffer], stages: list[Stage], layouts: Mapping[str | int, Layout]
) -> dict[Buffer, Layout]:
    """The layouts by buffer, identities left out."""
    named: dict[str, list[Buffer]] = {}
    for buffer in [*params, *(b for stage in stages for b in stage.outputs)]:
        known = named.setdefault(str(buffer.name), [])
        if not is_one_of(buffer, known):
            known.append(buffer)
    result: dict[Buffer, Layout] = {}
    for key, layout in layouts.items():
        if isinstance(key, int):
            if not 0 <= key < len(params):
                raise LayoutError(
                    f"layout of parameter {key}: the function has {len(params)}; "
                    f"use 0 to {len(params) - 1}"
                )
            buffer = params[key]
        else:
            found = named.get(key, [])
            if len(found) != 1:
                raise LayoutError(
                    f"layout of tensor {key!r}: the function has {len(found)} of that name; "
                    f"use one of {', '.join(named)}, or a parameter's position"
                )
            buffer = found[0]
        shape = shape_of_buffer(buffer)
        if shape != layout.logical_shape:
            raise LayoutError(
                f"layout {layout} of {buffer.name}: the tensor has shape {shape}; "
                "make the layout for that shape"
            )
        if buffer in result and result[buffer] != layout:
            raise LayoutError(f"layout of {buffer.name}: given twice and differently; give one")
        if not layout.is_identity:
            result[buffer] = layout
    return result


def _stored_buffer(buffer: Buffer, layout: Layout) -> Buffer:
    index = str(buffer.ty.shape[0].ty.dtype) if len(buffer.ty.shape) else "int32"
    extents = [tirx.const(extent, index) for extent in layout.shape]
    return tirx.decl_buffer(
        extents, dtype_of_buffer(buffer), str(buffer.name), scope=str(buffer.scope())
    )


def _nest(
    stage: Stage, stored: Mapping[Buffer, Buffer], layouts: Mapping[Buffer, Layout], fill: float
) -> Any:
    """Loops over the stored output, around one block."""
    shape = tuple(axis.extent for axis in stage.spatial)
    layout = layouts.get(stage.outputs[0], Layout.identity(shape))
    if any(layouts.get(b, Layout.identity(shape)) != layout for b in stage.outputs):
        names = ", ".join(str(b.name) for b in stage.outputs)
        raise LayoutError(f"layouts of {names}: computed together, they need the same layout")
    dtype = _index_dtype(stage)
    if layout.is_identity:
        spatial = [Axis(tirx.Var(str(a.var.name), dtype), a.extent) for a in stage.spatial]
    else:
        spatial = [Axis(tirx.Var(f"v{k}", dtype), extent) for k, extent in enumerate(layout.shape)]
    reduce = [Axis(tirx.Var(str(a.var.name), dtype), a.extent) for a in stage.reduce]
    axes = [*spatial, *reduce]
    analyzer = analyzer_for(axes)
    logical, valid = layout.inverse([axis.var for axis in spatial])
    variables: dict[Var, Expr] = {}
    for axis, index in zip(stage.spatial, logical, strict=True):
        variables[axis.var] = index if isinstance(index, int) else analyzer.simplify(index)
    variables.update((old.var, new.var) for old, new in zip(stage.reduce, reduce, strict=True))
    if valid is not True:
        valid = analyzer.simplify(valid)
    cells = [axis.var for axis in spatial]
    loads = [tirx.BufferLoad(stored[b], cells) for b in stage.outputs]
    variables.update(zip(stage.accumulators, loads, strict=False))

    def read(buffer: Buffer, indices: list[Expr]) -> Expr:
        source = layouts.get(buffer)
        where = indices if source is None else source.forward(indices)
        simple = [i if isinstance(i, int) else analyzer.simplify(i) for i in where]
        return tirx.BufferLoad(stored[buffer], [_index(i, dtype) for i in simple])

    def made(expr: Expr) -> Expr:
        return substitute(expr, variables, read, dtype)

    def guarded(value: Expr, otherwise: Expr) -> Expr:
        if valid is True or ffi.structural_equal(value, otherwise):
            return value
        return tirx.if_then_else(valid, value, otherwise)

    fills = [tirx.const(fill, dtype_of_buffer(b)) for b in stage.outputs]
    init = None
    if stage.accumulators:
        starts = [guarded(made(v), f) for v, f in zip(stage.init, fills, strict=True)]
        init = _stores(stage, stored, cells, starts)
    if stage.combiner is not None:
        # Without an element there is nothing to combine: the fill stays as it is.
        neutral = _neutral(stage.combiner, dtype_of_buffer(stage.output))
        values = [_COMBINE[stage.combiner](loads[0], guarded(made(stage.source), neutral))]
    else:
        values = [guarded(made(v), f) for v, f in zip(stage.values, fills, strict=True)]
    body = _stores(stage, stored, cells, values)
    touched = {stored[b]: stored[b] for b in (*stage.outputs, *(r.buffer for r in stage.reads))}
    return _loops(stage.name, spatial, reduce, body, init, touched)


_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": operator.add,
    "mul": operator.mul,
    "max": tirx.max,
    "min": tirx.min,
}


def _neutral(combiner: str, dtype: str) -> Expr:
    """What leaves the other operand as it is."""
    match combiner:
        case "max":
            return tirx.min_value(dtype)
        case "min":
            return tirx.max_value(dtype)
        case _:
            return tirx.const(0 if combiner == "add" else 1, dtype)


def _stores(
    stage: Stage, stored: Mapping[Buffer, Buffer], cells: list[Var], values: list[Expr]
) -> Any:
    """The stores as one statement; of several values all are computed before any is stored."""
    named: list[Any] = []
    if len(values) > 1:
        named = [
            tirx.Bind(tirx.Var(f"next_{b.name}", dtype_of_buffer(b)), v)
            for b, v in zip(stage.outputs, values, strict=True)
        ]
        values = [bind.var for bind in named]
    targets = [stored[b] for b in stage.outputs]
    stores = [tirx.BufferStore(b, v, cells) for b, v in zip(targets, values, strict=True)]
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
