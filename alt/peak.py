"""The most this machine can compute: multiply-adds that never leave the registers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from alt.memory import aligned_empty
from alt.target import physical_cores
from alt.threads import use_threads

_STEPS = 1 << 14
_SECONDS = 0.1
"""How long to measure. Samples are short, so that some run undisturbed; the fastest counts."""


@lru_cache(maxsize=8)
def peak_flops(target: str, lanes: int, registers: int, threads: int) -> float:
    """Floating-point operations a second in float32, two for each multiply-add, measured.

    Args:
        target: the TVM target to compile for, as JSON.
        lanes: elements of a vector.
        registers: vector registers that code may use.
        threads: threads that compute at the same time.
    """
    chains = 12 if registers < 32 else 24  # enough to hide the latency, few enough to fit
    kernel = tvm.compile(
        tvm.IRModule({"main": _multiply_adds(lanes, chains, threads)}), tvm.target.Target(target)
    )["main"]
    size = chains * lanes * threads
    arrays = [aligned_empty(4 * n).view("float32") for n in (2 * lanes, size)]
    arrays[0][:] = np.repeat([0.5, 1.0], lanes)
    arrays[1][:] = 1.0
    tensors = [tvm.runtime.from_dlpack(a) for a in arrays]
    use_threads(threads, max(physical_cores(), threads))
    seconds: list[float] = []
    while sum(seconds) < _SECONDS:
        start = time.perf_counter()
        kernel(*tensors)
        seconds.append(time.perf_counter() - start)
    return 2.0 * size * _STEPS / min(seconds)


def _multiply_adds(lanes: int, chains: int, threads: int) -> Any:
    """Each thread: `chains` vectors, each again and again times one vector plus another."""
    from alt.sketches.scope import PARALLEL, SERIAL, UNROLLED, VECTORIZED, i32, seq

    factors = tirx.decl_buffer((2 * lanes,), "float32", "factors")
    values = tirx.decl_buffer((chains * lanes * threads,), "float32", "values")
    held = tirx.decl_buffer((chains * lanes,), "float32", "held", scope="local")
    task, step = tirx.Var("task", "int32"), tirx.Var("step", "int32")

    def each(body: Callable[[Any, Any], Any]) -> Any:
        c, k = tirx.Var("c", "int32"), tirx.Var("k", "int32")
        inner = tirx.For(k, i32(0), i32(lanes), VECTORIZED, body(c * lanes + k, k))
        return tirx.For(c, i32(0), i32(chains), UNROLLED, inner)

    def load(buffer: Any, at: Any) -> Any:
        return tirx.BufferLoad(buffer, [at])

    start = task * (chains * lanes)
    body = seq(
        tirx.AllocBuffer(held),
        each(lambda at, k: tirx.BufferStore(held, load(values, start + at), [at])),
        tirx.For(
            step,
            i32(0),
            i32(_STEPS),
            SERIAL,
            each(
                lambda at, k: tirx.BufferStore(
                    held, load(held, at) * load(factors, k) + load(factors, k + lanes), [at]
                )
            ),
        ),
        each(lambda at, k: tirx.BufferStore(values, load(held, at), [start + at])),
    )
    return tirx.PrimFunc(
        [factors, values], tirx.For(task, i32(0), i32(threads), PARALLEL, body)
    ).with_attr({"global_symbol": "main", "tirx.noalias": True})
