"""What a log of measurements holds, and how it is written as lines of JSON.

A header line says on which machine and with which versions something was measured:

    {"log": "measurements", "schema": 1, "id": "5f1c…", "target": {…}, "versions": {…}}

Every other line is one measurement of one candidate. It names its task, target and header, so that
logs can be cut, joined and sorted by lines. Nothing that a line does not need is required of it:
unknown fields are left alone, and a line that cannot be read takes no other with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, cast

from tuner.config import Config
from tuner.errors import TuningError
from tuner.task import Candidate, Measurement, Status

SCHEMA = 1
"""The version of the format that is written; older ones are read."""

_MARK = '{"log": "measurements"'


class Malformed(ValueError):
    """A line that is no header and no record; the message says why."""


@dataclass(frozen=True)
class Header:
    """Where measurements come from.

    Attributes:
        target: what decides which candidate is fastest, as JSON: processor and its features, cores
            and threads.
        versions: of the programs that measured, by name.
        schema: version of the format.

    Example:
        >>> header = Header({"mcpu": "znver4", "threads": 2}, {"alt": "0.1.0"})
        >>> header.target_id, header.id
        ('9ba7e8c7f5', 'f67d57babf')
    """

    target: Mapping[str, Any]
    versions: Mapping[str, str]
    schema: int = SCHEMA

    @cached_property
    def target_id(self) -> str:
        """Names the target: a short hash, the same whatever the order of its entries."""
        return _hash(self.target)

    @cached_property
    def id(self) -> str:
        """Names the header in the records that belong to it."""
        return _hash([self.schema, self.target, self.versions])

    def __hash__(self) -> int:
        return hash(self.id)

    def record(
        self,
        task: str,
        candidate: Candidate,
        measurement: Measurement,
        when: str,
        name: str = "",
    ) -> Record:
        """A record of what was measured under this header; arguments as in `Record`."""
        return Record(task, candidate, measurement, when, self.target_id, self.id, name)

    @cached_property
    def line(self) -> str:
        """The header as JSON, without a newline."""
        text = {
            "log": "measurements",
            "schema": self.schema,
            "id": self.id,
            "target": self.target,
            "versions": self.versions,
        }
        return json.dumps(text, allow_nan=False)


@dataclass(frozen=True)
class Record:
    """One measurement of one candidate.

    Attributes:
        task: the task's key, the same for the same computation in whatever network.
        when: when it was measured, in ISO 8601 with an offset from UTC.
        target: `Header.target_id` of the machine.
        header: `Header.id`.
        name: what the task was called; for people.

    Raises:
        TuningError: `when` is not such a time, or the samples are not times.
    """

    task: str
    candidate: Candidate
    measurement: Measurement
    when: str
    target: str
    header: str
    name: str = ""
    text: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._parsed(self.when) is None:
            raise TuningError(
                f"record a measurement of {self.name or self.task} made at {self.when!r}: that is "
                "no time with an offset; write it as 2025-01-31T12:00:00+00:00"
            )
        if not all(0 <= seconds < math.inf for seconds in self.measurement.seconds):
            raise TuningError(
                f"record a measurement of {self.name or self.task}: the samples are "
                f"{self.measurement.seconds} seconds; give finite times, or a status that is not ok"
            )

    @staticmethod
    def _parsed(when: str) -> datetime | None:
        try:
            # Python 3.10 does not know Z.
            time = datetime.fromisoformat(when.removesuffix("Z") + "+00:00" * when.endswith("Z"))
        except ValueError:
            return None
        return time if time.tzinfo else None

    @cached_property
    def time(self) -> datetime:
        """`when`, as something that can be compared."""
        time = self._parsed(self.when)
        assert time is not None
        return time

    @cached_property
    def line(self) -> str:
        """The record as JSON, without a newline: as it was read, or else as it is written."""
        if self.text:
            return self.text
        measured = self.measurement
        text = {
            "name": self.name,
            "status": measured.status.value,
            "seconds": [float(s) for s in measured.seconds],
            "error": _to_json(measured.error),
            "layout": self.candidate.layout.to_json(),
            "loops": self.candidate.loops.to_json(),
            "message": measured.message,
            "build_seconds": _to_json(measured.build_seconds),
            "when": self.when,
            "task": self.task,
            "target": self.target,
            "header": self.header,
        }
        return json.dumps(text, allow_nan=False)


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
                header = _header(value, f"{source}, line {number}")
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


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _to_json(number: float | None) -> float | str | None:
    """A number as JSON, which knows no infinity."""
    if number is None:
        return None
    return float(number) if math.isfinite(number) else str(float(number))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError) as cause:
        raise Malformed(str(cause)) from cause
    if not isinstance(value, dict):
        raise Malformed(f"a {type(value).__name__}, not an object")
    return cast("dict[str, Any]", value)


def _header(value: Mapping[str, Any], where: str) -> Header:
    schema = value.get("schema")
    if type(schema) is not int or schema < 1:
        raise Malformed(f"header of schema {schema!r}")
    if schema > SCHEMA:
        raise TuningError(
            f"read {where}: it was written in schema {schema}, and this program reads schemas up "
            f"to {SCHEMA}; update alt-compiler"
        )
    header = Header(_get(value, "target", dict), _get(value, "versions", dict), schema)
    if header.id != value.get("id"):
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
        return float(value)
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    raise Malformed(f"{name!r} has {value!r}, which is no number")
