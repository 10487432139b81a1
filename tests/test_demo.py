"""`make demo` on a small network: it ends well, and notices when it should not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from command_line import convolution, environment

import alt
from benchmarks import demo

pytestmark = pytest.mark.llvm


def test_every_step_passes_on_a_small_network(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--network", "light_squeezenet", "--rounds", "2"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for step in range(1, demo.STEPS + 1):
        assert f"[{step}/{demo.STEPS}]" in result.stdout
    assert "identical" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_in_the_fresh_process_are_noticed(tmp_path):
    onnx.save(convolution(), tmp_path / "model.onnx")
    module = alt.compile(tmp_path / "model.onnx", threads=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    expected, artifact = module(x), tmp_path / "model.alt"
    module.save(artifact)
    assert demo._runs_elsewhere(artifact, {"x": x}, [expected], 1)
    assert not demo._runs_elsewhere(artifact, {"x": x}, [np.nextafter(expected, 1)], 1)
    assert not demo._runs_elsewhere(artifact, {"x": x}, [], 1)
