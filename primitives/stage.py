"""A stage: how the elements of one buffer are computed, free of loops and layouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from primitives.errors import LayoutError, Opaque
from primitives.expressions import Read, Reader, dtype_of, reads_of, same_indices, substitute
from primitives.tensorir import Any, Buffer, Expr, Var, ffi, tirx


@dataclass(frozen=True, eq=False)
class Axis:
    """One loop of a stage: a variable that runs from 0 to below the extent."""

    var: Var
    extent: int


@dataclass(frozen=True, eq=False)
class Stage:
    """How the elements of one buffer (several, for argmax and its like) are computed.

    Attributes:
        name: the block's name.
        outputs: the buffers written; several only if their elements are reduced together.
        spatial: one axis for each dimension of the outputs, in their order.
        reduce: the axes summed (or otherwise reduced) over; empty if there is no reduction.
        accumulators: for a reduction, variables that stand for the value so far of each output.
        init: for a reduction, the value each accumulator starts from, over the spatial axes.
        values: the element of each output; for a reduction, the next value of each accumulator.
        reads: every read in `values` and `init`, without duplicates.
    """

    name: str
    outputs: tuple[Buffer, ...]
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    accumulators: tuple[Var, ...]
    init: tuple[Expr, ...]
    values: tuple[Expr, ...]
    reads: tuple[Read, ...]

    @property
    def output(self) -> Buffer:
        """The only buffer written."""
        if len(self.outputs) != 1:
            raise LayoutError(
                f"stage {self.name}: asked for its output, but it has {len(self.outputs)}; "
                "use `outputs`"
            )
        return self.outputs[0]

    @property
    def value(self) -> Expr:
        """The only value, see `values`."""
        if len(self.values) != 1:
            raise LayoutError(
                f"stage {self.name}: asked for its value, but it has {len(self.values)}; "
                "use `values`"
            )
        return self.values[0]

    def with_values(self, values: tuple[Expr, ...], init: tuple[Expr, ...] | None = None) -> Stage:
        """The same stage with other values, and another init if one is given."""
        start = self.init if init is None else init
        reads = distinct(r for v in (*start, *values) for r in reads_of(v))
        return replace(self, values=values, init=start, reads=reads)

    @cached_property
    def _combination(self) -> tuple[str, Expr] | None:
        if len(self.accumulators) != 1:
            return None
        value, accumulator = self.values[0], self.accumulators[0]
        name = _COMBINERS.get(type(value))
        if name is None:
            return None
        for mine, other in ((value.a, value.b), (value.b, value.a)):
            if mine.same_as(accumulator) and not mentions(other, accumulator):
                return name, other
        return None

    @property
    def combiner(self) -> str | None:
        """`add`, `mul`, `max` or `min` if that is how the reduction combines, otherwise None."""
        return self._combination[0] if self._combination else None

    @property
    def source(self) -> Expr | None:
        """What `combiner` combines with the accumulator at each point, None without a combiner."""
        return self._combination[1] if self._combination else None

    def at(
        self,
        expr: Expr,
        spatial: Sequence[Expr],
        reduce: Sequence[Expr] = (),
        accumulators: Sequence[Expr] = (),
        read: Reader | None = None,
    ) -> Expr:
        """One of this stage's expressions at other indices, see `expressions.substitute`.

        Args:
            expr: one of `values` or `init`, or `source`.
            spatial: what to put for the spatial axes.
            reduce: what to put for the reduction axes; left alone if not given.
            accumulators: what to put for the accumulators; left alone if not given.
            read: what to put for the reads.
        """
        variables: dict[Var, Expr] = dict(zip(self._spatial_variables, spatial, strict=True))
        if reduce:
            variables.update(zip((axis.var for axis in self.reduce), reduce, strict=True))
        kinds = {dtype_of(v) for v in variables.values() if not isinstance(v, int)}
        if accumulators:
            variables.update(zip(self.accumulators, accumulators, strict=True))
        return substitute(expr, variables, read, kinds.pop() if len(kinds) == 1 else None)

    @cached_property
    def _spatial_variables(self) -> tuple[Var, ...]:
        return tuple(axis.var for axis in self.spatial)


_COMBINERS = {tirx.Add: "add", tirx.Mul: "mul", tirx.Max: "max", tirx.Min: "min"}


def dtype_of_buffer(buffer: Buffer) -> str:
    """The dtype of a buffer's elements."""
    return str(buffer.ty.dtype.dtype if hasattr(buffer.ty.dtype, "dtype") else buffer.ty.dtype)


def shape_of_buffer(buffer: Buffer) -> tuple[int, ...]:
    """The static shape of a buffer."""
    return tuple(static(f"buffer {buffer.name}", extent) for extent in buffer.ty.shape)


def static(where: str, extent: Any) -> int:
    """An extent as a number, or a refusal."""
    if not isinstance(extent, tirx.IntImm):
        raise refusal(where, f"its extent {extent} is not a number")
    return int(extent.value)


def mentions(expr: Expr, variable: Var) -> bool:
    """Whether a variable occurs in an expression."""
    found: list[bool] = []

    def compare(other: Var) -> None:
        if other.same_as(variable):
            found.append(True)

    ffi.structural_walk(expr, [(tirx.Var, compare)])
    return bool(found)


def refusal(where: str, what: str) -> Opaque:
    """The error for a part of a function that is no stage."""
    return Opaque(f"read {where} as stages: {what}; run the function as it is")


def distinct(reads: Iterable[Read]) -> tuple[Read, ...]:
    """The reads without repetitions."""
    kept: list[Read] = []
    for read in reads:
        if not any(
            read.buffer.same_as(k.buffer) and same_indices(read.indices, k.indices) for k in kept
        ):
            kept.append(read)
    return tuple(kept)
