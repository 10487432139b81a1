"""The log of a tuning run: what was measured is kept, whatever happens to the process.

A log is a file of JSON lines (see `tuner.records`) that only grows while something is tuned. It
is also the state of the search: a run that finds its log goes on where the last one ended.

What is known of a candidate is drawn from all its records on a target:

- The samples of its ok measurements are taken together, and their median is its time.
- Wrong outweighs ok: only measurements later than the last wrong one count. A kernel whose result
  was ever wrong is not to be trusted until it was found right again.
- Other failures do not take away what was measured; a candidate that has only failures is known
  by its latest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuner import journal
from tuner.contents import Contents, Skipped, parse
from tuner.errors import TuningError
from tuner.records import Header, Record
from tuner.task import Candidate, Measurement, Status

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """The fastest candidate of a task on a target, and what is known of it."""

    candidate: Candidate
    measurement: Measurement


class TuningLog:
    """Records in a file, all of them at hand.

    Several processes may append to one file; each sees what was there when it opened the log, and
    its own. Not to be shared between threads.

    Example:
        >>> import tempfile
        >>> from tuner.config import Config
        >>> header = Header({"mcpu": "znver4", "threads": 2}, {"alt": "0.1.0"})
        >>> candidate = Candidate(Config({"oc": 16}), Config({"unroll": 4}))
        >>> measured = Measurement(Status.ok, (0.0021, 0.0020, 0.0024))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = TuningLog.open(Path(folder) / "log.jsonl", header)
        ...     done = log.append(header.record("k", candidate, measured, "2025-01-31T12:00:00Z"))
        ...     resumed = TuningLog.open(Path(folder) / "log.jsonl", header)
        >>> resumed.best("k", header.target_id).measurement.best
        0.0021
    """

    def __init__(self, contents: Contents, path: Path | None = None) -> None:
        """A log of records that are at hand, in memory; see `open` and `read` for those in files.

        Args:
            path: where the records are from.
        """
        self.path = path
        self.headers: dict[str, Header] = dict(contents.headers)
        self.skipped: tuple[Skipped, ...] = contents.skipped
        self._records: list[Record] = []
        self._by_task: dict[str, list[Record]] = {}
        self._unsaved: list[Record] = []
        self._writer: Header | None = None
        self._file: journal.FileId | None = None
        for record in contents.records:
            self._remember(record)

    @classmethod
    def open(cls, path: Path, header: Header) -> TuningLog:
        """A log to append to, with what it holds already; it is made where there is none.

        Args:
            header: of the machine and program that are going to measure.

        Raises:
            TuningError: the file is no log, is of a newer schema, or cannot be written.
        """
        log, file = cls._opened(path) if path.exists() else (cls(Contents({}, (), ()), path), None)
        log._writer = header
        known = file if header.id in log.headers else None
        try:
            log._file = journal.append(path, b"", f"{header.line}\n".encode(), known)
        except OSError as cause:
            raise TuningError(
                f"open the log {path}: {_reason(cause)}; name a file that can be written"
            ) from cause
        log.headers.setdefault(header.id, header)
        return log

    @classmethod
    def read(cls, path: Path) -> TuningLog:
        """A log to look at.

        Raises:
            TuningError: there is no such file, it is no log, or it is of a newer schema.
        """
        return cls._opened(path)[0]

    @classmethod
    def _opened(cls, path: Path) -> tuple[TuningLog, journal.FileId]:
        contents, file = load(path)
        for line, why in contents.skipped:
            _LOGGER.warning("%s, line %d is skipped: %s", path, line, why)
        return cls(contents, path), file

    @property
    def records(self) -> Sequence[Record]:
        """All records: those of the file, then those appended."""
        return tuple(self._records)

    @property
    def unsaved(self) -> int:
        """How many records could not be written so far."""
        return len(self._unsaved)

    def append(self, record: Record) -> bool:
        """Add a record and put it on the disk.

        A full disk loses nothing: the record is kept, a warning is logged, and the next `append` or
        `flush` tries again.

        Returns:
            Whether all records are on the disk.
        """
        self._remember(record)
        self._unsaved.append(record)
        return self.try_flush()

    def try_flush(self) -> bool:
        """Write what could not be written yet, if that is possible by now.

        Returns:
            Whether all records are on the disk; if not, a warning that says why is logged.
        """
        try:
            self.flush()
        except TuningError as error:
            _LOGGER.warning("%s", error)
            return False
        return True

    def flush(self) -> None:
        """Write what could not be written yet; call it when a run ends.

        Raises:
            TuningError: it still cannot be written, or the log was opened to look at.
        """
        if self.path is None:
            self._unsaved.clear()
            return
        if self._writer is None:
            raise TuningError(
                f"append to the log {self.path}: it was opened for reading; "
                "open it with TuningLog.open"
            )
        lines = "".join(f"{record.line}\n" for record in self._unsaved).encode()
        if not lines:
            return
        opening = f"{self._writer.line}\n".encode()
        try:
            self._file = journal.append(self.path, lines, opening, self._file)
        except OSError as cause:
            raise TuningError(
                f"write the log {self.path}: {_reason(cause)}; {self.unsaved} measurements are in "
                "memory only and are written as soon as that is possible: make room"
            ) from cause
        self._unsaved.clear()

    def of_task(self, task: str) -> Sequence[Record]:
        """The records of a task, on whatever target."""
        return tuple(self._by_task.get(task, ()))

    def seen(self, task: str, target: str) -> dict[Candidate, Measurement]:
        """What is known of every candidate of a task, which a search need not measure again.

        Args:
            target: `Header.target_id`.
        """
        return summarise(r for r in self._by_task.get(task, ()) if r.target == target)

    def best(self, task: str, target: str) -> Best | None:
        """The fastest candidate of a task; None while none is ok."""
        return next(iter(ranked(self.seen(task, target))), None)

    def _remember(self, record: Record) -> None:
        self._records.append(record)
        self._by_task.setdefault(record.task, []).append(record)


def default_log_path(directory: Path) -> Path:
    """The log for all models of a user, where none is named.

    Args:
        directory: where the user's state is kept.

    Example:
        >>> default_log_path(Path("/home/ada/.local/state/alt")).name
        'measurements.jsonl'
    """
    return directory / "measurements.jsonl"


def load(path: Path) -> tuple[Contents, journal.FileId]:
    """What a file of records holds.

    Raises:
        TuningError: there is no such file, it is no log, or it is of a newer schema.
    """
    # A pipe or a device may never end.
    if path.exists() and not path.is_file():
        raise TuningError(f"read the log {path}: it is no file; name a file")
    try:
        data, file = journal.read(path)
    except FileNotFoundError as cause:
        raise TuningError(f"read the log {path}: there is no such file; name another") from cause
    except OSError as cause:
        raise TuningError(f"read the log {path}: {_reason(cause)}") from cause
    return parse(data, str(path)), file


def summarise(records: Iterable[Record]) -> dict[Candidate, Measurement]:
    """What is known of each candidate, from the records of one task on one target.

    Example:
        >>> from tuner.config import Config
        >>> candidate, header = Candidate(Config(), Config()), Header({}, {})
        >>> def at(hour: int, status: Status, *seconds: float) -> Record:
        ...     measured = Measurement(status, seconds)
        ...     return header.record("k", candidate, measured, f"2025-01-31T{hour}:00:00Z")
        >>> ok, wrong = at(10, Status.ok, 3.0, 1.0), at(11, Status.wrong)
        >>> summarise([ok, at(12, Status.ok, 2.0)])[candidate].seconds
        (3.0, 1.0, 2.0)
        >>> summarise([ok, wrong])[candidate].status.value
        'wrong'
        >>> summarise([ok, wrong, at(12, Status.ok, 2.0)])[candidate].seconds
        (2.0,)
    """
    by_candidate: dict[Candidate, list[Record]] = {}
    for record in records:
        by_candidate.setdefault(record.candidate, []).append(record)
    return {candidate: _together(each) for candidate, each in by_candidate.items()}


def counting(records: Sequence[Record]) -> list[Record]:
    """Of the records of one candidate those that its time is drawn from, the earliest first."""
    wrong = [r.time for r in records if r.measurement.status is Status.wrong]
    ok = [r for r in records if r.measurement.ok and (not wrong or r.time > max(wrong))]
    return sorted(ok, key=_order)


def ranked(known: Mapping[Candidate, Measurement]) -> list[Best]:
    """The candidates that are ok, the smallest median first; equals always in the same order."""
    ok = [(m.best, str(c), Best(c, m)) for c, m in known.items() if m.ok]
    return [best for _, _, best in sorted(ok, key=lambda entry: entry[:2])]


def _together(records: Sequence[Record]) -> Measurement:
    ok = [record.measurement for record in counting(records)]
    if not ok:
        failed = [r for r in records if not r.measurement.ok]
        wrong = [r for r in failed if r.measurement.status is Status.wrong]
        # A wrong result is never forgotten for a later timeout.
        return max(wrong or failed, key=_order).measurement
    errors = [m.error for m in ok if m.error is not None]
    return Measurement(
        Status.ok,
        tuple(second for m in ok for second in m.seconds),
        error=max(errors, default=None),
        message=ok[-1].message,
        build_seconds=ok[-1].build_seconds,
    )


def _order(record: Record) -> tuple[datetime, str]:
    return record.time, record.line


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
