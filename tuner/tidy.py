"""Logs joined and thinned out; `tuner.log` says what a log is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import journal
from tuner.config import Config
from tuner.contents import Skipped, parse
from tuner.errors import TuningError
from tuner.log import counting, load, ranked, summarise
from tuner.records import Header, Record
from tuner.task import Candidate


@dataclass(frozen=True)
class Tidied:
    """What became of the records of some logs.

    Attributes:
        kept: records that the written log holds.
        dropped: records that were read and are not in it, repetitions included.
        skipped: lines that could not be read, by file; they are not in it either.
    """

    kept: int
    dropped: int
    skipped: tuple[tuple[Path, Skipped], ...]


def merge(paths: Sequence[Path], output: Path) -> Tidied:
    """Write one log with the records of several, each once, ordered by time.

    The result is the same in whatever order the logs are named, and merging it with one of them
    again changes nothing.

    Args:
        output: a new file, or one of the logs, which then takes the others in.

    Raises:
        TuningError: a log cannot be read, or the output is a file that is not among them.
    """
    if output.exists() and not any(path.exists() and path.samefile(output) for path in paths):
        raise TuningError(
            f"merge into {output}: there is such a file, and it would be overwritten; name it "
            "among the logs, or remove it"
        )
    others = [
        (path, load(path)[0])
        for path in paths
        if not (output.exists() and path.exists() and path.samefile(output))
    ]

    def compose(before: bytes) -> tuple[bytes, Tidied]:
        contents = [*others, (output, parse(before, str(output)))]
        headers: dict[str, Header] = {}
        for header in sorted((h for _, c in contents for h in c.headers.values()), key=_line):
            headers.setdefault(header.id, header)
        records = {record.line: record for _, c in contents for record in c.records}
        read = sum(len(c.records) for _, c in contents)
        skipped = tuple((path, each) for path, c in contents for each in c.skipped)
        return (
            _lines(
                list(headers.values()), sorted(records.values(), key=lambda r: (r.time, r.line))
            ),
            Tidied(len(records), read - len(records), skipped),
        )

    return _replace(output, compose)


def prune(path: Path, keep: int) -> Tidied:
    """Leave only what the best candidates of each task on each target were measured with.

    What is best stays best, in every layout: which layouts a network has depends on its conversions
    too. A search that goes on from a pruned log measures anew what was dropped, failures included.

    Args:
        keep: how many candidates of a task in each layout; at least 1.

    Raises:
        TuningError: there is no such log, or `keep` is not positive.
    """
    if keep < 1:
        raise TuningError(f"prune {path} to {keep} candidates a task: keep at least 1")
    load(path)  # so that a file that is no log, or is not there, is left alone

    def compose(before: bytes) -> tuple[bytes, Tidied]:
        contents = parse(before, str(path))
        records = _of_best(contents.records, keep)
        skipped = tuple((path, each) for each in contents.skipped)
        dropped = len(contents.records) - len(records)
        headers = list(contents.headers.values())
        return _lines(headers, records), Tidied(len(records), dropped, skipped)

    return _replace(path, compose)


def _of_best(records: Sequence[Record], keep: int) -> list[Record]:
    """The records of the best candidates that their times are drawn from, in the same order."""
    groups: dict[tuple[str, str, Config], dict[Candidate, list[Record]]] = {}
    for record in records:
        group = groups.setdefault((record.task, record.target, record.candidate.layout), {})
        group.setdefault(record.candidate, []).append(record)
    kept: set[str] = set()
    for group in groups.values():
        known = summarise(record for each in group.values() for record in each)
        for best in ranked(known)[:keep]:
            kept |= {record.line for record in counting(group[best.candidate])}
    return [record for record in records if record.line in kept]


def _line(each: Header) -> str:
    return each.line


def _lines(headers: Sequence[Header], records: Sequence[Record]) -> bytes:
    return "".join(f"{each.line}\n" for each in (*headers, *records)).encode()


def _replace(path: Path, compose: Callable[[bytes], tuple[bytes, Tidied]]) -> Tidied:
    result: list[Tidied] = []

    def content(before: bytes) -> bytes:
        after, tidied = compose(before)
        result.append(tidied)
        return after

    try:
        journal.replace(path, content)
    except OSError as cause:
        raise TuningError(
            f"write the log {path}: {cause.strerror or cause}; it is as it was"
        ) from cause
    return result[0]
