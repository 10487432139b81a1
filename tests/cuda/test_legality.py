"""Kernels that could not be launched, or would compute nonsense, are refused before nvcc."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tvm import ir, tirx

from alt.cuda.gpu import gpu_of
from alt.cuda.legality import check_kernel, check_kernels
from alt.errors import AltError
from alt.sketches.scope import i32, seq

GPU = gpu_of({"kind": "cuda", "arch": "sm_90"})
OUTPUT = tirx.decl_buffer((4096,), "float32", "output")
ZERO = tirx.const(0.0, "float32")
SYNC = tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))


def bound(tag: str, extent: Any, body: Callable[[Any], Any]) -> Any:
    """A loop over blocks or threads."""
    variable = tirx.Var("at", "int32")
    axis = tirx.IterVar(None, tirx.Var(tag, "int32"), tirx.IterVar.ThreadIndex, tag)
    end = i32(extent) if isinstance(extent, int) else extent
    kind = tirx.ForKind.THREAD_BINDING
    return tirx.For(variable, i32(0), end, kind, body(variable), thread_binding=axis)


def store(at: Any) -> Any:
    return tirx.BufferStore(OUTPUT, ZERO, [at])


def memory(elements: int, scope: str) -> Any:
    return tirx.AllocBuffer(tirx.decl_buffer((elements,), "float32", "array", scope=scope))


def threads(body: Callable[[Any], Any], count: int = 128, blocks: int = 4) -> Any:
    return bound("blockIdx.x", blocks, lambda _: bound("threadIdx.x", count, body))


def checked(body: Any, gpu: Any = GPU) -> Any:
    pointer = tirx.Var("p", ir.PointerType(ir.PrimType("float32"), "global"))
    function = tirx.PrimFunc([pointer], seq(tirx.DeclBuffer(OUTPUT, data=pointer), body))
    return check_kernel("k", function.with_attr("target", gpu.kernel_target), gpu)


def test_a_legal_kernel_says_how_it_is_launched():
    def body(t):
        return seq(
            memory(32, "shared"), memory(64, "shared.dyn"), memory(8, "local"), store(t), SYNC
        )

    shape = checked(threads(body))
    assert (shape.grid, shape.block) == ((4, 1, 1), (128, 1, 1))
    assert (shape.static_bytes, shape.dynamic_bytes) == (128, 256)


def when(condition: Any, then: Any) -> Any:
    return tirx.IfThenElse(condition, then, None)


def named(value: Any, body: Callable[[Any], Any]) -> Any:
    variable = tirx.Var("name", "int32")
    return seq(tirx.Bind(variable, value), body(variable))


def loop(extent: Any, body: Callable[[Any], Any], kind: Any = tirx.ForKind.SERIAL) -> Any:
    variable = tirx.Var("i", "int32")
    return tirx.For(variable, i32(0), extent, kind, body(variable))


def two_dimensions(x: int, y: int) -> Any:
    return threads(lambda t: bound("threadIdx.y", y, lambda _: store(t)), x)


READ = tirx.BufferLoad(OUTPUT, [i32(0)]) > ZERO

VIOLATIONS = {
    "no threads": (lambda: store(i32(0)), "outside of any thread"),
    "nothing at all": (lambda: seq(), "no threads"),
    "a store beside the threads": (lambda: seq(threads(store), store(i32(0))), "outside of"),
    "a store by blocks only": (
        lambda: bound("blockIdx.x", 4, lambda b: seq(bound("threadIdx.x", 8, store), store(b))),
        "outside of threadIdx.x",
    ),
    "a parallel loop": (
        lambda: threads(lambda _: loop(i32(4), store, tirx.ForKind.PARALLEL)),
        "bound to no threads",
    ),
    "too many threads": (lambda: two_dimensions(64, 32), "2048 threads"),
    "too many along z": (
        lambda: threads(lambda t: bound("threadIdx.z", 65, lambda _: store(t)), 1),
        "threadIdx.z has 65",
    ),
    "too many blocks": (
        lambda: bound("blockIdx.y", 65536, lambda b: bound("threadIdx.x", 1, lambda _: store(b))),
        "blockIdx.y has 65536",
    ),
    "no blocks": (lambda: threads(store, blocks=0), "blockIdx.x has 0"),
    "an extent that is no number": (
        lambda: threads(lambda t: bound("threadIdx.y", t + 1, store)),
        "is not a number",
    ),
    "one index twice": (
        lambda: threads(lambda t: bound("threadIdx.x", 128, store)),
        "bound twice",
    ),
    "two launches in one": (
        lambda: seq(threads(store, 128), threads(store, 64)),
        "128 values here and 64 there",
    ),
    "an unknown index": (lambda: threads(lambda t: bound("vthread", 2, store)), "'vthread'"),
    "too much shared memory": (
        lambda: threads(lambda t: seq(memory(12289, "shared"), store(t))),
        "49156 bytes of shared memory, more than 49152",
    ),
    "too much of it together": (
        lambda: threads(
            lambda t: seq(memory(12288, "shared"), memory(45825, "shared.dyn"), store(t))
        ),
        "232452 bytes of shared memory, more than the 232448 of sm_90",
    ),
    "a little too much for what TVM asks": (
        lambda: threads(
            lambda t: seq(memory(3072, "shared"), memory(10240, "shared.dyn"), store(t))
        ),
        "of 53248 bytes of shared memory 40960 are dynamic",
    ),
    "two dynamic arrays": (
        lambda: threads(lambda t: seq(*[memory(8, "shared.dyn")] * 2, store(t))),
        "2 arrays",
    ),
    "too much for one thread": (
        lambda: threads(lambda t: seq(memory(1 << 18, "local"), store(t))),
        "a thread keeps",
    ),
    "global memory": (lambda: threads(lambda t: seq(memory(8, "global"), store(t))), "'global'"),
    "a barrier for some": (lambda: threads(lambda t: seq(when(t < 5, SYNC), store(t))), "barrier"),
    "a barrier for others": (
        lambda: threads(lambda t: seq(tirx.IfThenElse(t < 5, store(t), SYNC))),
        "barrier",
    ),
    "a barrier behind a name": (
        lambda: threads(lambda t: seq(named(t // 2, lambda n: when(n < 5, SYNC)), store(t))),
        "barrier",
    ),
    "a barrier in a loop of its own length": (
        lambda: threads(lambda t: seq(loop(t, lambda _: SYNC), store(t))),
        "barrier",
    ),
    "a barrier that data decide about": (
        lambda: threads(lambda t: seq(when(READ, SYNC), store(t))),
        "barrier",
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_violations(case):
    make, message = VIOLATIONS[case]
    with pytest.raises(AltError, match="internal error in kernel k") as caught:
        checked(make())
    assert message in str(caught.value)


LEGAL = {
    "a barrier for a whole block": lambda: bound(
        "blockIdx.x",
        4,
        lambda b: bound("threadIdx.x", 8, lambda t: seq(when(b < 2, SYNC), store(t))),
    ),
    "a barrier in a loop": lambda: threads(lambda t: seq(loop(i32(3), lambda _: SYNC), store(t))),
    "many blocks": lambda: threads(store, blocks=2**31 - 1),
    "as much shared memory as there is": lambda: threads(
        lambda t: seq(memory(12288, "shared"), memory(45824, "shared.dyn"), store(t))
    ),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_comes_near_is_legal(case):
    checked(LEGAL[case]())


def test_limits_are_those_of_the_gpu():
    body = threads(lambda t: seq(memory(30000, "shared.dyn"), store(t)))
    checked(body)
    with pytest.raises(AltError, match="101376 of sm_89"):
        checked(body, gpu_of({"kind": "cuda", "arch": "sm_89"}))


def test_functions_of_the_host_are_left_alone():
    import tvm

    main = tirx.PrimFunc([OUTPUT], store(i32(0))).with_attr("global_symbol", "main")
    assert check_kernels(tvm.IRModule({"main": main}), GPU) == {}
