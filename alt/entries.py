"""The functions of a compiled network that callers see: they call every kernel in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import ir, tirx

from alt.cuda.gpu import Gpu
from alt.graph import Value
from alt.sketches.scope import Argument, i32, seq
from alt.target import Hardware
from alt.weights import ConstantKey, constant_key
from primitives import Layout

_MONOTONIC, _MONOTONIC_DARWIN = 1, 6
"""`CLOCK_MONOTONIC` of the C library."""

Call = tuple[Any, Sequence[Argument]]
"""A kernel's function, and the tensors that it is called with."""


@dataclass(frozen=True)
class Tensors:
    """Where everything lies that kernels read and write.

    Attributes:
        inputs: what the caller gives.
        outputs: what the caller gets.
        layouts: how they are stored; by rows where not listed.
        places: (buffer, byte offset) of all that is computed, and of inputs.
        constants: byte offset of each constant among the weights.
        weight_bytes: size of those.
        arena_bytes: memory for what is computed on the way.
    """

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    layouts: Mapping[Value, Layout]
    places: Mapping[Value, tuple[str, int]]
    constants: Mapping[ConstantKey, int]
    weight_bytes: int
    arena_bytes: int

    def place(self, argument: Argument) -> tuple[str, int]:
        """The buffer in which a kernel's argument lies, and its byte offset there."""
        key = constant_key(argument)
        if key in self.constants:
            return "weights", self.constants[key]
        return self.places[argument.value]

    def buffers(self) -> dict[str, Any]:
        """The parameters of every entry: inputs, outputs, weights, arena."""
        found: dict[str, Any] = {}
        for prefix, values in (("in", self.inputs), ("out", self.outputs)):
            for number, value in enumerate(values):
                layout = self.layouts.get(value)
                cells = prod(value.shape) if layout is None else layout.elements
                name = f"{prefix}{number}"
                found[name] = tirx.decl_buffer((max(cells, 1),), value.dtype, name)
        for name, size in (("weights", self.weight_bytes), ("arena", self.arena_bytes)):
            found[name] = tirx.decl_buffer((size,), "uint8", name)
        return found


def entry_points(
    tensors: Tensors, calls: Sequence[Call], machine: Hardware, alone: bool, main: str = "main"
) -> dict[ir.GlobalVar, Any]:
    """One entry calls every kernel, and another serves to time them.

    On a CPU that is `profile`, which reads the clock in between; on a GPU kernels run behind the
    host's back, and it is `part`, which calls those from a first one up to a last.

    Args:
        tensors: what they work on.
        calls: kernels in order.
        machine: what the code is for.
        alone: leave the other entry out: nobody will ask, and it takes time to compile.
        main: the name of the first.
    """
    buffers = tensors.buffers()

    def pointer(argument: Argument) -> Any:
        name, offset = tensors.place(argument)
        index = tirx.IntImm("int64", offset)
        return tirx.address_of(tirx.BufferLoad(buffers[name], [index]))

    statements = [
        tirx.Evaluate(ir.Call(function, [pointer(a) for a in arguments], ret_ty="int32"))
        for function, arguments in calls
    ]
    arguments = list(buffers.values())
    bodies = {main: (arguments, statements)}
    if not alone and isinstance(machine, Gpu):
        bodies["part"] = _part(arguments, statements)
    elif not alone:
        darwin = "darwin" in str(machine.target.attrs.get("mtriple", ""))
        bodies["profile"] = _profile(arguments, statements, darwin)
    return {
        ir.GlobalVar(name): tirx.PrimFunc(taken, seq(*body)).with_attr("global_symbol", name)
        for name, (taken, body) in bodies.items()
    }


def _profile(
    arguments: Sequence[Any], calls: Sequence[Any], darwin: bool
) -> tuple[list[Any], list[Any]]:
    stamps = tirx.decl_buffer((2 * len(calls) + 2,), "int64", "stamps")
    clock = i32(_MONOTONIC_DARWIN if darwin else _MONOTONIC)

    def stamp(number: int) -> Any:
        """Store seconds and nanoseconds, as the C library's clock gives them."""
        to = tirx.address_of(tirx.BufferLoad(stamps, [i32(2 * number)]))
        return tirx.Evaluate(tirx.call_extern("int32", "clock_gettime", clock, to))

    timed = [stamp(0)]
    for number, call in enumerate(calls, 1):
        timed += [call, stamp(number)]
    return [*arguments, stamps], timed


def _part(arguments: Sequence[Any], calls: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    first, end = tirx.Var("first", "int32"), tirx.Var("end", "int32")
    guarded = [
        tirx.IfThenElse(tirx.all(first <= number, end > number), call, None)
        for number, call in enumerate(calls)
    ]
    return [*arguments, first, end], guarded
