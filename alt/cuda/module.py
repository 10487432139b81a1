"""The callable that users hold, for networks on a GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from alt.arrays import Signature, as_input, like_example, require_match
from alt.cuda.callers import is_on_device, refusals, torch_of
from alt.cuda.code import CudaCode, device_refusal
from alt.cuda.driver import driver
from alt.cuda.gpu import device_of, precision_text
from alt.cuda.graphs import Graphs
from alt.errors import AltError
from alt.module import Benchmark, Module, random_inputs

_ALIGNMENT = 16
"""Bytes that a thread reads or writes at once."""


class CudaModule(Module):
    """A network compiled for a GPU.

    Called with NumPy arrays it copies them to the device and the results back; tensors that are on
    the device already (torch, or any other that speaks DLPack) are read where they lie, and the
    results are tensors of their kind on the device. Those are there when the work that was started
    on the current stream is done, as with any operator of torch.

    From the second call on the same memory on, the whole network is one CUDA graph. Who records
    graphs with torch may record calls of a module, too, once it has been called.

    Calls from several threads are safe; they take turns.
    """

    def __init__(
        self,
        code: CudaCode,
        weights: np.ndarray,
        header: Mapping[str, Any],
        device: int | str | None = None,
        stored: tuple[str, np.ndarray] | None = None,
        cuda_graph: bool = True,
    ) -> None:
        """Put the parts together; users call `alt.compile` or `alt.load`.

        Nothing is done on the device before the first call.

        Args:
            code: host code and kernels.
            weights: the constants as the kernels read them.
            header: what else is known, plain data: see `alt.artifact`.
            device: the GPU to run on, by number or name; the first one by default.
            stored: name and content of the host code as it was stored, if it was loaded.
            cuda_graph: whether to replay the network as a CUDA graph.
        """
        self.header = header
        self.inputs = tuple(Signature.parse(s) for s in header["inputs"])
        self.outputs = tuple(Signature.parse(s) for s in header["outputs"])
        self.threads = 1
        self.library = code.host
        self.cuda = code
        self.weights = weights
        self.images = code.images
        self.code = stored
        self.device = device_of(device)
        self._lock = threading.Lock()
        self._graphs: Graphs | None = None
        self._use_graphs = cuda_graph and len(header["kernels"]) > 1
        self._fixed: list[Any] = []
        self._staging: dict[tuple[str, Signature], Any] = {}
        self._stream: int | None = None
        self._context = 0

    @property
    def runs_on(self) -> str:
        """The device, in words."""
        target = self.header["target"]
        multiplied = target.get("precision", "fp32")  # artifacts had none once
        precision = precision_text(target.get("asked_precision", multiplied), multiplied)
        return f"GPU {self.device.index} ({target['arch']}, {precision})"

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the network.

        Raises:
            AltError: if an input is missing, unknown, of another shape or dtype, or on another
                device; if there is no GPU that this was compiled for, or its memory is too small.
        """
        given = self._match(args, named)
        placed = next((a for a in given if is_on_device(a)), None)
        like = next((a for a in given if not isinstance(a, np.ndarray)), None)
        with self._lock, self._working(placed):
            tensors = [self._input(a, s) for a, s in zip(given, self.inputs, strict=True)]
            found = [self._output(s, placed) for s in self.outputs]
            self._start([*tensors, *(tensor for tensor, _ in found)])
            results = [finish() for _, finish in found]
        if like is not None and placed is None:
            results = [like_example(like, r) for r in results]
        return results[0] if len(results) == 1 else tuple(results)

    def _start(self, tensors: Sequence[Any]) -> None:
        """Let the network work on inputs and outputs, on the current stream."""
        assert self._graphs is not None
        self._graphs.run([*tensors, *self._fixed], len(tensors), self._stream or 0)

    def _require_runnable(self) -> None:
        reason = device_refusal(self.header["target"]["arch"], self.device)
        if reason is not None:
            raise AltError(
                f"this module cannot run here: {reason}; save it, and load it where it can"
            )

    def _prepare(self) -> None:
        """Bring code and constants to the device."""
        library = self.cuda.linked()
        self._fixed = [self._place(self.weights), self._room(self.header["arena_bytes"], "uint8")]
        self._graphs = Graphs(library["main"], self.device, self._use_graphs)

    # --- memory ---------------------------------------------------------------------------------

    def _room(self, elements: int, dtype: str) -> Any:
        """Memory on the device.

        Raises:
            AltError: if there is not enough.
        """
        try:
            return tvm.runtime.empty((max(elements, 1),), dtype, self.device)
        except Exception as error:
            if "out of memory" not in str(error):
                raise
            size = elements * np.dtype(dtype).itemsize
            free = self.device.available_global_memory
            raise AltError(
                f"{self.runs_on} has no {size / 1e6:.0f} MB left for this network: "
                f"{(free or 0) / 1e6:.0f} MB are free; free some, use a smaller batch or another "
                "device"
            ) from error

    def _place(self, array: np.ndarray) -> Any:
        """A copy of an array on the device."""
        tensor = self._room(array.size, str(array.dtype))
        tensor.copyfrom(array)
        return tensor

    def _staged(self, role: str, signature: Signature) -> Any:
        """Memory for an input or output of callers who have theirs on the host."""
        key = role, signature
        if key not in self._staging:
            self._staging[key] = self._room(prod(signature.shape), signature.dtype)
        return self._staging[key]

    def _input(self, given: Any, signature: Signature) -> Any:
        """An input where the kernels can read it; copied only where it must be."""
        if is_on_device(given):
            return self._device_input(given, signature)
        array = as_input(given, signature)
        tensor = self._staged("in", signature)
        if self._stream:  # TVM copies on the default one: the last call may still be reading
            self.device.sync(self._stream)
        tensor.copyfrom(array)
        return tensor

    def _device_input(self, given: Any, signature: Signature) -> Any:
        _, index = given.__dlpack_device__()
        if index != self.device.index:
            raise AltError(
                f"input {signature.name!r} is on GPU {index}, and this module runs on "
                f"{self.runs_on}; move it, or load the module with device={index}"
            )
        size = prod(signature.shape)
        if torch_of(given) is not None:
            given = given.detach().contiguous()
            if given.data_ptr() % _ALIGNMENT and size:
                given = given.clone()
        try:
            tensor: Any = tvm_ffi.from_dlpack(given, require_alignment=0, require_contiguous=True)
        except (AttributeError, TypeError, BufferError, RuntimeError, ValueError) as cause:
            raise AltError(
                f"input {signature.name!r}: {type(given).__name__} cannot be read in place: {cause}"
            ) from cause
        require_match(signature, str(tensor.dtype), tuple(tensor.shape))
        if not size:
            return self._room(1, signature.dtype)
        if tensor.data_ptr() % _ALIGNMENT:
            copy = self._room(size, signature.dtype)
            tensor.copyto(copy)
            return copy
        return tensor._create_view((size,))

    def _output(self, signature: Signature, placed: Any) -> tuple[Any, Callable[[], Any]]:
        """Memory for an output, and what makes of it what the caller gets."""
        shape, size = signature.shape, prod(signature.shape)
        if placed is None:
            tensor = self._staged("out", signature)
            return tensor, lambda: tensor.numpy()[:size].reshape(shape)
        torch = torch_of(placed)
        if torch is not None:
            # Its memory comes from a pool: asking the driver takes longer than most kernels.
            dtype = getattr(torch, signature.dtype)
            made = torch.empty((max(size, 1),), dtype=dtype, device=placed.device)
            return tvm.runtime.from_dlpack(made), lambda: made[:size].reshape(shape)
        tensor = self._room(size, signature.dtype)
        view = tensor._create_view(shape) if size else tensor

        def finish() -> Any:
            if type(placed).__module__.partition(".")[0] not in ("tvm", "tvm_ffi"):
                self.device.sync(self._stream)  # who knows on which stream they go on
            return like_example(placed, view)

        return tensor, finish

    @contextmanager
    def _working(self, placed: Any = None) -> Iterator[None]:
        """The stream of the caller is TVM's; what else is changed is put back in the end.

        Args:
            placed: one of the inputs that are on the device; the default stream without one.
        """
        if self._graphs is None:
            self._require_runnable()
        torch = torch_of(placed)
        device = tvm_ffi.device("cuda", self.device.index)
        if torch is not None:
            stream = int(torch.cuda.current_stream(placed.device).cuda_stream)
        else:
            stream = 0 if placed is None else int(tvm_ffi.get_raw_stream(device))
        cuda = driver()
        before = cuda.context() if cuda is not None else 0
        recorded = cuda is not None and stream != 0 and cuda.is_recorded(stream)
        try:
            if self._stream not in (None, stream) and not recorded:
                # Two streams would work in the same memory at the same time.
                self.device.sync(self._stream)
            self._stream = stream
            with refusals(self.runs_on), tvm_ffi.use_raw_stream(device, stream):
                if self._graphs is None:
                    self._prepare()
                    self._context = cuda.context() if cuda is not None else 0
                if cuda is not None:  # kernels go there, and this may be another thread
                    cuda.make_current(self._context)
                yield
        finally:
            if cuda is not None:
                cuda.make_current(before)

    # --- time -----------------------------------------------------------------------------------

    def benchmark(
        self,
        repeats: int = 30,
        inputs: Mapping[str, np.ndarray] | None = None,
        min_seconds: float = 0.0,
    ) -> Benchmark:
        """As `Module.benchmark`: inputs are on the device, and the host waits for each call.

        What is timed is a CUDA graph where calls are one.
        """
        samples: list[float] = []
        with self._lock, self._measuring(inputs) as tensors:
            for _ in range(3):
                self._start(tensors)
            self.device.sync()
            while len(samples) < max(repeats, 1) or sum(samples) < min_seconds:
                start = time.perf_counter()
                self._start(tensors)
                self.device.sync()
                samples.append(time.perf_counter() - start)
        return Benchmark(tuple(samples))

    def time_kernels(
        self, repeats: int = 10, inputs: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Time every kernel, each some times in a row, by the device's clock.

        Shape and units as `Module.time_kernels`. What a kernel reads may still be in the cache.
        """
        with self._lock, self._measuring(inputs) as tensors:
            self._start(tensors)
            timer = self.library.time_evaluator("part", self.device, number=10, repeat=repeats)
            kernels = range(len(self.header["kernels"]))
            columns = [timer(*tensors, *self._fixed, k, k + 1).results for k in kernels]
        return np.array(columns, np.float64).reshape(len(columns), -1).T

    @contextmanager
    def _measuring(self, inputs: Mapping[str, np.ndarray] | None) -> Iterator[list[Any]]:
        """Inputs and outputs on the device."""
        given = dict(inputs) if inputs is not None else random_inputs(self.inputs)
        arrays = zip(self._match((), given), self.inputs, strict=True)
        with self._working():
            found = [self._input(a, s) for a, s in arrays]
            yield [*found, *(self._output(s, None)[0] for s in self.outputs)]
