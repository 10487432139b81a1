"""What a CPU can execute: the features that compiled code needs, and those this machine has."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm

_X86 = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "avxvnni": "avx_vnni",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    **{
        name: name
        for name in (
            *("ssse3", "sse4a", "popcnt", "bmi2", "movbe", "f16c", "fma", "fma4", "xop", "tbm"),
            *("avx", "avx2", "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"),
            *("avx512ifma", "avx512vbmi", "gfni", "vaes", "vpclmulqdq", "adx"),
        )
    },
}
_ARM = {
    "neon": "asimd",
    "crc": "crc32",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "fp16fml": "asimdfhm",
    "rcpc": "lrcpc",
    "jsconv": "jscvt",
    "complxnum": "fcma",
    "sve": "sve",
    "sve2": "sve2",
    "bf16": "bf16",
    "i8mm": "i8mm",
}
_FEATURES = {"x86_64": _X86, "aarch64": _ARM}
"""What LLVM may use by itself: LLVM's name of a feature, and Linux's."""


def architecture(triple: str = "") -> str:
    """The architecture that a target triple names, or this machine's.

    Example:
        >>> architecture("arm64-apple-darwin"), architecture("x86_64-linux-gnu")
        ('aarch64', 'x86_64')
    """
    name = (triple.partition("-")[0] or platform.machine()).lower()
    return {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64"}.get(name, name)


def features_of(target: Any) -> list[str]:
    """The features that code for a target may use, of those that vary between CPUs."""
    has = tvm.get_global_func("target.target_has_feature", allow_missing=True)
    if has is None:
        return []
    known = _FEATURES.get(architecture(str(target.attrs.get("mtriple", ""))), {})
    return sorted(name for name in known if has(name, target))


@lru_cache(maxsize=1)
def features_here() -> frozenset[str]:
    """The features that this machine offers; what a hypervisor hides is not among them."""
    names = _FEATURES.get(architecture(), {})
    listed = _said_by_linux("flags", "Features").split()
    if listed:
        return frozenset(name for name, flag in names.items() if flag in listed)
    cpu = tvm.get_global_func("target.llvm_get_system_cpu", allow_missing=True)
    if cpu is None:
        return frozenset(names)
    return frozenset(features_of(tvm.target.Target({"kind": "llvm", "mcpu": str(cpu())})))


def model_here() -> str:
    """What the maker calls this machine's processor; empty where the system does not say."""
    return _said_by_linux("model name") or platform.processor()


def _said_by_linux(*names: str) -> str:
    """The first entry of one of these names; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""


def refusal(
    target: Mapping[str, Any], arch: str | None = None, features: Iterable[str] | None = None
) -> str | None:
    """Why code for a target cannot run on a machine, in words; None if it can.

    Args:
        target: what an artifact says about its target: `arch`, `mcpu`, `features`.
        arch: the machine's architecture; this one's by default.
        features: what the machine offers; this one's by default.

    Example:
        >>> target = {"arch": "x86_64", "mcpu": "znver4", "features": ["avx2", "avx512f"]}
        >>> refusal(target, "x86_64", {"avx2", "fma"})
        'it was compiled for znver4 and needs avx512f, which this CPU lacks'
        >>> refusal(target, "aarch64", {"neon"})
        'it was compiled for x86_64 (znver4), and this machine is aarch64'
    """
    here = arch or architecture()
    if target["arch"] != here:
        return (
            f"it was compiled for {target['arch']} ({target['mcpu']}), and this machine is {here}"
        )
    offered = features_here() if features is None else frozenset(features)
    missing = [name for name in target["features"] if name not in offered]
    if missing:
        needed = ", ".join(missing)
        return f"it was compiled for {target['mcpu']} and needs {needed}, which this CPU lacks"
    return None
