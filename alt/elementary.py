"""Elementary functions as straight-line arithmetic, so that every one of them vectorises.

LLVM turns `exp`, `erf` and their like into a call of the C library per element. These use the
usual minimax approximations for float32 instead (error within a few units in the last place,
tested against NumPy); other dtypes go to the intrinsic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi as ffi

from primitives.tensorir import tirx

Expr = Any
"""A TVM primitive expression; TVM ships no stubs."""


LARGE = 200
"""TVM puts a name's value in place of the name while it simplifies and even while it generates
code; nothing may grow beyond this on the way."""

Room = Callable[[str, list[Any]], tuple[Any, Expr]]
"""Gives a private buffer of a dtype and the current element's index in it; takes the statements so
far, to allocate it there if need be."""


class Emitter:
    """Collects `variable = expression` statements, so that what is used twice is computed once.

    Attributes:
        statements: what must run before the expressions handed out are used.
        room: where a large value can be kept, if the sketch said so.
    """

    def __init__(self, room: Room | None = None) -> None:
        self.statements: list[Any] = []
        self.room = room
        self._sizes: dict[Any, int] = {}

    def bind(self, value: Expr) -> Expr:
        """Name an expression; the returned variable can be used any number of times."""
        if isinstance(value, tirx.IntImm | tirx.FloatImm) or not hasattr(value, "ty"):
            return value
        dtype = dtype_of(value)
        if dtype == "bool":
            return tirx.NE(self.bind(number_of(value, "int8")), tirx.const(0, "int8"))
        size = self._size(value)
        if size > LARGE:
            value, size = self._kept(value), 1
        variable = tirx.Var("t", dtype)
        self._sizes[variable] = size
        self.statements.append(tirx.Bind(variable, value))
        return variable

    def _size(self, value: Expr) -> int:
        """How large an expression is once every name in it stands for its value."""
        found = [1]
        ffi.structural_walk(value, [(tirx.Var, lambda v: found.append(self._sizes.get(v, 1)))])
        return sum(found)

    def _kept(self, value: Expr) -> Expr:
        """The same value, read from memory: TVM does not look behind that, and LLVM removes it."""
        if self.room is None:
            return value
        buffer, index = self.room(dtype_of(value), self.statements)
        self.statements.append(tirx.BufferStore(buffer, value, [index]))
        return tirx.BufferLoad(buffer, [index])


class Inline(Emitter):
    """An emitter for places where nothing may be computed ahead of its guard: it never binds."""

    def bind(self, value: Expr) -> Expr:
        """The expression itself."""
        return value


def f32(value: float) -> Expr:
    """A float32 literal."""
    return tirx.FloatImm("float32", value)


def lowest(dtype: str) -> Expr:
    """The literal that no other is less than: what a maximum starts from."""
    return tirx.const(float("-inf"), dtype) if "float" in dtype else tirx.min_value(dtype)


def highest(dtype: str) -> Expr:
    """The literal that no other is greater than: what a minimum starts from."""
    return tirx.const(float("inf"), dtype) if "float" in dtype else tirx.max_value(dtype)


def dtype_of(value: Expr) -> str:
    """The dtype of an expression, as a string."""
    return str(value.ty.dtype)


def number_of(truth: Expr, dtype: str) -> Expr:
    """A truth value as 1 or 0: a cast of it, in a form that TVM 0.27 can name in a vector loop."""
    return tirx.Select(truth, tirx.const(1, dtype), tirx.const(0, dtype))


def between(low: Expr, x: Expr, high: Expr) -> Expr:
    """X limited to [low, high]; NaN stays NaN, which is why x stands on the right."""
    return tirx.min(high, tirx.max(low, x))


def horner(x: Expr, coefficients: list[float]) -> Expr:
    """The polynomial with these coefficients, highest power first."""
    total: Expr = f32(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + f32(c)
    return total


def exp(emit: Emitter, x: Expr) -> Expr:
    """e**x for float32: 2**n by exponent bits times a polynomial on [-ln2/2, ln2/2].

    Results below the smallest normal number are 0.
    """
    if dtype_of(x) != "float32":
        return tirx.exp(x)
    x = emit.bind(x)
    clamped = emit.bind(between(f32(-87.33654), x, f32(88.72284)))
    n = emit.bind(tirx.floor(clamped * f32(1.44269504) + f32(0.5)))
    r = emit.bind(clamped - n * f32(0.693359375) - n * f32(-2.12194440e-4))
    p = horner(
        r, [1.9875691e-4, 1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666665e-1, 5.0000001e-1]
    )
    fraction = p * r * r + r + f32(1.0)
    # Added to its exponent, because 2**n alone overflows where the product does not yet.
    bits = tirx.reinterpret("int32", fraction) + (tirx.Cast("int32", n) << 23)
    result = tirx.Select(x < f32(-87.33654), f32(0.0), tirx.reinterpret("float32", bits))
    return tirx.Select(x > f32(88.72284), f32(float("inf")), result)


def log(emit: Emitter, x: Expr) -> Expr:
    """Ln x for float32; -inf at 0 and NaN below, like the C library."""
    if dtype_of(x) != "float32":
        return tirx.log(x)
    x = emit.bind(x)
    denormal = x < f32(1.17549435e-38)
    normal = tirx.Select(denormal, x * f32(2.0**23), x)
    bits = emit.bind(tirx.reinterpret("int32", normal))
    shift = tirx.Select(denormal, tirx.IntImm("int32", 126 + 23), tirx.IntImm("int32", 126))
    exponent = emit.bind(tirx.Cast("float32", (bits >> 23) - shift))
    mantissa = emit.bind(tirx.reinterpret("float32", (bits & 0x007FFFFF) | 0x3F000000))
    small = emit.bind(mantissa < f32(0.70710678))
    e = emit.bind(tirx.Select(small, exponent - f32(1.0), exponent))
    m = emit.bind(tirx.Select(small, mantissa + mantissa, mantissa) - f32(1.0))
    z = emit.bind(m * m)
    p = horner(
        m,
        [
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ],
    )
    y = p * m * z + e * f32(-2.12194440e-4) - z * f32(0.5)
    result = m + y + e * f32(0.693359375)
    result = tirx.Select(x > f32(0.0), result, f32(float("nan")))
    result = tirx.Select(x.equal(f32(0.0)), f32(float("-inf")), result)
    return tirx.Select(x > f32(3.4028234e38), f32(float("inf")), result)


def tanh(emit: Emitter, x: Expr) -> Expr:
    """Tanh x for float32 as a ratio of polynomials."""
    if dtype_of(x) != "float32":
        return tirx.tanh(x)
    x = emit.bind(between(f32(-7.99881172), x, f32(7.99881172)))
    s = emit.bind(x * x)
    p = horner(
        s,
        [
            -2.76076847742355e-16,
            2.00018790482477e-13,
            -8.60467152213735e-11,
            5.12229709037114e-08,
            1.48572235717979e-05,
            6.37261928875436e-04,
            4.89352455891786e-03,
        ],
    )
    q = horner(
        s, [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03]
    )
    return x * p / q


def erf(emit: Emitter, x: Expr) -> Expr:
    """The error function for float32 as a ratio of polynomials on [-4, 4]."""
    if dtype_of(x) != "float32":
        return tirx.erf(x)
    x = emit.bind(between(f32(-4.0), x, f32(4.0)))
    s = emit.bind(x * x)
    p = horner(
        s,
        [
            -2.72614225801306e-10,
            2.77068142495902e-08,
            -2.10102402082508e-06,
            -5.69250639462346e-05,
            -7.34990630326855e-04,
            -2.95459980854025e-03,
            -1.60960333262415e-02,
        ],
    )
    q = horner(
        s,
        [
            -1.45660718464996e-05,
            -2.13374055278905e-04,
            -1.68282697438203e-03,
            -7.37332916720468e-03,
            -1.42647390514189e-02,
        ],
    )
    return x * p / q


def sigmoid(emit: Emitter, x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    if dtype_of(x) != "float32":
        return tirx.sigmoid(x)
    return f32(1.0) / (f32(1.0) + exp(emit, f32(0.0) - x))


def _half_powers(emit: Emitter, x: Expr) -> tuple[Expr, Expr]:
    """e**|x| / 2 and e**-|x| / 2, finite wherever their sum is."""
    root = emit.bind(exp(emit, tirx.abs(x) * f32(0.5)))
    grown = emit.bind(root * (root * f32(0.5)))
    return grown, f32(0.25) / grown


def cosh(emit: Emitter, x: Expr) -> Expr:
    """(e**x + e**-x) / 2."""
    if dtype_of(x) != "float32":
        return (tirx.exp(x) + tirx.exp(-x)) / tirx.const(2, dtype_of(x))
    grown, shrunk = _half_powers(emit, emit.bind(x))
    return grown + shrunk


def sinh(emit: Emitter, x: Expr) -> Expr:
    """(e**x - e**-x) / 2, by its series where that would cancel."""
    if dtype_of(x) != "float32":
        return (tirx.exp(x) - tirx.exp(-x)) / tirx.const(2, dtype_of(x))
    x = emit.bind(x)
    grown, shrunk = _half_powers(emit, x)
    far = emit.bind(grown - shrunk)
    s = emit.bind(x * x)
    near = x + x * s * horner(s, [1 / 362880, 1 / 5040, 1 / 120, 1 / 6])
    signed = tirx.Select(x < f32(0.0), f32(0.0) - far, far)
    return tirx.Select(tirx.abs(x) < f32(1.0), near, signed)


def power(emit: Emitter, x: Expr, y: Expr) -> Expr:
    """x**y; small constant exponents become products and square roots."""
    if dtype_of(x) != "float32":
        return tirx.power(x, y)
    if isinstance(y, tirx.FloatImm):
        exponent = float(y.value)
        if exponent in (1.0, 2.0, 3.0, 4.0, 0.5, 0.25, 0.75, -0.5, -1.0):
            x = emit.bind(x)
            root = emit.bind(tirx.sqrt(x)) if exponent % 1 else x
            return {
                1.0: lambda: x,
                2.0: lambda: x * x,
                3.0: lambda: x * x * x,
                4.0: lambda: (x * x) * (x * x),
                0.5: lambda: root,
                0.25: lambda: tirx.sqrt(root),
                0.75: lambda: root * tirx.sqrt(root),
                -0.5: lambda: f32(1.0) / root,
                -1.0: lambda: f32(1.0) / x,
            }[exponent]()
    return tirx.power(x, y)
