"""CUDA C to machine code for GPUs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alt.errors import AltError
from alt.target import physical_cores

# No --use_fast_math: TVM's default would round divisions, square roots and exponentials away.
FLAGS = ("--cubin", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas=-v")

KERNEL = 'extern "C" __global__'
KERNELS_A_FILE = 8
"""Starting nvcc takes about a second, which so many kernels are worth."""

_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes stack frame")
_FUNCTION = re.compile(r"Compiling entry function '([^']+)'")


@dataclass(frozen=True)
class Image:
    """Machine code that the CUDA driver loads.

    Attributes:
        code: a cubin.
        registers: of a thread, by kernel; those are all there are in it.
        spilled_bytes: what of a thread's numbers is in memory because it did not fit, or because it
            is found by an index that is not known when compiling; by kernel.
    """

    code: bytes
    registers: Mapping[str, int]
    spilled_bytes: Mapping[str, int]


@dataclass(frozen=True)
class Images:
    """A folder of images that were made before, by what they were made from.

    Processes may share it: an image is there whole, or not at all.
    """

    folder: Path

    def find(self, source: str, arch: str) -> Image | None:
        """The image of a source, if there is one."""
        try:
            head, _, code = self._path(source, arch).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        return Image(code, *json.loads(head))

    def keep(self, source: str, arch: str, image: Image) -> None:
        """Remember an image."""
        head = json.dumps([dict(image.registers), dict(image.spilled_bytes)]).encode()
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(head + b"\n" + image.code)
        os.replace(file.name, self._path(source, arch))  # noqa: PTH105 - it is a name, no path

    def _path(self, source: str, arch: str) -> Path:
        made_from = "\n".join([*FLAGS, arch, source]).encode()
        return self.folder / f"{hashlib.sha256(made_from).hexdigest()[:32]}.image"


def compile_source(
    source: str, arch: str, processes: int | None = None, known: Images | None = None
) -> list[Image]:
    """Compile CUDA C, some kernels at a time.

    Args:
        source: kernels, each declared before all of them are defined.
        arch: what for: `sm_90`.
        processes: how many nvcc run at once; one a physical core by default.
        known: images that are not made again; temporary files are put there, too.

    Raises:
        AltError: if there is no nvcc, or it cannot compile for this architecture.
    """
    nvcc = require_nvcc()
    with ThreadPoolExecutor(processes or physical_cores()) as pool:
        return list(pool.map(lambda part: _image(nvcc, part, arch, known), parts_of(source)))


def require_nvcc() -> str:
    """Where nvcc is.

    Raises:
        AltError: if there is none.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise AltError(
            "compiling for CUDA needs nvcc, and none is on PATH; install the CUDA toolkit, or add "
            "its folder bin to PATH"
        )
    return nvcc


def parts_of(source: str) -> Iterator[str]:
    """The source cut into files of a few kernels, each with what stands before the first kernel."""
    start = source.index(KERNEL)
    head, pieces = source[:start], re.split(f"(?={re.escape(KERNEL)})", source[start:])
    kernels = [piece for piece in pieces if "{" in piece]
    for first in range(0, len(kernels), KERNELS_A_FILE):
        yield head + "".join(kernels[first : first + KERNELS_A_FILE])


def _image(nvcc: str, source: str, arch: str, known: Images | None) -> Image:
    found = known.find(source, arch) if known is not None else None
    if found is None:
        found = _compile(nvcc, source, arch, known.folder if known is not None else None)
        if known is not None:
            known.keep(source, arch, found)
    return found


def _compile(nvcc: str, source: str, arch: str, place: Path | None) -> Image:
    with tempfile.TemporaryDirectory(prefix="alt-nvcc-", dir=place) as folder:
        file, image = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        file.write_text(source)
        command: Sequence[str] = [nvcc, *FLAGS, f"-arch={arch}", "-o", str(image), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            first = (said or done.stderr.strip().splitlines() or ["it says nothing"])[0]
            raise AltError(f"nvcc cannot compile for {arch}: {first.replace(str(file), 'kernels')}")
        code = image.read_bytes()
    _, *said = _FUNCTION.split(done.stderr)  # name, text, name, text, ...
    registers, spilled = (
        {name: _number(pattern, text) for name, text in zip(said[::2], said[1::2], strict=True)}
        for pattern in (_REGISTERS, _SPILLED)
    )
    return Image(code, registers, spilled)


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found else 0
