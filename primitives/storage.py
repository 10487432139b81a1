"""How each tensor of a function is stored in the rewritten one.

Names and positions are resolved to buffers here, and what is asked for is checked against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from primitives.access import stored_indices
from primitives.errors import LayoutError
from primitives.indexing import Valid
from primitives.layout import Layout
from primitives.stage import Axis, Stage, dtype_of_buffer, shape_of_buffer
from primitives.steps import Shape
from primitives.store_at import Joint
from primitives.tensorir import Any, Buffer, Expr, tirx

Key = str | int
"""A tensor of a function: a parameter's position, or the name of any tensor."""


@dataclass(frozen=True)
class Unpacked:
    """The converse of a layout: a tensor of the function *is* stored so, and is to be no more.

    Rewrite:
        before: y[o, l] = x[o, l] + 1   with x and y 32 elements, split into (4, 8)
        after:  y[i] = x[i // 8, i % 8] + 1   with y given as `Unpacked` of that layout

    >>> Unpacked(Layout.parse("32 split(0,4,8)")).shape
    (32,)
    """

    layout: Layout

    @property
    def logical_shape(self) -> Shape:
        """The tensor's shape in the function as it is: that of the stored form."""
        return self.layout.shape

    @property
    def shape(self) -> Shape:
        """Its shape in the rewritten function."""
        return self.layout.logical_shape

    @property
    def is_identity(self) -> bool:
        """Whether the stored form is the tensor itself."""
        return self.layout.is_identity

    def __str__(self) -> str:
        return f"unpacked from {self.layout}"


@dataclass(frozen=True)
class Guest:
    """A tensor kept in the buffer of another one."""

    joint: Joint

    is_identity = False

    @property
    def logical_shape(self) -> Shape:
        """The tensor's shape in the function as it is."""
        return self.joint.guest.logical_shape

    @property
    def shape(self) -> Shape:
        """The shape of the buffer that holds both."""
        return self.joint.shape


Form = Layout | Unpacked | Guest


@dataclass(frozen=True, eq=False)
class Storage:
    """How one tensor is stored.

    Attributes:
        buffer: what stands for it in the rewritten function.
        form: where its elements are in that buffer.
        fill: what cells that hold no element contain.
        border: how far outside the tensor an index may lie and still find fill, see
            `Layout.border`.
    """

    buffer: Buffer
    form: Form
    fill: float = 0
    border: tuple[tuple[int, int], ...] = field(default=())

    @property
    def fill_value(self) -> Expr:
        """The fill as a literal of the tensor's dtype."""
        return tirx.const(self.fill, dtype_of_buffer(self.buffer))

    @property
    def has_border(self) -> bool:
        """Whether fill is found anywhere around the tensor."""
        return any(map(any, self.border))

    def load(self, indices: Sequence[Expr], reduce: Sequence[Axis], analyzer: Any) -> Expr:
        """The element that the function as it is reads at these indices."""
        valid: Valid = True
        match self.form:
            case Layout():
                where = stored_indices(self.form, indices, reduce, analyzer)
            case Unpacked(layout):
                where, valid = layout.inverse(indices)
            case Guest(joint):
                where = joint.guest_forward(indices)
        dtype = str(indices[0].ty.dtype) if indices else "int32"
        simple = [
            tirx.const(i, dtype) if isinstance(i, int) else analyzer.simplify(i) for i in where
        ]
        element = tirx.BufferLoad(self.buffer, simple)
        if valid is True or analyzer.can_prove(valid):
            return element
        return tirx.if_then_else(analyzer.simplify(valid), element, self.fill_value)

    def element(self, cells: Sequence[Expr]) -> tuple[list[Expr], Valid]:
        """Which element of the function's tensor these cells of the buffer hold, and if any."""
        match self.form:
            case Layout():
                return self.form.inverse(cells)
            case Unpacked(layout):
                return layout.forward(cells), True
            case Guest():
                raise AssertionError("guests are inputs: nothing computes them")


