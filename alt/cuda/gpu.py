"""GPUs that code is compiled for: a TVM target and the numbers that make schedules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tvm

from alt.errors import AltError
from alt.processor import architecture

EXAMPLE = '{"kind": "cuda", "arch": "sm_90"}'
"""A target that needs no device."""

Precision = Literal["fp32", "tf32", "fp16"]
"""What is multiplied: float32, its upper 19 bits, or float16; sums and memory are float32."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TENSOR_CORES = 80
"""The compute capability from which on there are tensor cores as the sketches use them."""

STATIC_SHARED_BYTES = 48 << 10
"""Shared memory that a block may declare without asking for more at its launch."""


@dataclass(frozen=True)
class _Generation:
    """What all GPUs of one compute capability have in common, and the largest of them.

    Attributes:
        shared_bytes: shared memory of a multiprocessor.
        threads: threads that a multiprocessor holds.
        cores: multiprocessors of the GPU this is mostly used with.
        l2_bytes: its second-level cache.
    """

    shared_bytes: int
    threads: int
    cores: int
    l2_bytes: int


_GENERATIONS = {
    70: _Generation(96 << 10, 2048, 80, 6 << 20),  # V100
    75: _Generation(64 << 10, 1024, 40, 4 << 20),  # T4
    80: _Generation(164 << 10, 2048, 108, 40 << 20),  # A100
    86: _Generation(100 << 10, 1536, 84, 6 << 20),  # A40, RTX 3090
    87: _Generation(164 << 10, 1536, 16, 4 << 20),  # Orin
    89: _Generation(100 << 10, 1536, 142, 96 << 20),  # L40S, RTX 4090
    90: _Generation(228 << 10, 2048, 132, 50 << 20),  # H100, H200
    100: _Generation(228 << 10, 2048, 148, 126 << 20),  # B200
    120: _Generation(100 << 10, 1536, 170, 96 << 20),  # RTX 5090
}
"""By compute capability, ten times the major version plus the minor one.

Source: CUDA C++ Programming Guide, table of technical specifications per compute capability.
"""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as the sketches see it; what a `Machine` has too goes by the same name.

    Attributes:
        target: the TVM target of host and device code.
        arch: what nvcc calls it: `sm_90`.
        vector_bytes: what one thread reads or writes at once, at most.
        registers: 32-bit registers that one thread may use.
        l1_bytes: first-level cache and shared memory of a multiprocessor together.
        l2_bytes: cache of the whole device.
        cores: multiprocessors.
        warp: threads that run in step.
        block_threads: threads of a block, at most.
        core_threads: threads that a multiprocessor holds at a time.
        core_registers: 32-bit registers of a multiprocessor.
        shared_bytes: shared memory that a block may declare.
        most_shared_bytes: shared memory of a block that asks for it at its launch.
        precision: what is multiplied; `fp32` where the GPU cannot do what was asked.
        asked_precision: what the user would like to be multiplied.
    """

    target: Any
    arch: str
    vector_bytes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    cores: int
    warp: int
    block_threads: int
    core_threads: int
    core_registers: int
    shared_bytes: int
    most_shared_bytes: int
    precision: Precision = "fp32"
    asked_precision: Precision = "fp32"

    def lanes(self, dtype: str = "float32") -> int:
        """How many elements of a dtype a thread reads at once.

        >>> gpu_of({"kind": "cuda", "arch": "sm_90"}).lanes("float16")
        8
        """
        bits = 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()) or 32)
        return max(1, self.vector_bytes * 8 // bits)

    @property
    def kernel_target(self) -> Any:
        """The TVM target of code on the device alone."""
        return tvm.target.Target({"kind": "cuda", "arch": self.arch})

    @property
    def capability(self) -> int:
        """Ten times the major version of the compute capability plus the minor one."""
        return capability_of(self.arch)

    @property
    def description(self) -> dict[str, object]:
        """What an artifact must find again on the machine that loads it, and what logs go by."""
        triple = str(self.target.host.attrs.get("mtriple", ""))
        host = {
            "arch": architecture(triple),
            "mcpu": "generic",
            "mtriple": triple,
            "features": [],
        }
        return {
            "target": str(self.target),
            "kind": "cuda",
            "arch": self.arch,
            "precision": self.precision,
            "asked_precision": self.asked_precision,
            "host": host,
        }


def capability_of(arch: str) -> int:
    """The compute capability of an architecture, as one number.

    Raises:
        AltError: if it is not the name of one.

    >>> capability_of("sm_90a"), capability_of("sm_120")
    (90, 120)
    """
    found = re.fullmatch(r"sm_(\d{2,3})[af]?", arch)
    if found is None:
        raise AltError(f"{arch!r} is not an architecture of CUDA; use one such as 'sm_90'")
    return int(found[1])


def precision_text(asked: str, multiplied: str) -> str:
    """What is multiplied, in words.

    >>> precision_text("tf32", "tf32"), precision_text("tf32", "fp32")
    ('tf32', 'fp32 in place of tf32')
    """
    return multiplied if asked == multiplied else f"{multiplied} in place of {asked}"


def device_of(given: int | str | None) -> Any:
    """The device that a caller names: a number, `cuda`, `cuda:1`; the first one by default.

    Raises:
        AltError: if that is no name of a GPU.

    >>> device_of("cuda:1").index, device_of(None).index
    (1, 0)
    """
    if given is None or given == "cuda":
        return tvm.runtime.cuda(0)
    if isinstance(given, int) and given >= 0:
        return tvm.runtime.cuda(given)
    found = re.fullmatch(r"cuda:(\d+)", str(given))
    if found is None:
        raise AltError(f"device {given!r}: give its number, or a name such as 'cuda:0'")
    return tvm.runtime.cuda(int(found[1]))


def gpu_of(target: Any, precision: str = "fp32", device: int | str | None = None) -> Gpu:
    """Fill in a CUDA target from its architecture, or from the device where it names none.

    Args:
        target: `"cuda"`, a dictionary such as `{"kind": "cuda", "arch": "sm_90"}`, or a TVM target.
        precision: what may be multiplied. Architectures before sm_80 have no tensor cores that can,
            and multiply float32 whatever is asked.
        device: the GPU that a target without architecture means, by number or name; the first one
            by default.

    Raises:
        AltError: if no architecture is given and no device is there, the architecture is unknown or
            too old, or the precision is unknown.

    >>> gpu = gpu_of({"kind": "cuda", "arch": "sm_90"})
    >>> gpu.cores, gpu.shared_bytes, gpu.most_shared_bytes
    (132, 49152, 232448)
    >>> gpu_of({"kind": "cuda", "arch": "sm_75"}, "fp16").precision
    'fp32'
    """
    asked = _precision_of(precision)
    arch = _arch_of(target)
    here: Any = None
    if arch is None:
        here = device_of(device)
        if not here.exist:
            which = "the GPU" if device is None else f"GPU number {here.index}"
            raise AltError(
                f"target {target!r} means {which} of this machine, and there is none that TVM can "
                f"use; name an architecture to compile for another machine: {EXAMPLE}"
            )
        arch = f"sm_{str(here.compute_version).replace('.', '')}"
    capability = capability_of(arch)
    known = [c for c in _GENERATIONS if c <= capability]
    if not known:
        raise AltError(
            f"architecture {arch!r} is too old: ALT compiles for sm_{min(_GENERATIONS)} and newer"
        )
    like = _GENERATIONS[max(known)]
    # One kilobyte of each block is the system's, from sm_80 on.
    reserved = 1 << 10 if capability >= 80 else 0
    return Gpu(
        target=tvm.target.Target({"kind": "cuda", "arch": arch}, host="llvm"),
        arch=arch,
        vector_bytes=16,
        registers=255,
        l1_bytes=like.shared_bytes,
        l2_bytes=like.l2_bytes if here is None else int(here.l2_cache_size_bytes or like.l2_bytes),
        cores=like.cores if here is None else int(here.multi_processor_count),
        warp=32,
        block_threads=1024 if here is None else int(here.max_threads_per_block),
        core_threads=like.threads,
        core_registers=64 << 10,
        shared_bytes=STATIC_SHARED_BYTES,
        most_shared_bytes=like.shared_bytes - reserved,
        precision=asked if capability >= TENSOR_CORES else "fp32",
        asked_precision=asked,
    )


def _precision_of(name: str) -> Precision:
    for known in PRECISIONS:
        if name == known:
            return known
    raise AltError(f"precision {name!r} is not known; use {', '.join(map(repr, PRECISIONS))}")


def _arch_of(target: Any) -> str | None:
    """The architecture that a target names; TVM would put an old one where there is none."""
    if target == "cuda":
        return None
    nameless = isinstance(target, Mapping) and "arch" not in target
    full = {**target, "arch": "sm_90"} if nameless else target
    try:
        given: Any = full if isinstance(full, tvm.target.Target) else tvm.target.Target(full)
    except Exception as cause:
        first = str(cause).strip().splitlines()[-1]
        raise AltError(f"target {target!r} is not a TVM target: {first}") from cause
    return None if nameless else str(given.attrs["arch"])
