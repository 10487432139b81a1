"""softmax(q @ k) @ v, a few queries at a time, with the scores in cache."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from alt import elementary as el
from alt.elementary import Emitter, Expr, Inline
from alt.sketches.matmul import fit, stride_of
from alt.sketches.row import Row
from alt.sketches.scope import UNROLLED, VECTORIZED, Scope, Stmt, i32, seq
from alt.sketches.tiles import choose_tile, decide_tile
from primitives.tensorir import tirx

QUERIES = 32
"""At most this many queries are worked on together."""


def attention(scope: Scope) -> Stmt:
    """One head a task (or a share of its queries, where heads are few)."""
    last = scope.kernel.anchor
    assert last is not None
    product = next(n for n in scope.kernel.nodes if n.op == "matmul")
    softmax = next(n for n in scope.kernel.nodes if n.op == "softmax")
    q, k = product.inputs
    v = last.inputs[1]
    *batch, queries, keys = product.output.shape
    depth, width = q.shape[-1], v.shape[-1]
    heads = prod(batch)
    machine = scope.machine
    group = scope.choose.tile("queries", queries, min(QUERIES, queries), at_most=128)
    groups = -(-queries // group)
    shares = 1 if heads >= 4 * machine.cores else min(groups, -(-4 * machine.cores // heads))
    each_share = -(-groups // shares)

    score = _Product(scope, "score.", group, keys, depth)
    mix = _Product(scope, "mix.", group, width, keys)
    row_length = score.padded
    scores = tirx.decl_buffer((group * row_length,), q.dtype, "scores")
    sums = tirx.decl_buffer((group,), q.dtype, "sums")
    scope.notes["tile"] = [1, score.rows, score.vectors]
    scope.notes["queries"] = group

    def task(*at: Expr) -> Stmt:
        *head, share = at

        def some(g: Expr) -> Stmt:
            start = scope.analyzer.simplify((share * each_share + g) * group)

            def q_at(row: Expr, d: Expr) -> Expr:
                index = [*head, _within(scope, start + row, queries), d]
                return scope.evaluate(q, fit(index, q.shape), Inline())

            def put_score(row: Expr, column: Expr, total: Expr) -> Stmt:
                emit = Emitter()
                index = [*head, _within(scope, start + row, queries), _within(scope, column, keys)]
                source = softmax.inputs[0]
                value = scope.evaluate(source, index, emit, {product.output: total})
                store = tirx.BufferStore(scores, value, [row * row_length + column])
                return seq(*emit.statements, store)

            def normalise(row: Expr) -> Stmt:
                line = Row(scope, keys, q.dtype, scores, row * row_length)
                largest = tirx.Var("largest", q.dtype)

                def power(position: Expr) -> Stmt:
                    emit = Emitter()
                    value = el.exp(emit, line.load(position) - largest)
                    return seq(*emit.statements, line.store(position, value))

                return line.allocate(
                    line.reduce("max", lambda p, _: line.load(p)),
                    tirx.Bind(largest, line.result()),
                    line.each(power),
                    line.reduce("sum", lambda p, _: line.load(p)),
                    tirx.BufferStore(sums, tirx.const(1, q.dtype) / line.result(), [row]),
                )

            def weight_at(row: Expr, key: Expr) -> Expr:
                return tirx.BufferLoad(scores, [row * row_length + key])

            def put(row: Expr, column: Expr, total: Expr) -> Stmt:
                emit = Emitter()
                index = [*head, scope.analyzer.simplify(start + row), column]
                given = {last.output: total * tirx.BufferLoad(sums, [row])}
                value = scope.evaluate(scope.kernel.output, index, emit, given)
                return seq(*emit.statements, scope.store(index, value))

            body = seq(
                score.compute(q_at, put_score, None),
                scope.loop(group, normalise, name="row"),
                mix.compute(weight_at, put, lambda row: start + row < queries),
            )
            return seq(scope.when(start < queries, body))

        def k_at(d: Expr, column: Expr) -> Expr:
            return scope.evaluate(k, fit([*head, d, column], k.shape), Inline())

        def v_at(key: Expr, column: Expr) -> Expr:
            return scope.evaluate(v, fit([*head, key, column], v.shape), Inline())

        return seq(
            *(
                tirx.AllocBuffer(b)
                for b in (score.panel, mix.panel, scores, sums, score.acc, mix.acc)
            ),
            score.pack(k_at),
            mix.pack(v_at),
            scope.loop(each_share, some, name="queries"),
        )

    return scope.parallel([*batch, shares], task)


class _Product:
    """A small matrix product whose right operand is copied into panels of whole vectors."""

    def __init__(self, scope: Scope, name: str, height: int, width: int, depth: int) -> None:
        self.scope = scope
        self.height, self.width, self.depth = height, width, depth
        lanes = scope.machine.lanes()
        blocks = -(-width // lanes)
        machine = scope.machine
        default = choose_tile(
            1, height, blocks, machine.registers, depth * lanes * 4, machine.l1_bytes, 8
        )
        tile = decide_tile(scope.choose, 1, height, blocks, machine.registers, default, name)
        self.lanes, self.vectors, self.rows = lanes, tile.vectors, tile.columns
        self.wide = lanes * self.vectors
        self.padded = blocks * lanes
        self.panel = tirx.decl_buffer((depth * self.padded,), "float32", "panel")
        self.acc = scope.local(self.rows * self.wide)

    def pack(self, element: Callable[[Expr, Expr], Expr]) -> Stmt:
        """Copy the right operand: [tile][depth][columns of the tile]."""
        scope, wide, depth = self.scope, self.wide, self.depth

        def cell(t: Expr, d: Expr, lane: Expr) -> Stmt:
            column = _within(scope, t * wide + lane, self.width)
            return tirx.BufferStore(self.panel, element(d, column), [(t * depth + d) * wide + lane])

        tiles = self.padded // wide
        even = self.width == self.padded
        if even and stride_of(scope, lambda lane: element(i32(0), lane)) == 1:
            return scope.nest(
                [tiles, depth, self.vectors],
                lambda t, d, v: scope.loop(
                    self.lanes, lambda i: cell(t, d, v * self.lanes + i), VECTORIZED
                ),
            )
        return scope.nest([tiles, wide, depth], lambda t, lane, d: cell(t, d, lane))

    def compute(
        self,
        left: Callable[[Expr, Expr], Expr],
        put: Callable[[Expr, Expr, Expr], Stmt],
        valid: Callable[[Expr], Expr] | None,
    ) -> Stmt:
        """Every row by every column; `put` takes (row, column, result).

        Args:
            left: the left operand at (row, depth).
            put: what to do with a result; columns beyond the width are left out where rows have
                to be `valid`, and passed on otherwise.
            valid: guards a row.
        """
        scope, lanes, wide = self.scope, self.lanes, self.wide

        def block(t: Expr, first: Expr, count: int) -> Stmt:
            def each(body: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
                return scope.loop(
                    count,
                    lambda r: scope.loop(
                        self.vectors,
                        lambda v: scope.loop(lanes, lambda i: body(r, v, i), VECTORIZED),
                        UNROLLED,
                    ),
                    UNROLLED,
                )

            def cell(r: Expr, v: Expr, i: Expr) -> Expr:
                return (r * self.vectors + v) * lanes + i

            def step(d: Expr) -> Stmt:
                def fma(r: Expr, v: Expr, i: Expr) -> Stmt:
                    here = [cell(r, v, i)]
                    right = tirx.BufferLoad(
                        self.panel, [(t * self.depth + d) * wide + v * lanes + i]
                    )
                    total = tirx.BufferLoad(self.acc, here) + left(first + r, d) * right
                    return tirx.BufferStore(self.acc, total, here)

                return each(fma)

            def result(r: Expr, column: Expr, at: Expr) -> Stmt:
                return put(first + r, column, tirx.BufferLoad(self.acc, [at]))

            def finish(r: Expr, v: Expr) -> Stmt:
                start = t * wide + v * lanes

                def one(i: Expr) -> Stmt:
                    return result(r, start + i, cell(r, v, i))

                whole = scope.loop(lanes, one, VECTORIZED)
                if valid is None:
                    return whole
                rest = self.width % lanes
                if rest:
                    # The last vector of a row holds fewer results than lanes.
                    narrow = scope.loop(rest, one)
                    inside = scope.analyzer.simplify(start + lanes <= self.width)
                    whole = (
                        tirx.IfThenElse(inside, whole, narrow)
                        if not isinstance(inside, tirx.IntImm)
                        else (whole if int(inside.value) else narrow)
                    )
                return seq(scope.when(valid(first + r), whole))

            return seq(
                each(lambda *p: tirx.BufferStore(self.acc, tirx.const(0.0, "float32"), [cell(*p)])),
                scope.loop(self.depth, step, name="d"),
                scope.loop(
                    count,
                    lambda r: scope.loop(self.vectors, lambda v: finish(r, v), UNROLLED),
                    UNROLLED,
                ),
            )

        whole, left_over = divmod(self.height, self.rows)

        def down(t: Expr) -> Stmt:
            return seq(
                scope.loop(whole, lambda r: block(t, r * self.rows, self.rows)) if whole else None,
                block(t, i32(whole * self.rows), left_over) if left_over else None,
            )

        return scope.loop(self.padded // wide, down, name="tile")


def _within(scope: Scope, index: Expr, extent: int) -> Expr:
    """An index, held below the extent where it might not be."""
    return scope.analyzer.simplify(tirx.min(index, i32(extent - 1)))