def storages_of(
    params: Sequence[Buffer],
    stages: Sequence[Stage],
    layouts: Mapping[Key, Layout | Unpacked],
    fill: float | Mapping[Key, float],
    joints: Mapping[tuple[Key, Key], Joint],
) -> dict[Buffer, Storage]:
    """How every tensor of a function is stored, checked.

    Raises:
        LayoutError: if a key names no tensor, a form does not fit it, or two are given.
    """
    tensors = _Tensors(params, stages)
    forms: dict[Buffer, Layout | Unpacked] = {}
    for key, form in layouts.items():
        buffer = tensors.find("layout", key)
        _check_shape(f"layout {form} of {buffer.name}", form.logical_shape, buffer)
        if forms.setdefault(buffer, form) != form:
            raise LayoutError(f"layout of {buffer.name}: given twice and differently; give one")
    fills = _fills(tensors, fill, forms)
    result: dict[Buffer, Storage] = {}
    for buffer in tensors.all:
        form = forms.get(buffer, Layout.identity(shape_of_buffer(buffer)))
        made = buffer if form.is_identity else _stored_buffer(buffer, form.shape)
        border = form.border if isinstance(form, Layout) else ()
        result[buffer] = Storage(made, form, fills[buffer], border)
    joined: set[Buffer] = set()
    for (host_key, guest_key), joint in joints.items():
        host, guest = (tensors.find("joint", key) for key in (host_key, guest_key))
        tensors.check_joint(host, guest, joint)
        for buffer in (host, guest):
            if buffer in joined or buffer in forms:
                raise LayoutError(
                    f"joint of {host.name} and {guest.name}: {buffer.name} has a layout or "
                    "another joint already; give one"
                )
            joined.add(buffer)
        if fills[host] != fills[guest]:
            raise LayoutError(
                f"joint of {host.name} and {guest.name}: fills {fills[host]} and {fills[guest]} "
                "for one buffer; give both the same"
            )
        made = _stored_buffer(host, joint.shape)
        # Cells around the host hold fill before the guest's slice is added, and in front of it.
        result[host] = Storage(made, joint.host_layout, fills[host], joint.host.border)
        result[guest] = Storage(made, Guest(joint), fills[guest])
    return result


class _Tensors:
    """The tensors of one function, by name and by position."""

    def __init__(self, params: Sequence[Buffer], stages: Sequence[Stage]) -> None:
        self.params = tuple(params)
        self.inputs = set(params) - {b for stage in stages for b in stage.outputs}
        made = [buffer for stage in stages for buffer in stage.outputs]
        self.all = list(dict.fromkeys([*params, *made]))
        self.named: dict[str, list[Buffer]] = {}
        for buffer in self.all:
            self.named.setdefault(str(buffer.name), []).append(buffer)

    def find(self, what: str, key: Key) -> Buffer:
        """The tensor that a key names."""
        if isinstance(key, int):
            if not 0 <= key < len(self.params):
                raise LayoutError(
                    f"{what} of parameter {key}: the function has {len(self.params)}; "
                    f"use 0 to {len(self.params) - 1}"
                )
            return self.params[key]
        found = self.named.get(key, [])
        if len(found) != 1:
            raise LayoutError(
                f"{what} of tensor {key!r}: the function has {len(found)} of that name; "
                f"use one of {', '.join(self.named)}, or a parameter's position"
            )
        return found[0]

    def check_joint(self, host: Buffer, guest: Buffer, joint: Joint) -> None:
        """Refuse two tensors that cannot share a buffer."""
        what = f"joint of {host.name} and {guest.name}"
        if host.same_as(guest):
            raise LayoutError(f"{what}: they are one tensor; name two")
        for buffer in (host, guest):
            if buffer not in self.inputs:
                raise LayoutError(f"{what}: {buffer.name} is no input; only inputs can share")
        _check_shape(f"{what}: the host's layout", joint.host.logical_shape, host)
        _check_shape(f"{what}: the guest's layout", joint.guest.logical_shape, guest)
        dtypes = dtype_of_buffer(host), dtype_of_buffer(guest)
        if dtypes[0] != dtypes[1]:
            raise LayoutError(f"{what}: {dtypes[0]} and {dtypes[1]}; cast one of them first")


def _check_shape(what: str, taken: Shape, buffer: Buffer) -> None:
    shape = shape_of_buffer(buffer)
    if shape != taken:
        raise LayoutError(
            f"{what}: it takes {taken}, and {buffer.name} has shape {shape}; make it for that shape"
        )


def _fills(
    tensors: _Tensors, fill: float | Mapping[Key, float], laid_out: Iterable[Buffer]
) -> dict[Buffer, float]:
    """The fill of every tensor, 0 where a mapping leaves it out."""
    result: dict[Buffer, float] = {}
    if isinstance(fill, Mapping):
        for key, number in fill.items():
            buffer = tensors.find("fill", key)
            if result.setdefault(buffer, number) != number:
                raise LayoutError(f"fill of {buffer.name}: given twice and differently; give one")
    else:
        result = dict.fromkeys(tensors.all, fill)
    for buffer in laid_out:
        dtype, number = dtype_of_buffer(buffer), result.get(buffer, 0)
        if not dtype.startswith(("float", "bfloat")) and not float(number).is_integer():
            raise LayoutError(
                f"fill {number} of {buffer.name}: its dtype is {dtype}, which has no such value; "
                "give fills for each tensor as a mapping"
            )
    return {buffer: result.get(buffer, 0) for buffer in tensors.all}


def _stored_buffer(buffer: Buffer, shape: Shape) -> Buffer:
    index = str(buffer.ty.shape[0].ty.dtype) if len(buffer.ty.shape) else "int32"
    extents = [tirx.const(extent, index) for extent in shape]
    return tirx.decl_buffer(
        extents, dtype_of_buffer(buffer), str(buffer.name), scope=str(buffer.scope())
    )
