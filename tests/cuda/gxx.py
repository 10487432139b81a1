"""CUDA C as a library for this machine; `emulation/cuda.h` stands for CUDA.

Knows nothing of ALT, so that it starts fast where it takes the place of nvcc.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HEADERS = Path(__file__).parent / "emulation"
FLAGS = (
    "-std=c++17",
    "-O1",
    "-w",
    "-shared",
    "-fPIC",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
)
KERNEL = re.compile(r'extern "C" __global__ void[^;{]*? (\w+)\(([^)]*)\) \{')
WAITS = re.compile(r"__syncthreads|__syncwarp|__shfl")


def compile_emulation(library: Path) -> None:
    """Write the library that the others need: it has `emulate`, which launches a kernel."""
    source = HEADERS / "emulation.cc"
    subprocess.run(["g++", *FLAGS, f"-I{HEADERS}", str(source), "-o", str(library)], check=True)


def compile_cuda(source: str, library: Path) -> None:
    """Write a library with every kernel of some CUDA C.

    Raises:
        AssertionError: if g++ does not like the source; the message shows both.
    """
    # Memory that a launch asks for is an array without a size.
    source = re.sub(
        r"extern __shared__ (?:alignas\(\d+\) |__align__\(\d+\) )?(\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)emulation_dynamic_shared;",
        source,
    )
    # C++ wants the alignment first.
    source = re.sub(r"__shared__ (alignas\(\d+\)) ", r"\1 __shared__ ", source)
    file = library.with_suffix(".cc")
    file.write_text(source)
    command = ["g++", *FLAGS, f"-I{HEADERS}", str(file), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr[:3000]}\n{source}"


def kernels_of(source: str) -> dict[str, tuple[int, bool]]:
    """By name: how many arguments a kernel takes, and whether its threads wait for each other."""
    found = list(KERNEL.finditer(source))
    ends = [m.start() for m in found[1:]] + [len(source)]
    return {
        m[1]: (len(m[2].split(",")), WAITS.search(source[m.end() : end]) is not None)
        for m, end in zip(found, ends, strict=True)
    }
