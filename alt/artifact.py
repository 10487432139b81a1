"""Saved modules: one file with code, weights and everything needed to call them.

The file is a zip archive, nothing in it compressed, with these members in this order:

- `alt.json`, the header: plain data about the module, the machine it needs and its kernels;
- `code.so`, a shared library; or `code.o`, if nothing here links for the target: then the machine
  that loads it does;
- for a GPU `kernels0.cubin`, `kernels1.cubin`, ...: what the CUDA driver loads;
- `weights.bin`, at a multiple of the page size, so that it is mapped and not read: loading takes
  no copy, and processes that load the same file share its memory.

Nothing here needs ONNX or the compiler.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from alt.cuda.code import CudaCode, device_refusal
from alt.cuda.gpu import device_of
from alt.errors import AltError
from alt.linker import OBJECT, SHARED, link, linked, linker_for
from alt.memory import ALIGNMENT, aligned_empty
from alt.module import Module
from alt.processor import refusal

FORMAT = 1
"""Version of the file format; raised when older readers would misunderstand a file."""

_HEADER, _WEIGHTS = "alt.json", "weights.bin"
_PAGE_BYTES = 4096
_CHUNK_BYTES = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ZIP64_EXTRA_BYTES = 20
_PADDING_ID = 0xD935
"""Marks an extra field that only aligns what follows, as Android's zipalign writes it."""


def save(module: Module, path: str | Path) -> None:
    """Write a module to one file. It appears under its name complete, or not at all.

    Raises:
        AltError: if there is no C compiler to link the code with, or the file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise AltError(f"cannot write {target}: it is a folder; name a file in it")
    if not target.absolute().parent.is_dir():
        raise AltError(
            f"cannot write {target}: there is no folder {target.parent}; create it first"
        )
    name, code = module.code or linked(module.library, _host_of(module.header))
    header = {
        **module.header,
        "format": FORMAT,
        "versions": {"alt": _version("alt-compiler"), "tvm": tvm.__version__},
    }
    members = {_HEADER: json.dumps(header).encode(), name: code}
    members |= {f"kernels{k}.cubin": image for k, image in enumerate(module.images)}
    members[_WEIGHTS] = module.weights
    with _replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for member, content in members.items():
            _write_member(archive, member, memoryview(content))


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    device: int | str | None = None,
    cuda_graph: bool = True,
) -> Module:
    """Restore a module that `Module.save` wrote.

    An artifact holds machine code: load only those that you trust.

    Args:
        path: the file.
        threads: threads to run on; by default those it was compiled with, if they were given then,
            else one a physical core of this machine.
        device: the GPU to run on, by number or name; the first one by default.
        cuda_graph: whether a GPU replays the whole network as a CUDA graph where it works on the
            same memory again.

    Raises:
        AltError: if the file is missing, damaged, not an artifact, of a newer format, or for
            another CPU or GPU. Nothing of it has run then.
    """
    source = Path(path)
    if threads is not None and threads < 1:
        raise AltError(f"cannot load {source} on {threads} threads: give at least 1")
    content = _map(source)
    members = _members(source, content)
    header = _header(source, content, members)
    on_gpu = header["target"]["kind"] == "cuda"
    if on_gpu and threads is not None:
        raise AltError(f"cannot load {source} on {threads} threads: it is for a GPU")
    if not on_gpu and device is not None:
        raise AltError(f"cannot load {source} on device {device!r}: it is for a CPU")
    reason = refusal(_host_of(header))
    if reason is None and on_gpu:
        reason = device_refusal(header["target"]["arch"], device_of(device))
    if reason is not None:
        raise AltError(f"cannot load {source}: {reason}; compile the model for this machine")
    name = SHARED if SHARED in members else OBJECT
    code, weights = (_slice(content, members[member]) for member in (name, _WEIGHTS))
    if weights.ctypes.data % ALIGNMENT:  # another program packed the archive again
        copy = aligned_empty(weights.size)
        copy[:] = weights
        weights = copy
    library = _load_code(source, name, code, header)
    if on_gpu:
        from alt.cuda.module import CudaModule

        images = [
            _slice(content, members[f"kernels{k}.cubin"]) for k in range(len(header["launches"]))
        ]
        cuda = CudaCode(library, images, header["launches"])
        return CudaModule(cuda, weights, header, device, (name, code), cuda_graph)
    return Module(library, weights, header, threads or header["threads"], (name, code))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- writing ------------------------------------------------------------------------------------


def _write_member(archive: zipfile.ZipFile, name: str, content: memoryview) -> None:
    content = content.cast("B")
    info = zipfile.ZipInfo(name)  # with a fixed date: the same module gives the same file
    info.file_size = content.nbytes
    if name == _WEIGHTS:
        assert archive.fp is not None
        before = archive.fp.tell() + _LOCAL_HEADER.size + len(name) + _ZIP64_EXTRA_BYTES + 4
        gap = -before % _PAGE_BYTES
        info.extra = struct.pack("<HH", _PADDING_ID, gap) + bytes(gap)
    with archive.open(info, "w", force_zip64=True) as stream:
        for start in range(0, content.nbytes, _CHUNK_BYTES):
            stream.write(content[start : start + _CHUNK_BYTES])


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` in the end, or disappears on failure."""
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        os.close(descriptor)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(_mode(path))
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise AltError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """The permissions of a file that is overwritten, or of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _host_of(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """The CPU that a module's host code is for."""
    target = header["target"]
    return target.get("host", target)


