"""The contenders: ONNX Runtime, OpenVINO and our own compiler, set up the same way.

All of them run on the CPU in float32, one inference at a time on as many threads as asked, with
every graph optimisation that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class Contender(Protocol):
    """Something that compiles an ONNX file and runs it; each lives in a process of its own."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        ...

    def load(self) -> None:
        """Import the runtime, which is not part of the compile time."""
        ...

    def prepare(self, model: Path, threads: int) -> None:
        """Compile `model`, for `threads` threads; timed as the compile time."""
        ...

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """One inference; outputs in the model's order, valid until the next call."""
        ...


@dataclass
class OnnxRuntime:
    """ONNX Runtime's CPU provider.

    Its threads keep the default spinning, which is what makes it fastest; the protocol stops the
    process while others are measured.
    """

    name: str = "onnxruntime"
    _runtime: Any = field(default=None, repr=False)
    _session: Any = field(default=None, repr=False)

    def load(self) -> None:
        import onnxruntime

        self._runtime = onnxruntime

    def prepare(self, model: Path, threads: int) -> None:
        runtime = self._runtime
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        return self._session.run(None, inputs)


@dataclass
class OpenVINO:
    """OpenVINO's CPU plugin with the latency hint and without reduced precision.

    Inputs and outputs are shared, not copied.
    """

    name: str = "openvino"
    _runtime: Any = field(default=None, repr=False)
    _request: Any = field(default=None, repr=False)

    def load(self) -> None:
        import openvino

        self._runtime = openvino

    def prepare(self, model: Path, threads: int) -> None:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = self._runtime.Core().compile_model(str(model), "CPU", options)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        return list(results.values())


@dataclass
class Ours:
    """`alt.compile`, without tuning."""

    name: str = "ours"
    _runtime: Any = field(default=None, repr=False)
    _module: Any = field(default=None, repr=False)

    def load(self) -> None:
        import alt

        self._runtime = alt

    def prepare(self, model: Path, threads: int) -> None:
        self._module = self._runtime.compile(str(model), target="llvm", threads=threads)

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        outputs = self._module(**inputs)
        if isinstance(outputs, dict):
            return list(outputs.values())
        return outputs if isinstance(outputs, (list, tuple)) else [np.asarray(outputs)]


CONTENDERS: dict[str, type[Ours | OnnxRuntime | OpenVINO]] = {
    "ours": Ours,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVINO,
}
BASELINES = tuple(name for name in CONTENDERS if name != "ours")


def installed_versions() -> dict[str, str]:
    """Versions of what takes part in a comparison, as installed."""
    versions: dict[str, str] = {}
    for package in ("alt-compiler", "apache-tvm", "onnxruntime", "openvino", "onnx", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
