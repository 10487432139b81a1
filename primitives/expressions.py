"""Rewriting of TVM expressions: every variable and every read of a buffer replaced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from primitives.errors import Opaque
from primitives.tensorir import Buffer, Expr, Var, ffi, ir, tirx

Reader = Callable[[Buffer, list[Expr]], Expr]
"""Called with a buffer and rewritten indices, returns what stands for that element."""

_SMALL = 1 << 31


class Read(NamedTuple):
    """One read of a buffer."""

    buffer: Buffer
    indices: tuple[Expr, ...]


def reads_of(expr: Expr) -> tuple[Read, ...]:
    """Every read of a buffer in an expression, inner ones first, as often as it is written."""
    found: list[Read] = []

    def remember(load: Any) -> None:
        found.append(Read(load.source, tuple(load.indices)))

    ffi.structural_walk(expr, [(ir.TensorLoad, remember)])
    return tuple(found)


def dtype_of(expr: Expr) -> str:
    """The dtype of a TVM expression; a Python int counts as int32, a bool as bool."""
    if isinstance(expr, bool):
        return "bool"
    if isinstance(expr, int):
        return "int32"
    return str(expr.ty.dtype)


def as_dtype(expr: Expr, dtype: str) -> Expr:
    """The expression as a TVM expression of this dtype, literals converted without a cast."""
    if isinstance(expr, bool | int | float):
        return tirx.const(expr, dtype)
    if dtype_of(expr) == dtype:
        return expr
    if isinstance(expr, tirx.IntImm) and dtype.startswith(("int", "uint")):
        return tirx.const(int(expr.value), dtype)
    return tirx.Cast(dtype, expr)


def _floor_divide(a: Expr, b: Expr) -> Expr:
    return a // b


def _smallest(a: Expr, b: Expr) -> Expr:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(a, b)


def _largest(a: Expr, b: Expr) -> Expr:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(a, b)


def _equal(a: Expr, b: Expr) -> Expr:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return b.equal(a) if isinstance(a, int) else a.equal(b)


def _different(a: Expr, b: Expr) -> Expr:
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    return tirx.Not(_equal(a, b))


_BINARY: dict[type, Callable[[Expr, Expr], Expr]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: _floor_divide,
    tirx.FloorMod: operator.mod,
    tirx.Min: _smallest,
    tirx.Max: _largest,
    tirx.LT: operator.lt,
    tirx.LE: operator.le,
    tirx.GT: operator.gt,
    tirx.GE: operator.ge,
    tirx.EQ: _equal,
    tirx.NE: _different,
}
_TYPED: dict[type, Callable[[Expr, Expr], Expr]] = {
    cls: cls
    for cls in (
        tirx.Div,
        tirx.Mod,
        tirx.BitwiseAnd,
        tirx.BitwiseOr,
        tirx.BitwiseXor,
        tirx.LShift,
        tirx.RShift,
    )
}
_LITERALS = (tirx.IntImm, tirx.FloatImm, ir.StringImm)
_IF_THEN_ELSE = ir.Op.get("prim.if_then_else")


class _Substitution:
    """One call of `substitute`. Methods return the same object where nothing changed.

    Integers may get narrower on the way (an int64 axis replaced by int32 ones): that stays so in
    indices and comparisons, and is undone wherever the dtype of a value matters.
    """

    def __init__(
        self, variables: Mapping[Var, Expr], read: Reader | None, index_dtype: str | None
    ) -> None:
        self.variables = variables
        self.read = read
        if index_dtype is None:
            dtypes = {dtype_of(v) for v in variables.values() if not isinstance(v, int | float)}
            index_dtype = dtypes.pop() if len(dtypes) == 1 else None
            if index_dtype is not None and not index_dtype.startswith("int"):
                index_dtype = None
        self.index_dtype = index_dtype

    def typed(self, expr: Expr) -> Expr:
        """The rewritten expression in the dtype of the original."""
        made = self.any(expr)
        return made if made is expr else as_dtype(made, dtype_of(expr))

    def index(self, expr: Expr) -> Expr:
        """The rewritten index, in the dtype of the variables that were put in."""
        made = self.any(expr)
        if isinstance(made, int) or self.index_dtype is None:
            return made
        return as_dtype(made, self.index_dtype)

    def any(self, expr: Any) -> Expr:
        """The rewritten expression, perhaps narrower or a Python number."""
        kind: Any = expr.__class__
        if kind is tirx.Var:
            return self.variables.get(expr, expr)
        if kind in _LITERALS:
            return expr
        if kind in _BINARY:
            return self.binary(expr, _BINARY[kind])
        if kind is ir.TensorLoad:
            return self.load(expr)
        if kind is ir.Call:
            return self.call(expr)
        if kind in _TYPED:
            a, b = self.typed(expr.a), self.typed(expr.b)
            return expr if a is expr.a and b is expr.b else _TYPED[kind](a, b)
        if kind is tirx.Cast:
            return as_dtype(self.any(expr.value), dtype_of(expr))
        if kind is tirx.Select:
            return self.choose(expr.condition, expr.true_value, expr.false_value, tirx.Select)
        if kind is tirx.And or kind is tirx.Or:
            return self.logic(expr, kind)
        if kind is tirx.Not:
            a = self.any(expr.a)
            return (not a) if isinstance(a, bool) else tirx.Not(a)
        if kind is tirx.BitwiseNot:
            a = self.typed(expr.a)
            return expr if a is expr.a else tirx.BitwiseNot(a)
        if kind is tirx.Let:
            return tirx.Let(expr.var, self.typed(expr.value), self.typed(expr.body))
        raise Opaque(
            f"expression {expr}: nodes of kind {kind.__name__} are not read as stages; "
            "run the function as it is"
        )

    def binary(self, expr: Any, build: Callable[[Expr, Expr], Expr]) -> Expr:
        left, right = expr.a, expr.b
        a, b = self.any(left), self.any(right)
        if a is left and b is right:
            return expr
        # Next to a changed operand an integer literal takes its dtype.
        if isinstance(a, tirx.IntImm) and abs(a.value) < _SMALL:
            a = int(a.value)
        if isinstance(b, tirx.IntImm) and abs(b.value) < _SMALL:
            b = int(b.value)
        return build(a, b)

    def load(self, expr: Any) -> Expr:
        indices = [self.index(i) for i in expr.indices]
        if self.read is not None:
            return self.read(expr.source, indices)
        return tirx.BufferLoad(expr.source, indices)

    def choose(self, condition: Expr, then: Expr, other: Expr, build: Any) -> Expr:
        c = self.any(condition)
        if isinstance(c, bool | tirx.IntImm):
            return self.typed(then if c else other)
        return build(c, self.typed(then), self.typed(other))

    def logic(self, expr: Any, kind: Any) -> Expr:
        a, b = self.any(expr.a), self.any(expr.b)
        decides = kind is tirx.Or  # the value that decides alone
        for x, y in ((a, b), (b, a)):
            if isinstance(x, bool | tirx.IntImm):
                return x if bool(x) == decides else y
        return kind(a, b)

    def call(self, expr: Any) -> Expr:
        arguments = expr.args
        if expr.op.same_as(_IF_THEN_ELSE):
            condition, then, other = arguments
            return self.choose(condition, then, other, tirx.if_then_else)
        made = [a if isinstance(a, ir.StringImm) else self.typed(a) for a in arguments]
        return ir.Call(expr.op, made, expr.attrs, expr.ty_args, ret_ty=expr.ty)


def substitute(
    expr: Expr,
    variables: Mapping[Var, Expr | int],
    read: Reader | None = None,
    index_dtype: str | None = None,
) -> Expr:
    """An expression with variables replaced and every read of a buffer rewritten.

    Constants fold on the way (`x + 0`, `0 <= 3`), and integers follow the dtype of what is put in:
    with int32 expressions for int64 variables, indices and comparisons become int32, and values
    keep their dtype through a cast. The result has the dtype of the original.

    Args:
        expr: a TVM expression.
        variables: what to put for variables; variables not named stay.
        read: called for every `buffer[indices]`, innermost first, with rewritten indices, and
            returns the expression for that element; by default the same buffer is read.
        index_dtype: the dtype of the indices that `read` gets; by default that of what is put in
            for variables, where these agree.

    Raises:
        Opaque: if the expression has a node that is no arithmetic.
    """
    return _Substitution(variables, read, index_dtype).typed(expr)


def substitute_index(
    expr: Expr, variables: Mapping[Var, Expr | int], read: Reader | None = None
) -> Expr:
    """Like `substitute`, for an index or condition: it takes the dtype of what is put in."""
    return _Substitution(variables, read, None).any(expr)


def same_indices(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Whether two lists of indices are the same expressions of the same variables."""
    return len(a) == len(b) and all(
        ffi.structural_equal(x, y, map_free_vars=False) for x, y in zip(a, b, strict=True)
    )
