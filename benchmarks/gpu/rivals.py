"""The contenders on a GPU: all of them read inputs that lie on the device, in the same precision.

`fp32` is strict: no tensor core rounds its factors. With `tf32` and `fp16` they do, and inputs and
outputs stay float32 or integers. Layouts inside are free: PyTorch is tried with channels last, too,
and the faster of the two is what counts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.baselines import Arrays

RECORDED = 20
"""Calls of a product that one replay stands for."""

PRECISIONS = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2}
"""By name: the largest `relative_error` that counts as right."""


@dataclass
class OnDevice:
    """What all contenders share: placing inputs, and the device's clock.

    Attributes:
        precision: of products: `fp32`, `tf32` or `fp16`.
        device: `cuda`, or `cpu` to try the benchmark without one.
        recorded: whether calls are recorded once as a CUDA graph and its replays timed: what the
            host takes to start a kernel says nothing about the kernel.
    """

    precision: str = "fp32"
    device: str = "cuda"
    recorded: bool = False
    name: str = "?"
    needs: tuple[str, ...] = ()
    torch: Any = field(default=None, repr=False)
    _graph: Any = field(default=None, repr=False)

    @classmethod
    def absent(cls, device: str) -> str | None:
        """Why this cannot take part here, in words; None if it can."""
        missing = [n for n in cls().needs if importlib.util.find_spec(n) is None]
        return f"{' and '.join(missing)} not installed" if missing else None

    def load(self) -> None:
        """Import the runtimes."""
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)

    def prepare(self, model: Path, threads: int) -> None:
        """Compile."""
        raise NotImplementedError

    def place(self, inputs: Arrays) -> Any:
        """Inputs where inference finds them."""
        return [self.torch.from_numpy(a).to(self.device) for a in inputs.values()]

    def start(self, placed: Any) -> Any:
        """One inference; on a GPU it need not be done on return."""
        raise NotImplementedError

    def results(self, outputs: Any) -> list[NDArray[Any]]:
        """What `start` gave, on the host."""
        given = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [np.array(t.float().cpu().numpy()) for t in given]

    def run(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """One inference from the host and back."""
        return self.results(self.start(self.place(inputs)))

    def seconds(self, placed: Any, runs: int) -> float:
        """Seconds of each of some inferences in a row, by the device's clock."""
        if not self.recorded or self.device == "cpu":
            return self.time(lambda: self.start(placed), runs)
        if self._graph is None:
            self._graph = self._record(placed)
        return self.time(self._graph.replay, -(-runs // RECORDED)) / RECORDED

    def _record(self, placed: Any) -> Any:
        """Some inferences in a row as a CUDA graph."""
        cuda = self.torch.cuda
        graph, beside = cuda.CUDAGraph(), cuda.Stream()
        beside.wait_stream(cuda.current_stream())
        with cuda.stream(beside):
            for _ in range(3):
                self.start(placed)
        cuda.current_stream().wait_stream(beside)
        with cuda.graph(graph):
            for _ in range(RECORDED):
                self.start(placed)
        return graph

    def time(self, start: Callable[[], Any], runs: int) -> float:
        """Seconds of each of some calls in a row."""
        if self.device == "cpu":
            begin = time.perf_counter()
            for _ in range(runs):
                start()
            return (time.perf_counter() - begin) / runs
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        for _ in range(runs):
            start()
        events[1].record()
        events[1].synchronize()
        return events[0].elapsed_time(events[1]) / 1e3 / runs


@dataclass
class Ours(OnDevice):
    """`alt.compile`, or `alt.tune`.

    Attributes:
        layouts: which ones there are, by name.
        minutes: of tuning; none at all if 0.
        log: what was measured in tuning, and is not measured again; needed for tuning.
    """

    name: str = "ours"
    needs: tuple[str, ...] = ("torch",)
    layouts: str = "joint"
    minutes: float = 0.0
    log: Path | None = None
    _module: Any = field(default=None, repr=False)

    def prepare(self, model: Path, threads: int) -> None:
        import alt

        target = "llvm" if self.device == "cpu" else "cuda"
        # A CPU, with which the benchmark is tried, has one precision only.
        options: dict[str, Any] = {} if self.device == "cpu" else {"precision": self.precision}
        if self.minutes:
            assert self.log is not None, "the user's own log is no place for a benchmark's"
            tuned = alt.tune(
                model, target, minutes=self.minutes, log=self.log, layouts=self.layouts, **options
            )
            self._module = tuned.module
        else:
            self._module = alt.compile(str(model), target, layouts=self.layouts, **options)

    def start(self, placed: Any) -> Any:
        return self._module(*placed)


@dataclass
class Torch(OnDevice):
    """PyTorch, operator by operator, with its libraries told to try what is fastest.

    Attributes:
        tries_layouts: whether to try channels last, too.
    """

    name: str = "torch"
    tries_layouts: bool = True
    needs: tuple[str, ...] = ("torch",)
    _call: Any = field(default=None, repr=False)

    def prepare(self, model: Path, threads: int) -> None:
        torch = self.torch
        self.set_precision()
        loaded = onnx.load(model)
        shapes = [v.type.tensor_type.shape.dim for v in loaded.graph.input]
        images = any(len(shape) in (4, 5) for shape in shapes)
        probe = [
            torch.zeros(
                [d.dim_value for d in v.type.tensor_type.shape.dim],
                dtype=torch.float32 if v.type.tensor_type.elem_type == 1 else torch.int64,
                device=self.device,
            )
            for v in loaded.graph.input
        ]
        best: tuple[float, Any] | None = None
        for channels_last in (False, True) if images and self.tries_layouts else (False,):
            call = self.build(loaded, channels_last)
            for _ in range(3):
                call(*probe)
            seconds = min(self.time(lambda: call(*probe), 5) for _ in range(3))  # noqa: B023
            if best is None or seconds < best[0]:
                best = seconds, call
        assert best is not None
        self._call = best[1]

    def set_precision(self) -> None:
        """Say whether factors may be rounded, to all libraries."""
        torch = self.torch
        allowed = self.precision != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def build(self, model: onnx.ModelProto, channels_last: bool) -> Callable[..., Any]:
        """Something to call with the inputs."""
        from benchmarks.gpu.torch_network import torch_network  # imports torch

        dtype = self.torch.float16 if self.precision == "fp16" else self.torch.float32
        return torch_network(model, dtype, channels_last).to(self.device)

    def start(self, placed: Any) -> Any:
        return self._call(*placed)


@dataclass
class TorchCompile(Torch):
    """`torch.compile` with all it can try, weights frozen; layouts are its own choice."""

    name: str = "torch.compile"
    tries_layouts: bool = False

    def build(self, model: onnx.ModelProto, channels_last: bool) -> Callable[..., Any]:
        import torch._inductor.config as inductor

        inductor.freezing = True
        self.torch._dynamo.reset()
        mode = "default" if self.device == "cpu" else "max-autotune"
        return self.torch.compile(super().build(model, channels_last), mode=mode)


@dataclass
class Cublas(OnDevice):
    """The product of an operator alone, its factors in the precision and on the device already."""

    name: str = "cublas"
    needs: tuple[str, ...] = ("torch",)
    _weight: Any = field(default=None, repr=False)

    def prepare(self, model: Path, threads: int) -> None:
        Torch.set_precision(self)  # type: ignore[arg-type]
        loaded = onnx.load(model)
        ops = [node.op_type for node in loaded.graph.node]
        if ops != ["MatMul"]:
            raise ValueError("only for products")
        weight = onnx.numpy_helper.to_array(loaded.graph.initializer[0])
        self._weight = self.factor(weight)

    def factor(self, array: NDArray[Any]) -> Any:
        """A factor on the device."""
        dtype = self.torch.float16 if self.precision == "fp16" else self.torch.float32
        return self.torch.from_numpy(np.array(array)).to(self.device, dtype)

    def place(self, inputs: Arrays) -> Any:
        return [self.factor(a) for a in inputs.values()]

    def start(self, placed: Any) -> Any:
        return self.torch.matmul(placed[0], self._weight)


@dataclass
class Reference(OnDevice):
    """Float64 in PyTorch: what is right."""

    name: str = "reference"
    needs: tuple[str, ...] = ("torch",)
    _call: Any = field(default=None, repr=False)

    def prepare(self, model: Path, threads: int) -> None:
        from benchmarks.gpu.torch_network import torch_network  # imports torch

        self._call = torch_network(onnx.load(model), self.torch.float64).to(self.device)

    def start(self, placed: Any) -> Any:
        return self._call(*placed)
