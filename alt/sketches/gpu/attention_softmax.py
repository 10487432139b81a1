"""The softmax of attention while its scores come, chunk after chunk, in the registers of a warp."""

from __future__ import annotations

from collections.abc import Callable

from alt.elementary import Expr, f32
from alt.sketches.gpu.attention_engines import Engine, load
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tensor_cores import called
from alt.sketches.scope import UNROLLED, Stmt, i32, seq
from primitives.expressions import dtype_of
from primitives.tensorir import tirx

LOWEST = -3.4028234e38
"""What a maximum of scores starts from: not minus infinity, from which that cannot be subtracted.
"""

LOG2_E = 1.4426950408889634

_POWER = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ float alt_power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif
"""


_RECIPROCAL = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ float alt_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif
"""


def reciprocal(x: Expr) -> Expr:
    """1 / x in one instruction, with an error of at most 2**-23 of the result.

    Source: PTX ISA, rcp.approx.
    """
    return called("float32", "alt_reciprocal", _RECIPROCAL, x)


def power(x: Expr) -> Expr:
    """e**x in three instructions, with an error of about 2**-22 + |x| * 2**-24 of the result.

    Source: PTX ISA, ex2.approx.
    """
    return called("float32", "alt_power_of_two", _POWER, x * f32(LOG2_E))


def larger(a: Expr, b: Expr) -> Expr:
    """CUDA's own maximum, which loses a NaN: the powers and their sum have it all the same."""
    return tirx.call_extern("float32", "fmaxf", a, b)


