"""What a log of measurements holds, and how it is written as lines of JSON.

A header line says on which machine and with which versions something was measured:

    {"log": "measurements", "schema": 1, "id": "5f1c…", "target": {…}, "versions": {…}}

Every other line is one measurement of one candidate. It names its task, target and header, so that
logs can be cut, joined and sorted by lines.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from tuner.errors import TuningError
from tuner.task import Candidate, Measurement

SCHEMA = 1
"""The version of the format that is written; older ones are read."""


@dataclass(frozen=True)
class Header:
    """Where measurements come from.

    Attributes:
        target: what decides which candidate is fastest, as JSON: processor and its features, cores
            and threads.
        versions: of the programs that measured, by name; as `features` that of what a cost model
            sees; and as `cpu` the model of the processor: it is no part of the target, as what is
            best on one of its kind is replayed on others.
        schema: version of the format.

    Example:
        >>> header = Header({"mcpu": "znver4", "threads": 2}, {"alt": "0.1.0"})
        >>> header.target_id, header.id
        ('9ba7e8c7f5', 'f67d57babf')
    """

    target: Mapping[str, Any]
    versions: Mapping[str, str]
    schema: int = SCHEMA
    text: str = field(default="", repr=False, compare=False)

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
        features: Sequence[float] = (),
    ) -> Record:
        """A record of what was measured under this header; arguments as in `Record`."""
        short = tuple(float(f"{value:.4g}") for value in features)
        return Record(task, candidate, measurement, when, self.target_id, self.id, name, short)

    @cached_property
    def line(self) -> str:
        """The header as JSON, without a newline: as it was read, or else as it is written."""
        if self.text:
            return self.text
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
        features: what a cost model saw of the candidate, where one learns: so it can learn from
            tasks that are in other networks only.

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
    features: tuple[float, ...] = ()
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
        if self.features:
            text["features"] = list(self.features)
        return json.dumps(text, allow_nan=False)


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _to_json(number: float | None) -> float | str | None:
    """A number as JSON, which knows no infinity."""
    if number is None:
        return None
    return float(number) if math.isfinite(number) else str(float(number))
