"""The machine that code is compiled for: a TVM target and the numbers that make schedules."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, overload

import tvm

from alt.cuda.gpu import Gpu, gpu_of
from alt.errors import AltError
from alt.processor import architecture, features_here, features_of


@dataclass(frozen=True)
class Machine:
    """A CPU as the sketches see it.

    Attributes:
        target: the TVM target, with everything filled in.
        vector_bytes: width of a vector register.
        registers: number of vector registers.
        l1_bytes: data cache of one core, first level.
        l2_bytes: cache of one core, second level.
        cores: physical cores that kernels are scheduled for.
    """

    target: Any
    vector_bytes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    cores: int

    def lanes(self, dtype: str = "float32") -> int:
        """How many elements of a dtype fit in one vector register."""
        bits = 8 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit()) or 32)
        return max(1, self.vector_bytes * 8 // bits)

    @property
    def description(self) -> dict[str, object]:
        """What an artifact must find again on the machine that loads it."""
        attrs = self.target.attrs
        triple = str(attrs.get("mtriple", ""))
        return {
            "target": str(self.target),
            "kind": self.target.kind.name,
            "mcpu": str(attrs.get("mcpu", "generic")),
            "mtriple": triple,
            "arch": architecture(triple),
            "features": features_of(self.target),
            "vector_bytes": self.vector_bytes,
            "registers": self.registers,
        }


Hardware = Machine | Gpu
"""What code is compiled for; sketches for one kind never see the other."""


def require_cpu(machine: Hardware) -> Machine:
    """The machine as a CPU.

    Raises:
        AltError: if it is a GPU.
    """
    if isinstance(machine, Gpu):
        raise AltError(f"this is for CPUs, and the target is a GPU ({machine.arch}): use 'llvm'")
    return machine


def _host_cpu() -> str:
    return str(tvm.get_global_func("target.llvm_get_system_cpu")())


@lru_cache(maxsize=1)
def physical_cores() -> int:
    """Physical cores this process may run on; SMT siblings count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return max(1, (os.cpu_count() or 1))
    seen: set[str] = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            seen.add(siblings.read_text().strip())
        except OSError:
            seen.add(str(cpu))
    return max(1, len(seen))


def _cache_bytes(level: int, otherwise: int) -> int:
    root = Path("/sys/devices/system/cpu/cpu0/cache")
    for index in sorted(root.glob("index*")) if root.exists() else ():
        try:
            if int((index / "level").read_text()) != level:
                continue
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        return int(text.rstrip("KM")) * scale
    return otherwise


def last_cache_bytes() -> int:
    """The last cache of this machine that its cores share."""
    return _cache_bytes(3, _cache_bytes(2, 32 << 20))


Target = str | Mapping[str, object] | tvm.target.Target | Hardware


@overload
def resolve(
    target: Literal["llvm"] = "llvm",
    threads: int | None = None,
    precision: str = "fp32",
    device: None = None,
) -> Machine: ...


@overload
def resolve(
    target: Any,
    threads: int | None = None,
    precision: str = "fp32",
    device: int | str | None = None,
) -> Hardware: ...


def resolve(
    target: Target = "llvm",
    threads: int | None = None,
    precision: str = "fp32",
    device: int | str | None = None,
) -> Hardware:
    """Fill in a target from this machine, and work out the numbers that schedules need.

    Args:
        target: `"llvm"` for this machine and `"cuda"` for its GPU; a dictionary such as
            `{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}` or
            `{"kind": "cuda", "arch": "sm_90"}`, or a TVM target, for another one. `num-cores` sets
            the cores of a CPU. What was resolved before is taken as it is.
        threads: threads that kernels are scheduled for; the physical cores by default. None for a
            GPU, which is always used whole.
        precision: what a GPU may multiply, see `alt.compile`.
        device: which GPU of this machine `"cuda"` means, by number or name; the first by default.

    Raises:
        AltError: if the target is not one that ALT can compile for.
    """
    if isinstance(target, Gpu) and precision not in ("fp32", target.asked_precision):
        raise AltError(
            f"precision={precision!r}, and the target was resolved for {target.asked_precision!r}: "
            "give one of them"
        )
    if isinstance(target, Machine | Gpu):
        return target
    if threads is not None and threads < 1:
        raise AltError(f"cannot compile for {threads} threads: give at least 1")
    if _is_cuda(target):
        if threads is not None:
            raise AltError(f"cannot compile for {threads} threads of a GPU: leave threads out")
        return gpu_of(target, precision, device)
    try:
        given: Any = target if isinstance(target, tvm.target.Target) else tvm.target.Target(target)
    except Exception as cause:
        first = str(cause).strip().splitlines()[-1]
        raise AltError(f"target {target!r} is not a TVM target: {first}") from cause
    kind = str(given.kind.name)
    if kind == "cuda":  # named by a tag
        return resolve(given, threads, precision, device)
    if kind != "llvm":
        raise AltError(f"target kind {kind!r} is not supported; use 'llvm' or 'cuda'")
    if precision != "fp32":
        raise AltError(
            f"precision={precision!r} is for GPUs, and the target is a CPU, which computes with "
            "float32: leave it out"
        )
    # Level 3 takes a tenth longer, and the networks of the benchmarks are not faster by it.
    options: dict[str, Any] = {"kind": "llvm", "opt-level": 2}
    for name in ("mcpu", "mtriple", "mattr"):
        value = given.attrs.get(name)
        if value:
            options[name] = [str(v) for v in value] if name == "mattr" else str(value)
    # TVM fills in this machine's triple where none was given.
    here = str(tvm.get_global_func("target.llvm_get_system_triple")())
    native = "mcpu" not in options and options.get("mtriple", here) == here
    if native:
        options["mcpu"] = _host_cpu()
        # A hypervisor may hide features that this CPU model has.
        assumed = features_of(tvm.target.Target(options))
        hidden = [f"-{name}" for name in assumed if name not in features_here()]
        if hidden:
            options["mattr"] = [*options.get("mattr", []), *hidden]
    cores = threads or int(given.attrs.get("num-cores") or 0) or (physical_cores() if native else 4)
    options["num-cores"] = cores
    full = tvm.target.Target(options)
    triple = str(options.get("mtriple") or f"{platform.machine()}-linux")
    features = _features(full)
    if triple.startswith(("aarch64", "arm64")):
        vector, registers = 16, 32
    elif "avx512f" in features:
        vector, registers = 64, 32
    elif "avx" in features:
        vector, registers = 32, 16
    else:
        vector, registers = 16, 16
    return Machine(
        target=full,
        vector_bytes=vector,
        registers=registers,
        l1_bytes=_cache_bytes(1, 32 << 10) if native else 32 << 10,
        l2_bytes=_cache_bytes(2, 1 << 20) if native else 512 << 10,
        cores=cores,
    )


def _is_cuda(target: Target) -> bool:
    """Without asking TVM, which warns where no architecture is given and there is no GPU."""
    if isinstance(target, tvm.target.Target):
        given: Any = target  # TVM ships no stubs
        return str(given.kind.name) == "cuda"
    return target == "cuda" or (isinstance(target, Mapping) and target.get("kind") == "cuda")


def _features(target: tvm.target.Target) -> frozenset[str]:
    """The CPU features LLVM assumes for a target, of those that decide vector width."""
    has = tvm.get_global_func("target.target_has_feature", allow_missing=True)
    names = ("avx512f", "avx2", "avx", "sse4.2", "neon")
    if has is None:
        return frozenset()
    return frozenset(n for n in names if has(n, target))