class Softmax:
    """What a thread knows of its queries.

    Args:
        scope: the kernel.
        engine: which has the scores and sums.

    Source:
        Online normalizer calculation for softmax (arXiv 1805.02867).
    """

    def __init__(self, scope: GpuScope, engine: Engine) -> None:
        self.scope, self.engine = scope, engine
        # Of all keys so far: the largest score, and of the thread's own, the sum of the powers.
        self.largest = scope.local(engine.rows, name="largest")
        self.total = scope.local(engine.rows, name="total")
        self.best, self.shrink = (scope.local(1, name=name) for name in ("best", "shrink"))

    def start(self) -> Stmt:
        """Before any key."""
        arrays = self.largest, self.total, self.best, self.shrink
        one = self.scope.loop(
            self.engine.rows,
            lambda r: seq(
                tirx.BufferStore(self.largest, f32(LOWEST), [r]),
                tirx.BufferStore(self.total, f32(0.0), [r]),
            ),
            UNROLLED,
        )
        return seq(*map(tirx.AllocBuffer, arrays), one)

    def powers(self, finish: Callable[[Expr, Expr], Stmt], first: bool) -> Stmt:
        """Scores become powers; sums and what is summed so far shrink to the new maximum.

        Args:
            finish: makes a score of a product of a query and a key, by their numbers among those
                of the thread.
            first: whether nothing is summed so far.
        """
        scope, engine = self.scope, self.engine
        scores, mixed, here = engine.scores, engine.mixed, i32(0)

        def query(r: Expr) -> Stmt:
            def largest(k: Expr) -> Stmt:
                score = load(scores, engine.score(r, k))
                return seq(
                    finish(r, k),
                    tirx.BufferStore(self.best, larger(load(self.best, here), score), [here]),
                )

            def add(k: Expr) -> Stmt:
                at = engine.score(r, k)
                return seq(
                    tirx.BufferStore(scores, power(load(scores, at) - load(self.best, here)), [at]),
                    tirx.BufferStore(self.total, load(self.total, r) + load(scores, at), [r]),
                )

            def shrunk(c: Expr) -> Stmt:
                at = engine.sum(r, c)
                return tirx.BufferStore(mixed, load(mixed, at) * load(self.shrink, here), [at])

            ratio = power(load(self.largest, r) - load(self.best, here))
            total = load(self.total, r) * load(self.shrink, here)
            shrinking = seq(
                tirx.BufferStore(self.shrink, ratio, [here]),
                tirx.BufferStore(self.total, total, [r]),
                scope.loop(engine.columns, shrunk, UNROLLED),
            )
            return seq(
                tirx.BufferStore(self.best, load(self.largest, r), [here]),
                scope.loop(engine.keys, largest, UNROLLED),
                self._combine(self.best, here, larger),
                None if first else shrinking,
                tirx.BufferStore(self.largest, load(self.best, here), [r]),
                scope.loop(engine.keys, add, UNROLLED),
            )

        return scope.loop(engine.rows, query, UNROLLED)

    def ended(self) -> Stmt:
        """After the last key, every thread has the sums of all keys of its slice."""
        return self.scope.loop(
            self.engine.rows, lambda r: self._combine(self.total, r, lambda a, b: a + b), UNROLLED
        )

    def met(self) -> Stmt:
        """The first slice gets what all slices have, which pass it through shared memory."""
        scope, engine = self.scope, self.engine
        slices, team, shared = engine.tile.slices, engine.tile.team, engine.shared
        own = engine.rows * (engine.columns + 2)
        which = engine.thread // team
        dtype = str(shared.dtype)

        def place(other: Expr, r: Expr, number: Expr) -> Expr:
            at = other * own + r * (engine.columns + 2) + number
            return at * team + engine.thread % team

        def tell(r: Expr, number: Expr, value: Expr) -> Stmt:
            word = value if dtype == "float32" else tirx.reinterpret(dtype, value)
            return tirx.BufferStore(shared, word, [place(which - 1, r, number)])

        def told(other: Expr, r: Expr, number: Expr) -> Expr:
            word = load(shared, place(other, r, number))
            return word if dtype_of(word) == "float32" else tirx.reinterpret("float32", word)

        def tell_all(r: Expr) -> Stmt:
            def one(c: Expr) -> Stmt:
                return tell(r, c + 2, load(engine.mixed, engine.sum(r, c)))

            return seq(
                tell(r, i32(0), load(self.largest, r)),
                tell(r, i32(1), load(self.total, r)),
                scope.loop(engine.columns, one, UNROLLED),
            )

        best, shrink, grow = (scope.local(1, name=name) for name in ("best", "shrink", "grow"))

        def add(other: Expr, r: Expr) -> Stmt:
            def value(buffer: object) -> Expr:
                return load(buffer, i32(0))

            def added(mine: Expr, number: Expr) -> Expr:
                return mine * value(shrink) + told(other, r, number) * value(grow)

            def one(c: Expr) -> Stmt:
                at = engine.sum(r, c)
                return tirx.BufferStore(engine.mixed, added(load(engine.mixed, at), c + 2), [at])

            mine, theirs = load(self.largest, r), told(other, r, i32(0))
            return seq(
                tirx.BufferStore(best, larger(mine, theirs), [i32(0)]),
                tirx.BufferStore(shrink, power(mine - value(best)), [i32(0)]),
                tirx.BufferStore(grow, power(theirs - value(best)), [i32(0)]),
                tirx.BufferStore(self.largest, value(best), [r]),
                tirx.BufferStore(self.total, added(load(self.total, r), i32(1)), [r]),
                scope.loop(engine.columns, one, UNROLLED),
            )

        return seq(
            *map(tirx.AllocBuffer, (best, shrink, grow)),
            tirx.IfThenElse(which > 0, scope.loop(engine.rows, tell_all, UNROLLED), None),
            scope.sync(),
            tirx.IfThenElse(
                which.equal(i32(0)), scope.nest((slices - 1, engine.rows), add, UNROLLED), None
            ),
        )

    def _combine(self, buffer: object, at: Expr, merge: Callable[[Expr, Expr], Expr]) -> Stmt:
        """An element becomes that of all threads with the same queries together."""
        parts: list[Stmt] = []
        distance = self.engine.group // 2
        while distance:
            other = self.scope.other_lane(load(buffer, at), distance, self.scope.gpu.warp)
            parts.append(tirx.BufferStore(buffer, merge(load(buffer, at), other), [at]))
            distance //= 2
        return seq(*parts)
