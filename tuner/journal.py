"""Files of lines that processes share and that survive them: locked, whole, on the disk.

Several processes may append to a file while another replaces it. What was appended stays: a line
is written at once, under a lock, after what others wrote, and is on the disk when `append`
returns. Errors are those of the operating system (`OSError`), and leave the file as it was.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class FileId(NamedTuple):
    """Which file a path stood for: a replaced file is another one."""

    device: int
    inode: int


def append(path: Path, lines: bytes, opening: bytes = b"", known: FileId | None = None) -> FileId:
    r"""Append whole lines to a file, which is created where there is none.

    A last line that is not ended (its writer was killed) is ended first, so that it stays alone.

    Args:
        lines: ends with a newline; may be empty.
        opening: lines to write before them, unless the file is the one that `known` names.
        known: what an earlier call returned.

    Returns:
        The file's identity, for the next call.

    Raises:
        OSError: nothing was appended.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "journal"
        ...     file = append(path, b"1\n", opening=b"numbers\n")
        ...     file = append(path, b"2\n", opening=b"numbers\n", known=file)
        ...     read(path)[0]
        b'numbers\n1\n2\n'
    """
    with _locked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
        file, length = _identity(descriptor), os.fstat(descriptor).st_size
        torn = length > 0 and os.pread(descriptor, 1, length - 1) != b"\n"
        is_known = file == known and length > 0
        data = (b"" if is_known else opening) + lines
        if not data:
            return file
        try:
            _write(descriptor, b"\n" + data if torn else data)
            os.fsync(descriptor)
        except BaseException:
            # Also an interrupt: whoever sees this call fail has to find nothing of it in the file.
            with suppress(OSError):
                os.ftruncate(descriptor, length)
            raise
        if length == 0:
            _sync_folder(path)
    return file


def read(path: Path) -> tuple[bytes, FileId]:
    """All that is in a file, no line of it half written by someone at this moment.

    Raises:
        OSError: it cannot be read.
    """
    with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
        return _read(descriptor), _identity(descriptor)


def replace(path: Path, compose: Callable[[bytes], bytes]) -> None:
    """Put other content in a file's place; at any moment the old or the new one is there.

    Args:
        compose: new content from the old; from nothing where there was no file. Nobody else
            appends between.

    Raises:
        OSError: the file is as it was.
    """
    path = path.resolve()  # a link stays a link
    with _locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
        write(path, compose(_read(descriptor)))


def write(path: Path, data: bytes) -> None:
    """Make a file, or put another in its place: at any moment the old or the new one is there.

    Raises:
        OSError: the file is as it was.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        if path.exists():
            os.fchmod(descriptor, path.stat().st_mode & 0o777)
        _write(descriptor, data)
        os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(path)


@contextmanager
def _locked(path: Path, flags: int, operation: int) -> Generator[int, None, None]:
    """A descriptor of the file that the path names once the lock is held."""
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, operation)
            # Whoever held the lock may have put another file in this one's place.
            if not _is_at(path, descriptor):
                continue
            yield descriptor
            return
        finally:
            # Not left to `close`: a process forked meanwhile shares the lock.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return _identity(descriptor) == FileId(found.st_dev, found.st_ino)


def _identity(descriptor: int) -> FileId:
    status = os.fstat(descriptor)
    return FileId(status.st_dev, status.st_ino)


def _read(descriptor: int) -> bytes:
    pieces: list[bytes] = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def _write(descriptor: int, data: bytes) -> None:
    """Write all at once, or fail."""
    written = os.write(descriptor, data)
    if written < len(data):
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written")


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder last; not every file system can, and then it does by itself."""
    with suppress(OSError):
        descriptor = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
