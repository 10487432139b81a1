"""A search that is killed again and again loses nothing that it wrote, and does nothing twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_tuning import network

import alt
from tuner.log import TuningLog
from tuner.options import Options

pytestmark = [pytest.mark.llvm, pytest.mark.slow]

KILLS = 20

SEARCH = """
import sys
import alt
from tuner.options import Options
# Patience without end: it never comes to measuring the best again, which is no work done twice.
alt.tune(sys.argv[1], threads=1, log=sys.argv[2], options=Options(batch=4, patience=10**6, seed=1))
"""


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def killed_soon(model: Path, log: Path, wait: float) -> None:
    """Search, and end that without warning a while after the first new measurement."""
    before = size_of(log)
    process = subprocess.Popen([sys.executable, "-c", SEARCH, str(model), str(log)])
    try:
        deadline = time.monotonic() + 120
        while size_of(log) == before:
            assert process.poll() is None, "the search ended by itself"
            assert time.monotonic() < deadline, "nothing was measured"
            time.sleep(0.02)
        time.sleep(wait)
    finally:
        process.kill()
        process.wait()


def test_what_was_recorded_survives_kills_and_is_not_measured_again(tmp_path):
    proto, _ = network()
    model, log = tmp_path / "model.onnx", tmp_path / "log.jsonl"
    onnx.save(proto, model)
    rng = np.random.default_rng(0)
    known = b""
    for _ in range(KILLS):
        killed_soon(model, log, rng.uniform(0, 1.5))
        now = log.read_bytes()
        assert now.startswith(known) and len(now) > len(known)
        known = now[: now.rindex(b"\n") + 1]  # a line that was cut may be closed by the next run
    read = TuningLog.read(log)
    assert len(read.skipped) <= KILLS
    lines = [line for line in known.splitlines() if b'"task"' in line]
    assert len(read.records) >= len(lines) - len(read.skipped) > KILLS
    twice = {k: n for k, n in Counter((r.task, r.candidate) for r in read.records).items() if n > 1}
    assert not twice
    tuned = alt.tune(
        model, threads=1, log=log, trials=8, options=Options(batch=4, seed=1), verify=True
    )
    assert tuned.outcome.trials == 8
    again = TuningLog.read(log)
    assert list(again.records[: len(read.records)]) == list(read.records)