# --- reading ------------------------------------------------------------------------------------


def _map(path: Path) -> np.ndarray:
    """The bytes of a file, read when they are looked at; writing changes private copies."""
    try:
        if path.is_dir():
            raise AltError(f"cannot load {path}: it is a folder, not an artifact")
        if path.stat().st_size == 0:
            raise AltError(f"cannot load {path}: the file is empty")
        return np.asarray(np.memmap(path, np.uint8, "c"))
    except FileNotFoundError as error:
        raise AltError(f"cannot load {path}: there is no such file") from error
    except OSError as error:
        raise AltError(f"cannot load {path}: {error.strerror or error}") from error


def _slice(content: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    start, size = place
    return content[start : start + size]


def _members(path: Path, content: np.ndarray) -> dict[str, tuple[int, int]]:
    """Offset and size of each member; every one is as it was written."""
    damaged = AltError(f"cannot load {path}: the file is damaged or cut short; copy it again")
    begin = bytes(content[: _LOCAL_HEADER.size + len(_HEADER)])
    if begin[:4] != b"PK\x03\x04" or not begin.endswith(_HEADER.encode()):
        raise AltError(f"cannot load {path}: it is not an artifact that ALT saved")
    found: dict[str, tuple[int, int]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, OSError) as error:
        raise damaged from error
    for info in infos:
        start, size = info.header_offset, info.file_size
        local = bytes(content[start : start + _LOCAL_HEADER.size])
        if len(local) < _LOCAL_HEADER.size or info.compress_type != zipfile.ZIP_STORED:
            raise damaged
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(local)[-2:]
        start += _LOCAL_HEADER.size + name_bytes + extra_bytes
        if zlib.crc32(content[start : start + size].data) != info.CRC:
            raise damaged
        found[info.filename] = (start, size)
    return found


def _header(
    path: Path, content: np.ndarray, members: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """The header of a file that this version can read."""
    header = json.loads(bytes(_slice(content, members[_HEADER])))
    if header["format"] > FORMAT:
        raise AltError(
            f"cannot load {path}: its format is {header['format']} (ALT "
            f"{header['versions']['alt']}), and this ALT knows {FORMAT}; install a newer ALT, or "
            "compile the model again"
        )
    return header


def _load_code(path: Path, name: str, code: np.ndarray, header: Mapping[str, Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="alt-load-") as folder:
        file = Path(folder) / name
        try:
            file.write_bytes(code.data)
        except OSError as error:
            raise AltError(f"cannot load {path}: cannot unpack its code: {error}") from error
        if name == OBJECT:
            linker = linker_for(_host_of(header))
            assert linker is not None
            file = link(linker, file)
        try:
            return tvm.runtime.load_module(str(file))
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            made, here = header["versions"]["tvm"], tvm.__version__
            raise AltError(
                f"cannot load {path}: its code does not load: {said}; it was made with TVM {made}, "
                f"and this is {here}"
            ) from error
