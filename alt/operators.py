"""What each relax operator computes, in ALT's terms: one small function an operator.

An operator that is not here is taken apart into TensorIR stages (`alt.legalize`), so this table
decides speed, not coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from alt import elementary as el
from alt.elementary import Emitter, Expr, dtype_of
from primitives.tensorir import tirx

Map = Callable[..., Expr]


def _zero(x: Expr) -> Expr:
    return tirx.const(0, dtype_of(x))


def _one(x: Expr) -> Expr:
    return tirx.const(1, dtype_of(x))


def _is_float(x: Expr) -> bool:
    return dtype_of(x).startswith(("float", "bfloat"))


def _divide(_: Emitter, a: Expr, b: Expr) -> Expr:
    return tirx.div(a, b) if _is_float(a) else tirx.truncdiv(a, b)


def _gelu(emit: Emitter, x: Expr) -> Expr:
    x = emit.bind(x)
    return (
        x
        * (el.erf(emit, x * tirx.const(0.7071067811865476, dtype_of(x))) + _one(x))
        * (tirx.const(0.5, dtype_of(x)))
    )


def _gelu_tanh(emit: Emitter, x: Expr) -> Expr:
    x = emit.bind(x)
    cubic = tirx.const(0.044715, dtype_of(x)) * x * x * x
    inner = tirx.const(0.7978845608028654, dtype_of(x)) * (x + cubic)
    return tirx.const(0.5, dtype_of(x)) * x * (_one(x) + el.tanh(emit, inner))


def _silu(emit: Emitter, x: Expr) -> Expr:
    x = emit.bind(x)
    return x * el.sigmoid(emit, x)


def _comparable(x: Expr) -> Expr:
    """LLVM compares truth values as if they were floats."""
    return el.number_of(x, "int8") if dtype_of(x) == "bool" else x


def _bound_max(emit: Emitter, a: Expr, b: Expr) -> Expr:
    return tirx.max(b, emit.bind(a))


def _bound_min(emit: Emitter, a: Expr, b: Expr) -> Expr:
    return tirx.min(b, emit.bind(a))


MAPS: dict[str, Map] = {
    "add": lambda _, a, b: a + b,
    "subtract": lambda _, a, b: a - b,
    "multiply": lambda _, a, b: a * b,
    "divide": _divide,
    "maximum": _bound_max,
    "minimum": _bound_min,
    "power": el.power,
    "negative": lambda _, x: _zero(x) - x,
    "abs": lambda emit, x: tirx.abs(emit.bind(x)),
    "exp": el.exp,
    "log": el.log,
    "sqrt": lambda _, x: tirx.sqrt(x),
    "rsqrt": lambda _, x: _one(x) / tirx.sqrt(x),
    "erf": el.erf,
    "tanh": el.tanh,
    "sinh": el.sinh,
    "cosh": el.cosh,
    "sigmoid": el.sigmoid,
    "square": lambda emit, x: (lambda y: y * y)(emit.bind(x)),
    "nn.relu": lambda emit, x: tirx.max(_zero(x), emit.bind(x)),
    "nn.gelu": _gelu,
    "nn.gelu_tanh": _gelu_tanh,
    "nn.silu": _silu,
    "where": lambda _, c, a, b: tirx.Select(c, a, b),
    "equal": lambda _, a, b: tirx.EQ(_comparable(a), _comparable(b)),
    "not_equal": lambda _, a, b: tirx.NE(_comparable(a), _comparable(b)),
    "less": lambda _, a, b: tirx.LT(a, b),
    "less_equal": lambda _, a, b: tirx.LE(a, b),
    "greater": lambda _, a, b: tirx.GT(a, b),
    "greater_equal": lambda _, a, b: tirx.GE(a, b),
}
"""Elementwise operators without attributes: (emitter, operands) -> result."""


def cast(dtype: str) -> Map:
    """The elementwise conversion to `dtype`."""

    def convert(_: Emitter, x: Expr) -> Expr:
        if dtype == "bool":
            return x if dtype_of(x) == "bool" else tirx.NE(x, _zero(x))
        if dtype_of(x) == "bool":
            return el.number_of(x, dtype)
        return tirx.Cast(dtype, x) if dtype_of(x) != dtype else x

    return convert


def leaky_relu(alpha: float) -> Map:
    """X where positive, alpha*x elsewhere."""

    def compute(emit: Emitter, x: Expr) -> Expr:
        x = emit.bind(x)
        return tirx.Select(x > _zero(x), x, x * tirx.const(alpha, dtype_of(x)))

    return compute


def clip(low: float, high: float) -> Map:
    """X limited to [low, high]."""

    def compute(emit: Emitter, x: Expr) -> Expr:
        dtype = dtype_of(x)
        raised = emit.bind(tirx.max(tirx.const(low, dtype), emit.bind(x)))
        return tirx.min(tirx.const(high, dtype), raised)

    return compute


# --- relabellings -------------------------------------------------------------------------------

Relabel = Callable[[Sequence[Expr]], list[Expr]]


def linear(indices: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The row-major position of an element."""
    position: Expr = 0
    for index, extent in zip(indices, shape, strict=True):
        position = position * extent + index if not _is_zero(position) else index
    return position


