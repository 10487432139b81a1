"""What the tests of the command line share: `python -m alt` as a process, and small models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """For processes that import these packages."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def alt(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m alt` in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "alt", *map(str, arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_refused(
    result: subprocess.CompletedProcess[str], *mentioned: str, folder: Path, left: set[str]
) -> None:
    """One line on standard error that mentions what matters, exit code 1, no new files."""
    errors = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("alt: error: ")
    assert "internal error" not in errors[0]
    for text in mentioned:
        assert text in errors[0]
    assert result.returncode == 1
    assert result.stdout == ""
    assert {path.name for path in folder.iterdir()} == left


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes, inputs, outputs, initializers=(), domains=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def convolution(batch=1):
    """`x` through a convolution and a ReLU to `y`; its weights are 8x3x3x3."""
    weights = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    shape = [batch, None, 8, 8]
    return model_of(
        nodes,
        [value("x", [batch, 3, 8, 8])],
        [value("y", shape)],
        [numpy_helper.from_array(weights, "w")],
    )
