"""softmax(q @ k) @ v: a block for each query, whose scores never leave shared memory."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from alt import elementary as el
from alt.elementary import Emitter, Expr, Inline, f32
from alt.sketches.gpu.grid import with_indices
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.team import combine_threads
from alt.sketches.matmul import fit
from alt.sketches.scope import Stmt, i32, seq
from primitives.tensorir import tirx

THREADS = 128

KEYS = 1024
"""Scores that are in shared memory at a time; the softmax of more is corrected as they come."""

LOWEST = -3.4028234e38
"""What a maximum of scores starts from: not minus infinity, from which that cannot be subtracted.
"""


def attention(scope: GpuScope) -> Stmt:
    """Any number of keys, and any mask or scale between the product and the softmax.

    Multiplies float32, whatever the precision of the GPU: there are no tensor cores in it.

    Source:
        Online normalizer calculation for softmax (arXiv 1805.02867).
    """
    last = scope.kernel.anchor
    assert last is not None
    product = next(n for n in scope.kernel.nodes if n.op == "matmul")
    softmax = next(n for n in scope.kernel.nodes if n.op == "softmax")
    q, k = product.inputs
    v = last.inputs[1]
    *batch, queries, keys = product.output.shape
    depth, width = q.shape[-1], v.shape[-1]
    chunk = min(keys, KEYS)
    heads = (*batch, queries)
    if not prod(heads) or not width:
        return seq()
    here = [i32(0)]

    def numbers(name: str, count: int = 1) -> object:
        return scope.local(max(count, 1), "float32", name)

    # Of all keys so far: the largest score, the sum of the powers, the weighted sum of the values.
    largest, total = numbers("largest"), numbers("total")
    mixed = numbers("mixed", -(-width // THREADS))
    best, part, shrink, score = map(numbers, ("best", "part", "shrink", "score"))
    scores = scope.shared(max(chunk, 1), "float32", "scores")

    def value_of(buffer: object) -> Expr:
        return tirx.BufferLoad(buffer, here)

    def put(buffer: object, value: Expr) -> Stmt:
        return tirx.BufferStore(buffer, value, here)

    def work(block: Expr, thread: Expr) -> Stmt:
        def share(extent: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
            """This thread's part of some elements: (which of its own, which of all)."""

            def one(i: Expr) -> Stmt:
                at = i * THREADS + thread
                made = scope.bound(extent, at, "at", lambda position: body(i, position))
                even = extent % THREADS == 0
                return made if even else tirx.IfThenElse(at < extent, made, None)

            return scope.loop(-(-extent // THREADS), one)

        def for_query(*at: Expr) -> Stmt:
            *head, query = at

            def some_keys(start: Expr, count: int) -> Stmt:
                def score_of(_: Expr, j: Expr) -> Stmt:
                    key = start + j

                    def step(d: Expr) -> Stmt:
                        left = scope.evaluate(q, fit([*head, query, d], q.shape), Inline())
                        right = scope.evaluate(k, fit([*head, d, key], k.shape), Inline())
                        return put(score, value_of(score) + left * right)

                    emit = Emitter()
                    given = {product.output: value_of(score)}
                    value = scope.evaluate(softmax.inputs[0], [*head, query, key], emit, given)
                    return seq(
                        put(score, f32(0.0)),
                        scope.loop(depth, step, name="d"),
                        *emit.statements,
                        tirx.BufferStore(scores, value, [j]),
                        put(best, tirx.max(value_of(best), tirx.BufferLoad(scores, [j]))),
                    )

                def power(_: Expr, j: Expr) -> Stmt:
                    emit = Emitter()
                    value = el.exp(emit, tirx.BufferLoad(scores, [j]) - value_of(best))
                    return seq(
                        *emit.statements,
                        tirx.BufferStore(scores, value, [j]),
                        put(part, value_of(part) + tirx.BufferLoad(scores, [j])),
                    )

                def mix(i: Expr, d: Expr) -> Stmt:
                    def step(j: Expr) -> Stmt:
                        index = fit([*head, start + j, d], v.shape)
                        term = tirx.BufferLoad(scores, [j]) * scope.evaluate(v, index, Inline())
                        return tirx.BufferStore(mixed, tirx.BufferLoad(mixed, [i]) + term, [i])

                    shrunk = tirx.BufferLoad(mixed, [i]) * value_of(shrink)
                    return seq(tirx.BufferStore(mixed, shrunk, [i]), scope.loop(count, step))

                together, meeting = combine_threads(scope, "max", best, thread, THREADS)
                summed, meeting_again = combine_threads(scope, "sum", part, thread, THREADS)
                emit = Emitter()
                ratio = el.exp(emit, value_of(largest) - value_of(best))
                return seq(
                    *map(tirx.AllocBuffer, (*meeting, *meeting_again)),
                    put(best, value_of(largest)),
                    share(count, score_of),
                    together,
                    *emit.statements,
                    put(shrink, ratio),
                    put(largest, value_of(best)),
                    put(part, f32(0.0)),
                    share(count, power),
                    summed,  # and from here on all scores are there for all threads
                    put(total, value_of(total) * value_of(shrink) + value_of(part)),
                    share(width, mix),
                    scope.sync(),
                )

            def write(i: Expr, d: Expr) -> Stmt:
                emit = Emitter()
                index = [*head, query, d]
                given = {last.output: tirx.BufferLoad(mixed, [i]) / value_of(total)}
                value = scope.evaluate(scope.kernel.output, index, emit, given)
                return seq(*emit.statements, scope.store(index, value))

            whole, rest = divmod(keys, chunk) if keys else (0, 0)
            return seq(
                *map(tirx.AllocBuffer, (largest, total, mixed, best, part, shrink, score, scores)),
                put(largest, f32(LOWEST)),
                put(total, f32(0.0)),
                share(width, lambda i, _: tirx.BufferStore(mixed, f32(0.0), [i])),
                scope.loop(whole, lambda c: some_keys(c * chunk, chunk), name="chunk"),
                some_keys(i32(whole * chunk), rest) if rest else None,
                share(width, write),
            )

        return with_indices(scope, block, heads, for_query)

    scope.notes["keys"] = chunk
    scope.notes["precision"] = "fp32"
    return scope.launch((prod(heads),), (THREADS,), work)
