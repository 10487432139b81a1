"""What a sketch builds a kernel from: loops, access to stored tensors, fused expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from alt.elementary import Emitter, Expr, Inline
from alt.graph import Node, Value
from alt.kernels import Kernel, operations
from alt.operators import linear
from alt.sketches.vectorizing import vectorizes
from alt.target import Hardware
from primitives import Layout
from primitives.tensorir import ir, sym, tirx
from tuner.choices import Choose, Default

Stmt = Any
SERIAL, PARALLEL = tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL
VECTORIZED, UNROLLED = tirx.ForKind.VECTORIZED, tirx.ForKind.UNROLLED

SERIAL_ELEMENTS = 8192
"""Fewer elements than this are not worth waking the other cores (about 2 microseconds)."""

SERIAL_PRODUCTS = 1 << 15
"""Nor are fewer multiply-adds than this, which take a core about a microsecond."""


@dataclass(frozen=True)
class Argument:
    """One buffer a kernel function takes.

    Attributes:
        value: the tensor.
        layout: how it is stored; None for row by row.
        prepare: for constants only, what is done to the array before it is laid out, by name, so
            that two kernels that prepare a constant alike share it.
    """

    value: Value
    layout: Layout | None
    prepare: tuple[str, Callable[[np.ndarray], np.ndarray]] | None = None


def i32(value: int) -> Expr:
    """An int32 literal."""
    return tirx.IntImm("int32", value)


def seq(*statements: Stmt | None) -> Stmt:
    """Statements one after the other; None is left out."""
    kept = [s for s in statements if s is not None]
    if not kept:
        return tirx.Evaluate(i32(0))
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)


class Scope:
    """The kernel under construction.

    A sketch asks for buffers and values, builds a statement, and `finish`es with it. Values of the
    fused nodes are expressions over logical indices (`evaluate`); where a value lies in memory, and
    how, is settled here and nowhere else.
    """

    def __init__(
        self,
        kernel: Kernel,
        layouts: Mapping[Value, Layout],
        constants: Mapping[Value, np.ndarray],
        machine: Hardware,
        choose: Choose | None = None,
        asking: bool = False,
    ) -> None:
        self.kernel = kernel
        self.layouts = layouts
        self.constants = constants
        self.machine = machine
        self.choose: Choose = Default() if choose is None else choose
        """Who answers what the sketch leaves open; every question comes with a good default."""
        self.asking = asking
        """Whether only the sketch's questions are wanted: what runs in parallel is left out."""
        self.analyzer = sym.Analyzer()
        self.arguments: list[Argument] = []
        self.buffers: list[Any] = []
        self.notes: dict[str, Any] = {}
        """What the sketch decided, for the report: plain data, as short as it can be said."""
        self._by_argument: dict[Any, Any] = {}
        self._producers = kernel.producers
        self._lanes: Any = None  # of the vector loop being made: variable, extent, private buffers
        self._uses: dict[Value, int] = {}
        for node in kernel.nodes:
            for value in node.inputs:
                self._uses[value] = self._uses.get(value, 0) + 1
        self.output = self.buffer(kernel.output, self.layout(kernel.output))
        self.output_layout = self.layout(kernel.output)

    # --- loops ----------------------------------------------------------------------------------

    def loop(
        self, extent: int, body: Callable[[Expr], Stmt], kind: Any = SERIAL, name: str = "i"
    ) -> Stmt:
        """A loop from 0; without one if the extent is 1."""
        if extent == 1:
            return body(i32(0))
        if kind == VECTORIZED:
            self.notes["vector"] = max(extent, self.notes.get("vector", 1))
        var = tirx.Var(name, "int32")
        self.analyzer.bind(var, ir.Range(0, extent))
        if kind != VECTORIZED:
            return tirx.For(var, i32(0), i32(extent), kind, body(var))
        around, self._lanes = self._lanes, (var, extent, [])
        lane = body(var)
        kept, self._lanes = self._lanes[2], around
        kind = VECTORIZED if vectorizes(lane, var) else SERIAL
        return seq(*map(tirx.AllocBuffer, kept), tirx.For(var, i32(0), i32(extent), kind, lane))

    def room(self, dtype: str, statements: list[Stmt]) -> tuple[Any, Expr]:
        """A private buffer with an element a lane of the vector loop around, and the lane."""
        if self._lanes is None:
            buffer = self.local(1, dtype, "kept")
            statements.append(tirx.AllocBuffer(buffer))
            return buffer, i32(0)
        lane, lanes, kept = self._lanes
        kept.append(self.local(lanes, dtype, "kept"))
        return kept[-1], lane

    def nest(
        self, extents: Sequence[int], body: Callable[..., Stmt], kind: Any = SERIAL, name: str = "i"
    ) -> Stmt:
        """Perfectly nested loops."""
        if not extents:
            return body()
        return self.loop(
            extents[0],
            lambda first: self.nest(extents[1:], lambda *rest: body(first, *rest), kind, name),
            kind,
            name,
        )

    def steps(self, extent: int, unroll: int, body: Callable[[Expr], Stmt], name: str) -> Stmt:
        """A loop whose body is repeated; without repetition where that does not divide it."""
        if unroll == 1 or extent % unroll:
            return self.loop(extent, body, name=name)
        return self.loop(
            extent // unroll,
            lambda i: self.loop(unroll, lambda u: body(i * unroll + u), UNROLLED, name),
            name=name,
        )

    def parallel(self, extents: Sequence[int], body: Callable[..., Stmt]) -> Stmt:
        """One parallel loop over the product of the extents; serial ones for a small product."""
        if self.asking:
            return seq()
        if self._is_small:
            return self.nest(extents, body)
        total = prod(extents)
        if total > 1:
            self.notes.setdefault("parallel", []).append(total)

        def fused(index: Expr) -> Stmt:
            parts: list[Expr] = []
            inner = total
            for axis, extent in enumerate(extents):
                inner //= extent
                if extent == 1:
                    parts.append(i32(0))
                    continue
                part = index // inner if inner != 1 else index
                if prod(extents[:axis]) != 1:
                    part = part % extent
                var = tirx.Var("p", "int32")
                self.analyzer.bind(var, ir.Range(0, extent))
                parts.append((var, part))
            binds = [tirx.Bind(*p) for p in parts if isinstance(p, tuple)]
            return seq(*binds, body(*(p[0] if isinstance(p, tuple) else p for p in parts)))

        return self.loop(total, fused, PARALLEL, "task")

    @property
    def _is_small(self) -> bool:
        anchor = self.kernel.anchor
        done = operations(anchor) if anchor is not None else None
        few = self.kernel.output.size < SERIAL_ELEMENTS
        return done is not None and done < 2 * SERIAL_PRODUCTS and few

    def local(self, elements: int, dtype: str = "float32", name: str = "acc") -> Any:
        """A small private array, to be allocated where `allocate` says."""
        declare = _shared_buffer if self.asking else _new_buffer
        return declare(elements, dtype, name, "local")

    def when(self, condition: Expr, then: Stmt) -> Stmt | None:
        """A guarded statement; nothing, or the statement itself, where the guard is known."""
        known = self.analyzer.simplify(condition)
        if isinstance(known, tirx.IntImm):
            return then if int(known.value) else None
        return tirx.IfThenElse(known, then, None)

    # --- memory ---------------------------------------------------------------------------------

    def layout(self, value: Value) -> Layout:
        """How a value is stored."""
        found = self.layouts.get(value)
        return found if found is not None else Layout.identity(value.shape)

    def buffer(
        self,
        value: Value,
        layout: Layout,
        prepare: tuple[str, Callable[[np.ndarray], np.ndarray]] | None = None,
        elements: int | None = None,
    ) -> Any:
        """The flat buffer through which the kernel sees a value stored in `layout`."""
        if value not in self.constants:
            assert prepare is None and layout == self.layout(value), f"{value} is stored otherwise"
        key = (value, layout, prepare[0] if prepare else None)
        if key not in self._by_argument:
            size = layout.elements if elements is None else elements
            name = f"b{len(self.buffers)}"
            declare = _shared_buffer if self.asking else _new_buffer
            self._by_argument[key] = declare(max(size, 1), value.dtype, name, "global")
            self.arguments.append(Argument(value, layout, prepare))
            self.buffers.append(self._by_argument[key])
        return self._by_argument[key]

    def address(self, layout: Layout, indices: Sequence[Expr]) -> Expr:
        """The flat position of a logical element in a layout, simplified."""
        stored = layout.forward(list(indices))
        return self.analyzer.simplify(_expr(linear(stored, layout.shape)))

    def load(self, value: Value, indices: Sequence[Expr]) -> Expr:
        """An element of a value in memory."""
        layout = self.layout(value)
        array = self.constants.get(value)
        if array is not None and array.size == 1:
            return tirx.const(array.reshape(-1)[0].item(), value.dtype)
        address = self.address(layout, indices)
        return tirx.BufferLoad(self.buffer(value, layout), [address])

    def store(self, indices: Sequence[Expr], value: Expr) -> Stmt:
        """Write an element of the kernel's output."""
        return tirx.BufferStore(self.output, value, [self.address(self.output_layout, indices)])

    # --- fused expressions ----------------------------------------------------------------------

    def evaluate(
        self,
        value: Value,
        indices: Sequence[Expr],
        emit: Emitter,
        given: Mapping[Value, Expr] | None = None,
    ) -> Expr:
        """One element of any value the kernel computes or reads.

        Args:
            value: the tensor.
            indices: logical indices.
            emit: takes the statements that name shared subexpressions.
            given: elements at these indices that are already known (the anchor's result).
        """
        emit.room = self.room
        return self._evaluate(value, tuple(indices), emit, given or {}, {})

    def _evaluate(
        self,
        value: Value,
        indices: tuple[Expr, ...],
        emit: Emitter,
        given: Mapping[Value, Expr],
        memo: dict[Any, Expr],
    ) -> Expr:
        if value in given:
            return given[value]
        key = (value, tuple(map(id, indices)))
        if key in memo:
            return memo[key][0]
        node = self._producers.get(value)
        if node is None:
            result = self.load(value, indices)
        else:
            result = self._compute(node, indices, emit, given, memo)
            if self._uses.get(value, 0) > 1 and node.op == "map":
                result = emit.bind(result)
        memo[key] = (result, indices)  # the indices stay alive, so that their ids stay theirs
        return result

    def _compute(
        self,
        node: Node,
        indices: tuple[Expr, ...],
        emit: Emitter,
        given: Mapping[Value, Expr],
        memo: dict[Any, Expr],
    ) -> Expr:
        assert node.compute is not None, node.name
        if node.op == "map":
            operands = [
                self._evaluate(
                    v, _broadcast(indices, v.shape, node.output.shape), emit, given, memo
                )
                for v in node.inputs
            ]
            return node.compute(emit, *operands)
        if node.op == "view":
            source = [self.analyzer.simplify(_expr(i)) for i in node.compute(list(indices))]
            return self._evaluate(node.inputs[0], tuple(source), emit, given, memo)
        assert node.op == "gather", node.op
        # Reads may stand under a guard, so nothing of them is computed ahead.
        inline = Inline()

        def read(k: int, at: Sequence[Expr]) -> Expr:
            exact = tuple(self.analyzer.simplify(_expr(i)) for i in at)
            return self._evaluate(node.inputs[k], exact, inline, given, {})

        return node.compute(read, list(indices))

    # --- the function ---------------------------------------------------------------------------

    def finish(self, body: Stmt) -> Any:
        """The kernel as a function of raw pointers, in the order of `arguments`."""
        pointers, declared = self._pointers()
        # Private arrays too large for the stack come from the device's workspace.
        node = ir.StringImm("default")
        for key, number in (("device_id", 0), ("device_type", 1)):
            body = tirx.AttrStmt(node, key, i32(number), body)
        function = tirx.PrimFunc(
            pointers, seq(*declared, body, tirx.Return(i32(0))), ret_type=ir.PrimType("int32")
        )
        return function.with_attr("tirx.noalias", True)

    def _pointers(self) -> tuple[list[Any], list[Stmt]]:
        """A parameter for every buffer, and the statements that make buffers of them."""
        pointers: list[Any] = []
        declared: list[Stmt] = []
        for buffer in self.buffers:
            pointer = tirx.Var(
                f"p_{buffer.name}", ir.PointerType(ir.PrimType(str(buffer.dtype)), "global")
            )
            pointers.append(pointer)
            declared.append(tirx.DeclBuffer(buffer, data=pointer))
        return pointers, declared


def _new_buffer(elements: int, dtype: str, name: str, scope: str) -> Any:
    return tirx.decl_buffer((elements,), dtype, name, scope=scope)


_shared_buffer = lru_cache(maxsize=4096)(_new_buffer)
"""For scopes that only ask: nothing is made of their buffers, so that they need not be distinct."""


def allocate(buffer: Any, *body: Stmt | None) -> Stmt:
    """Statements with a private array."""
    return seq(tirx.AllocBuffer(buffer), *body)


def _broadcast(
    indices: Sequence[Expr], source: Sequence[int], target: Sequence[int]
) -> tuple[Expr, ...]:
    if tuple(source) == tuple(target):
        return tuple(indices)
    extra = len(target) - len(source)
    zero = _ZERO
    return tuple(zero if extent == 1 else indices[extra + k] for k, extent in enumerate(source))


_ZERO = i32(0)


def _expr(value: Any) -> Expr:
    return i32(value) if isinstance(value, int) else value