def delinear(position: Expr, shape: Sequence[int]) -> list[Expr]:
    """The indices of the element at a row-major position."""
    indices: list[Expr] = []
    inner = prod(shape)
    for axis, extent in enumerate(shape):
        inner //= max(extent, 1)
        index: Expr = position // inner if inner != 1 else position
        if extent == 1:
            index = tirx.IntImm("int32", 0)
        elif any(e != 1 for e in shape[:axis]):
            index = index % extent
        indices.append(index)
    return indices


def _is_zero(value: Any) -> bool:
    number = value if isinstance(value, int) else getattr(value, "value", None)
    return isinstance(number, int) and number == 0


def reshape(source: tuple[int, ...], target: tuple[int, ...]) -> Relabel:
    """Row-major reinterpretation of `source` as `target`."""
    # Axes that keep their place (equal extents with equal products before them) pass through.
    lead = 0
    while lead < min(len(source), len(target)) and source[lead] == target[lead]:
        lead += 1
    tail = 0
    while tail < min(len(source), len(target)) - lead and source[-1 - tail] == target[-1 - tail]:
        tail += 1

    def relabel(indices: Sequence[Expr]) -> list[Expr]:
        stop = len(target) - tail
        middle = linear(indices[lead:stop], target[lead:stop])
        inside = delinear(middle, source[lead : len(source) - tail])
        return [*indices[:lead], *inside, *indices[stop:]]

    return relabel


def permute(axes: Sequence[int]) -> Relabel:
    """out[i0, i1, ...] = x with i_k along axis axes[k]."""
    inverse = {axis: k for k, axis in enumerate(axes)}
    return lambda indices: [indices[inverse[axis]] for axis in range(len(axes))]


def broadcast(source: tuple[int, ...], target: tuple[int, ...]) -> Relabel:
    """NumPy broadcasting of `source` to `target`."""
    extra = len(target) - len(source)

    def relabel(indices: Sequence[Expr]) -> list[Expr]:
        return [
            tirx.IntImm("int32", 0) if extent == 1 else indices[extra + axis]
            for axis, extent in enumerate(source)
        ]

    return relabel


def strided_slice(begin: Sequence[int], stride: Sequence[int]) -> Relabel:
    """out[i...] = x[begin + i * stride ...] on every axis."""

    def relabel(indices: Sequence[Expr]) -> list[Expr]:
        return [
            b + i * s if s != 1 else (i + b if b else i)
            for i, b, s in zip(indices, begin, stride, strict=True)
        ]

    return relabel
