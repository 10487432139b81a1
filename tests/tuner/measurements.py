"""What the tests of the log share: headers and records, made from a few numbers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from tuner.config import Config
from tuner.log import TuningLog
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status

HEADER = Header({"mcpu": "znver4", "features": ["avx2", "fma"], "threads": 2}, {"alt": "0.1.0"})
OTHER = Header({"mcpu": "znver4", "features": ["avx2", "fma"], "threads": 8}, {"alt": "0.1.0"})
START = datetime(2025, 1, 31, 12, tzinfo=timezone.utc)


def candidate(number):
    layout = Config({"oc": 8 << number % 3, "border": bool(number % 2)})
    return Candidate(layout, Config({"unroll": number, "order": ("n", "c", "w")}))


def measured(milliseconds: float | Status):
    """A measurement of so many milliseconds, or of a status that is not ok."""
    if isinstance(milliseconds, Status):
        return Measurement(milliseconds, message="it is\nlike that")
    return Measurement(Status.ok, (milliseconds / 1e3,), error=2e-7, build_seconds=0.5)


def record(number, result: float | Status = 1.0, *, task="conv", at=0, header=HEADER):
    """A record of candidate `number`, measured `at` seconds after the start."""
    when = (START + timedelta(seconds=at)).isoformat()
    return header.record(task, candidate(number), measured(result), when, f"name of {task}")


def write(path: Path, *records, header=HEADER) -> Path:
    log = TuningLog.open(path, header)
    for each in records:
        assert log.append(each)
    return path


def dump(path: Path, *records, header=HEADER) -> Path:
    """The file that `write` leaves, without the waiting for the disk."""
    path.write_text("".join(f"{each.line}\n" for each in (header, *records)))
    return path


def numbers(log):
    return [each.candidate.loops["unroll"] for each in log.records]
