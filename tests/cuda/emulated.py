"""Runs generated CUDA C on the CPU: `emulation/cuda.h` stands for CUDA, g++ for nvcc."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gxx import compile_cuda, compile_emulation, kernels_of

from alt.build import Program, build
from alt.compiler import Fused, fused
from alt.cuda.lower import Lowered
from alt.graph import Value
from alt.kernels import Kernel
from alt.memory import ALIGNMENT
from alt.policies import policy_of
from alt.propagate import plan_layouts
from alt.sketches import scope_of, sketch_for
from primitives import Layout
from tuner.choices import Given
from tuner.config import Config

SM_90 = {"kind": "cuda", "arch": "sm_90"}
ENDS = ("", "its threads wait for each other for ever", "too many arguments", "it faulted")
MARGIN, MARK = 512, 0xA5

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def planned(network: Fused, layouts: str = "joint") -> Program:
    """The program of a network, by rule."""
    policy = policy_of(layouts)
    plan = plan_layouts(network.graph, network.kernels, network.machine, policy=policy)
    return build(network.graph, plan, network.machine)


def completed(
    network: Fused, kernel: Kernel, loops: Config, layouts: Mapping[Value, Layout] | None = None
) -> Config:
    """Answers to all that a kernel's sketch asks: those given, and defaults."""
    answers = Given(loops, strict=False)
    scope = scope_of(
        kernel, layouts or {}, network.graph.constants, network.machine, answers, asking=True
    )
    sketch_for(scope)(scope)
    return answers.config


class Emulation:
    """A program, and memory to run it in.

    Args:
        program: for a GPU.
    """

    def __init__(self, program: Program) -> None:
        assert isinstance(program.library, Lowered)
        self.program = program
        self.kernels = kernels_of(program.library.source)
        _runtime()  # first, because the kernels need what it has
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "kernels.so"
            compile_cuda(program.library.source, library)
            self.library = ctypes.CDLL(str(library))

    def __call__(self, inputs: Sequence[np.ndarray], backwards: bool = False) -> list[np.ndarray]:
        """What `main` would do, launch by launch; `backwards` starts with the last thread."""
        program = self.program
        buffers: dict[str, np.ndarray] = {"weights": program.weights}
        for number, array in enumerate(inputs):
            buffers[f"in{number}"] = fenced(array.nbytes)
            buffers[f"in{number}"][:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        outputs = program.plan.outputs
        for number, value in enumerate(outputs):
            buffers[f"out{number}"] = fenced(value.size * np.dtype(value.dtype).itemsize)
        buffers["arena"] = fenced(program.arena_bytes)
        for step in program.steps:
            places = [program.tensors.place(a) for a in step.arguments]
            pointers = [buffers[name].ctypes.data + offset for name, offset in places]
            self.launch(step.function, pointers, backwards)
        for name, buffer in buffers.items():
            if name == "weights":
                continue
            whole = buffer.base
            assert whole is not None
            assert (whole[:MARGIN] == MARK).all(), f"written before {name}"
            assert (whole[-MARGIN:] == MARK).all(), f"written behind {name}"
        return [
            buffers[f"out{number}"].view(value.dtype)[: value.size].reshape(value.shape)
            for number, value in enumerate(outputs)
        ]

    def launch(self, function: str, pointers: Sequence[int], backwards: bool = False) -> None:
        """Run one kernel on memory at these addresses."""
        lowered = self.program.library
        shape = lowered.launches[function].shape
        triple = ctypes.c_uint * 3
        code = _runtime().emulate(
            ctypes.cast(getattr(self.library, function), ctypes.c_void_p),
            len(pointers),
            (ctypes.c_void_p * len(pointers))(*pointers),
            triple(*shape.grid),
            triple(*shape.block),
            shape.dynamic_bytes,
            int(self.kernels[function][1]),
            int(backwards),
        )
        assert code == 0, f"kernel {function}: {ENDS[code]}"


@cache
def _runtime() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "emulation.so"
        compile_emulation(library)
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def fenced(size: int) -> np.ndarray:
    """Bytes that make no sense as numbers, between margins that must stay as they are."""
    whole = np.full(size + 2 * MARGIN + ALIGNMENT, MARK, np.uint8)
    start = MARGIN + -(whole.ctypes.data + MARGIN) % ALIGNMENT
    whole[start : start + size] = 0xFF
    return whole[start : start + size]


def emulate(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], target: Any = SM_90, **options: Any
) -> list[np.ndarray]:
    """The outputs of a model, compiled for a GPU and emulated.

    It runs twice, the second time with threads and blocks from the last to the first: a result that
    depends on their order would be a race.
    """
    network = fused(model, target, **options)
    emulation = Emulation(planned(network))
    arrays = [inputs[name] for name, *_ in network.imported.inputs]
    found, again = emulation(arrays), emulation(arrays, backwards=True)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return found
