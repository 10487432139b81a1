"""A network compiled for a GPU that is not there: what its kernels take, and what that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import onnx

REGISTERS_TOGETHER = 8
"""A thread's registers are given out so many at a time."""


@dataclass(frozen=True)
class Compiled:
    """A network and what became of it.

    Attributes:
        launches: kernels that a call of the network runs.
        kernels: different ones among them.
        on_tensor_cores: of these, how many multiply with less than float32.
        generate_seconds: from the ONNX model to CUDA C of which each kernel is proved legal, and
            host code, ALT and TVM being imported included.
        nvcc_seconds: from there to machine code; None if that was not asked for.
        threads: of a block, the most of any kernel, likewise what follows.
        shared_bytes: of a block.
        registers: of a thread; None without nvcc.
        spilled_bytes: of a thread's registers that did not fit.
    """

    launches: int
    kernels: int
    on_tensor_cores: int
    generate_seconds: float
    nvcc_seconds: float | None
    threads: int
    shared_bytes: int
    registers: int | None
    spilled_bytes: int | None


def compile_offline(
    build: Callable[[], onnx.ModelProto], arch: str, precision: str, with_nvcc: bool = True
) -> Compiled:
    """Generate and compile a network, and check what no device is needed for.

    To be called in a fresh process, where nothing is cached.

    Args:
        build: makes the network.
        arch: what for: `sm_90`.
        precision: what is multiplied.
        with_nvcc: whether machine code is made, too.

    Raises:
        AltError: if the network cannot be compiled, or a kernel could not be launched.
    """
    model = build()
    start = time.perf_counter()
    from alt.build import build as program_of
    from alt.compiler import fused
    from alt.cuda.gpu import Gpu
    from alt.cuda.lower import Lowered
    from alt.cuda.nvcc import compile_source
    from alt.errors import AltError
    from alt.propagate import plan_layouts

    network = fused(model, {"kind": "cuda", "arch": arch}, precision=precision)
    gpu = network.machine
    assert isinstance(gpu, Gpu)
    program = program_of(network.graph, plan_layouts(network.graph, network.kernels, gpu), gpu)
    generated = time.perf_counter()
    lowered = program.library
    assert isinstance(lowered, Lowered)
    shapes = {name: launch.shape for name, launch in lowered.launches.items()}
    called = {step.function for step in program.steps}
    if called != set(shapes):
        raise AltError(f"kernels {sorted(called ^ set(shapes))} were not proved legal, or not made")
    registers: dict[str, int] = {}
    spilled: dict[str, int] = {}
    seconds = None
    if with_nvcc:
        for image in compile_source(lowered.source, arch):
            registers |= image.registers
            spilled |= image.spilled_bytes
        seconds = time.perf_counter() - generated
        if set(registers) != called:
            raise AltError(f"nvcc made no code for {sorted(called - set(registers))}")
    for name, count in registers.items():
        taken = -(-count // REGISTERS_TOGETHER) * REGISTERS_TOGETHER * prod(shapes[name].block)
        if taken > gpu.core_registers:
            raise AltError(f"kernel {name}: a block has {taken} registers of {gpu.core_registers}")
    less = {s.function for s in program.steps if s.notes.get("precision", "fp32") != "fp32"}
    return Compiled(
        launches=len(program.steps),
        kernels=len(shapes),
        on_tensor_cores=len(less),
        generate_seconds=generated - start,
        nvcc_seconds=seconds,
        threads=max(prod(s.block) for s in shapes.values()),
        shared_bytes=max(s.static_bytes + s.dynamic_bytes for s in shapes.values()),
        registers=max(registers.values(), default=None),
        spilled_bytes=max(spilled.values(), default=None),
    )
