"""Rewriting a TensorIR function for tensors that are stored in given layouts.

Source: ALT (EuroSys 2023, arXiv 2210.12415), the rewriting of operators for layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from primitives.borders import without_copies, without_guards
from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.nest import nest_of
from primitives.stages import Axis, Stage, stages_of
from primitives.storage import Guest, Key, Unpacked, storages_of
from primitives.store_at import Joint
from primitives.tensorir import PrimFunc, s_tir, tirx

_NO_JOINTS: Mapping[tuple[Key, Key], Joint] = MappingProxyType({})


def rewrite(
    func: PrimFunc,
    layouts: Mapping[Key, Layout | Unpacked],
    *,
    fill: float | Mapping[Key, float] = 0,
    absorb: bool = True,
    joints: Mapping[tuple[Key, Key], Joint] = _NO_JOINTS,
) -> PrimFunc:
    """The same computation over tensors stored in these layouts.

    Rewrite:
        before: for i in range(32): y[i] = x[i] + 1
        after:  for o, l in grid(4, 8): y[o, l] = x[o, l] + 1   with both split into (4, 8)

    Cells of an output that hold no element are set to `fill`, and those of every tensor that is
    read are taken to hold it: a guard against reading outside a tensor, `if_then_else(inside,
    x[i - 1], fill)`, becomes a plain read where the layout has a border as wide. Of an unfolded
    tensor that is read, each window is read in one tile where that is proven possible, see
    `access`; of one that is written, every copy is computed.

    Args:
        func: an unscheduled TensorIR function, see `stages.stages_of`.
        layouts: layouts by position of the parameter, or by name for parameters and intermediate
            tensors; the others stay as they are. `Unpacked(layout)` goes the other way: the
            function's tensor is the stored form, and the new function's is the logical tensor.
        fill: what cells that hold no element contain: one number, or numbers by the same keys as
            layouts, and 0 for the others.
        absorb: whether a stage that only copies, as a pad does once its guard is gone, disappears
            into its readers.
        joints: for two inputs (host, guest), the one buffer that both are kept in. It takes the
            host's place among the parameters; the guest's falls away.

    Raises:
        LayoutError: if a layout names no tensor of the function, or one of another shape.
        Opaque: if the function cannot be read as stages.
    """
    stages = stages_of(func)
    params = list(func.params)
    storages = storages_of(params, stages, layouts, fill, joints)
    stages = without_guards(stages, params, storages)
    if absorb:
        stages = without_copies(stages, params, storages)
    nests = [nest_of(stage, storages) for stage in stages]
    given = set(params)
    made = [b for stage in stages for b in stage.outputs if b not in given]
    root = s_tir.SBlock(
        [],
        [],
        [],
        "root",
        tirx.SeqStmt(nests) if len(nests) > 1 else nests[0],
        alloc_buffers=[storages[b].buffer for b in made],
    )
    return tirx.PrimFunc(
        [storages[p].buffer for p in params if not isinstance(storages[p].form, Guest)],
        s_tir.SBlockRealize([], True, root),
        ret_type=func.ret_type,
        attrs=func.attrs,
    )


def conversion(source: Layout, target: Layout, dtype: str, *, fill: float = 0) -> PrimFunc:
    """The copy that turns one stored form of a tensor into another.

    Args:
        source: how the tensor is stored.
        target: how it shall be stored.
        dtype: of its elements.
        fill: what cells of the copy that hold no element contain.

    Raises:
        LayoutError: if the layouts are not for tensors of one shape.

    >>> tiles = Layout.parse("4x6 split(1,2,3)")
    >>> back = conversion(tiles, Layout.identity((4, 6)), "float32")
    >>> [tuple(map(int, p.ty.shape)) for p in back.params]
    [(4, 2, 3), (4, 6)]
    """
    if source.logical_shape != target.logical_shape:
        raise LayoutError(
            f"convert {source} to {target}: they store tensors of shapes {source.logical_shape} "
            f"and {target.logical_shape}; make both for one shape"
        )
    extents = source.logical_shape
    given, made = (tirx.decl_buffer(extents, dtype, name) for name in ("source", "target"))
    axes = tuple(Axis(tirx.Var(f"i{k}", "int32"), extent) for k, extent in enumerate(extents))
    value = tirx.BufferLoad(given, [axis.var for axis in axes])
    bare = Stage("convert", (made,), axes, (), (), (), (value,), ())
    stage = bare.with_values((value,))
    storages = storages_of([given, made], [stage], {0: source, 1: target}, fill, _NO_JOINTS)
    root = s_tir.SBlock([], [], [], "root", nest_of(stage, storages))
    func = tirx.PrimFunc(
        [storages[given].buffer, storages[made].buffer], s_tir.SBlockRealize([], True, root)
    )
    return func.with_attr({"global_symbol": "main", "tirx.noalias": True})
