"""Reading a log: all that can be read, and why the rest cannot.

A line that cannot be read takes no other with it, and fields that are not known are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from tuner.config import Config
from tuner.errors import TuningError
from tuner.records import SCHEMA, Header, Record
from tuner.task import Candidate, Measurement, Status

_MARK = '{"log": "measurements"'


class Malformed(ValueError):
    """A line that is no header and no record; the message says why."""


class Skipped(NamedTuple):
    """A line that could not be read.

    Attributes:
        line: its number, from 1.
    """

    line: int
    why: str


@dataclass(frozen=True)
class Contents:
    """What was read from a file.

    Attributes:
        headers: by their id, in the order of the file.
        records: in the order of the file, no line twice.
        skipped: what could not be read.
    """

    headers: Mapping[str, Header]
    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...]


def parse(data: bytes, source: str) -> Contents:
    r"""Read what can be read of a log.

    Args:
        source: where the data is from, for messages.

    Raises:
        TuningError: it is not a log, or one of a newer schema.

    Example:
        >>> header = Header({"threads": 2}, {})
        >>> contents = parse(f'{header.line}\n{{"name": "conv'.encode(), "a.jsonl")
        >>> contents.skipped[0]
        Skipped(line=2, why='cut short: Unterminated string starting at: line 1 column 10 (char 9)')
    """
    headers: dict[str, Header] = {}
    records: dict[str, Record] = {}
    skipped: list[Skipped] = []
    lines = data.split(b"\n")
    for number, raw in enumerate(lines, 1):
        # A file system that lost its power may leave zeros.
        raw = raw.strip(b"\0 \t\r")
        if not raw:
            continue
        try:
            value = _object(raw)
            if "log" in value:
                header = _header(value, raw.decode(), f"{source}, line {number}")
                headers.setdefault(header.id, header)
            else:
                record = _record(value, raw.decode())
                records.setdefault(record.line, record)
        except Malformed as cause:
            torn = number == len(lines)
            skipped.append(Skipped(number, f"cut short: {cause}" if torn else str(cause)))
    nothing_known = bool(skipped) and not headers and not records
    # The first writer may have been killed in its first line.
    begun = _MARK.startswith(data[: len(_MARK)].decode(errors="replace"))
    if nothing_known and not begun:
        raise TuningError(
            f"read {source}: it is not a log of measurements, line {skipped[0].line} is no JSON "
            f"that belongs in one ({skipped[0].why}); name another file"
        )
    return Contents(headers, tuple(records.values()), tuple(skipped))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as cause:
        raise Malformed(str(cause)) from cause
    if not isinstance(value, dict):
        raise Malformed(f"a {type(value).__name__}, not an object")
    return cast("dict[str, Any]", value)


def _no_number(name: str) -> float:
    raise Malformed(f"{name} is not JSON")


def _header(value: Mapping[str, Any], text: str, where: str) -> Header:
    schema = value.get("schema")
    if type(schema) is not int or schema < 1:
        raise Malformed(f"header of schema {schema!r}")
    if schema > SCHEMA:
        raise TuningError(
            f"read {where}: it was written in schema {schema}, and this program reads schemas up "
            f"to {SCHEMA}; update alt-compiler"
        )
    header = Header(_get(value, "target", dict), _get(value, "versions", dict), schema, text)
    try:
        intact = header.id == value.get("id")
    except ValueError as cause:  # a number too large for JSON to give back
        raise Malformed(str(cause)) from cause
    if not intact:
        raise Malformed(f"header {value.get('id')!r}, whose contents are those of {header.id!r}")
    return header


def _record(value: Mapping[str, Any], text: str) -> Record:
    status = _get(value, "status", str)
    seconds = tuple(_number(s, "seconds") for s in _get(value, "seconds", list))
    error = value.get("error")
    if status not in [known.value for known in Status]:
        raise Malformed(f"unknown status {status!r}")
    try:
        candidate = Candidate(
            layout=Config.from_json(_get(value, "layout", dict)),
            loops=Config.from_json(_get(value, "loops", dict)),
        )
        measurement = Measurement(
            status=Status(status),
            seconds=seconds,
            error=None if error is None else _number(error, "error"),
            message=str(value.get("message", "")),
            build_seconds=_number(value.get("build_seconds", 0.0), "build_seconds"),
        )
        return Record(
            task=_get(value, "task", str),
            candidate=candidate,
            measurement=measurement,
            when=_get(value, "when", str),
            target=_get(value, "target", str),
            header=_get(value, "header", str),
            name=str(value.get("name", "")),
            features=tuple(
                _number(f, "features") for f in _get({"features": [], **value}, "features", list)
            ),
            text=text,
        )
    except TuningError as cause:
        raise Malformed(str(cause)) from cause


def _get(value: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in value:
        raise Malformed(f"there is no {name!r}")
    if not isinstance(value[name], kind):
        raise Malformed(f"{name!r} is {value[name]!r}")
    return value[name]


def _number(value: object, name: str) -> float:
    """A number, or a number that JSON can only hold as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    raise Malformed(f"{name!r} has {value!r}, which is no number")
