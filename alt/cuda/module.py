"""The callable that users hold, for networks on a GPU."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from alt.arrays import Signature, as_input, like_example, require_match
from alt.cuda.code import CudaCode, device_of, device_refusal
from alt.cuda.gpu import precision_text
from alt.errors import AltError
from alt.module import Benchmark, Module, random_inputs

_DLPACK_CUDA = 2
_ALIGNMENT = 16
"""Bytes that a thread reads or writes at once."""


class CudaModule(Module):
    """A network compiled for a GPU.

    Called with NumPy arrays it copies them to the device and the results back; tensors that are on
    the device already (torch, or any other that speaks DLPack) are read where they lie, and the
    results are tensors of their kind on the device. Those are there when the work that was started
    on the current stream is done, as with any operator of torch.

    Calls from several threads are safe; they take turns.
    """

    def __init__(
        self,
        code: CudaCode,
        weights: np.ndarray,
        header: Mapping[str, Any],
        device: int | str | None = None,
        stored: tuple[str, np.ndarray] | None = None,
    ) -> None:
        """Put the parts together; users call `alt.compile` or `alt.load`.

        Nothing is done on the device before the first call.

        Args:
            code: host code and kernels.
            weights: the constants as the kernels read them.
            header: what else is known, plain data: see `alt.artifact`.
            device: the GPU to run on, by number or name; the first one by default.
            stored: name and content of the host code as it was stored, if it was loaded.
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
        self._run: Any = None
        self._fixed: list[Any] = []
        self._staging: dict[Signature, Any] = {}
        self._stream: int | None = None

    @property
    def runs_on(self) -> str:
        """The device, in words."""
        target = self.header["target"]
        precision = precision_text(target["asked_precision"], target["precision"])
        return f"GPU {self.device.index} ({target['arch']}, {precision})"

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the network.

        Raises:
            AltError: if an input is missing, unknown, of another shape or dtype, or on another
                device; if there is no GPU that this was compiled for, or its memory is too small.
        """
        given = self._match(args, named)
        like = next((a for a in given if not isinstance(a, np.ndarray)), None)
        on_device = like is not None and _device_type(like) == _DLPACK_CUDA
        with self._lock:
            self._prepare()
            with self._current_stream(like if on_device else None):
                pairs = zip(given, self.inputs, strict=True)
                tensors = [self._input(a, s) for a, s in pairs]
                found = [self._output(s, like if on_device else None) for s in self.outputs]
                self._run(*tensors, *(tensor for tensor, _ in found), *self._fixed)
                results = [finish() for _, finish in found]
        if like is not None and not on_device:
            results = [like_example(like, r) for r in results]
        return results[0] if len(results) == 1 else tuple(results)

    def _require_runnable(self) -> None:
        reason = device_refusal(self.header["target"]["arch"], self.device)
        if reason is not None:
            raise AltError(
                f"this module cannot run here: {reason}; save it, and load it where it can"
            )

    def _prepare(self) -> None:
        """Bring code and constants to the device, once."""
        if self._run is not None:
            return
        self._require_runnable()
        library = self.cuda.linked()
        fixed = [self._place(self.weights), self._room(self.header["arena_bytes"], "uint8")]
        self._fixed, self._run = fixed, library["main"]

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

    def _input(self, given: Any, signature: Signature) -> Any:
        """An input where the kernels can read it; copied only where it must be."""
        if not isinstance(given, np.ndarray) and _device_type(given) == _DLPACK_CUDA:
            return self._device_input(given, signature)
        array = as_input(given, signature)
        if signature not in self._staging:
            self._staging[signature] = self._room(array.size, signature.dtype)
        self._staging[signature].copyfrom(array)
        return self._staging[signature]

    def _device_input(self, given: Any, signature: Signature) -> Any:
        index = given.__dlpack_device__()[1]
        if index != self.device.index:
            raise AltError(
                f"input {signature.name!r} is on GPU {index}, and this module runs on "
                f"{self.runs_on}; move it, or load the module with device={index}"
            )
        if hasattr(given, "contiguous"):
            given = given.contiguous()
        try:
            tensor: Any = tvm_ffi.from_dlpack(given, require_alignment=0, require_contiguous=True)
        except (AttributeError, TypeError, BufferError, RuntimeError, ValueError) as cause:
            raise AltError(
                f"input {signature.name!r}: {type(given).__name__} cannot be read in place: {cause}"
            ) from cause
        require_match(signature, str(tensor.dtype), tuple(tensor.shape))
        size = prod(signature.shape)
        if not size:
            return self._room(1, signature.dtype)
        if tensor.data_ptr() % _ALIGNMENT:
            copy = self._room(size, signature.dtype)
            tensor.copyto(copy)
            return copy
        return tensor._create_view((size,))

    def _output(self, signature: Signature, like: Any) -> tuple[Any, Callable[[], Any]]:
        """Memory for an output, and what makes of it what the caller gets."""
        shape, size = signature.shape, prod(signature.shape)
        library = sys.modules.get("torch")
        if like is not None and library is not None and isinstance(like, library.Tensor):
            # Its memory comes from a pool: asking the driver takes longer than most kernels.
            made = library.empty(
                (max(size, 1),), dtype=getattr(library, signature.dtype), device=like.device
            )
            return tvm.runtime.from_dlpack(made), lambda: made[:size].reshape(shape)
        tensor = self._room(size, signature.dtype)
        if like is not None:
            view = tensor._create_view(shape) if size else tensor
            return tensor, lambda: like_example(like, view)
        return tensor, lambda: tensor.numpy()[:size].reshape(shape)

    def _current_stream(self, like: Any) -> AbstractContextManager[Any]:
        """The stream that the caller works on; the default one if that is not known."""
        library = sys.modules.get("torch")
        stream = 0
        if like is not None and library is not None and isinstance(like, library.Tensor):
            stream = int(library.cuda.current_stream(like.device).cuda_stream)
        if self._stream not in (None, stream):
            # Two streams would work in the same memory at the same time.
            self.device.sync(self._stream)
        self._stream = stream
        if not stream:
            return nullcontext()
        return tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", self.device.index), stream)

    # --- time -----------------------------------------------------------------------------------

    def benchmark(
        self,
        repeats: int = 30,
        inputs: Mapping[str, np.ndarray] | None = None,
        min_seconds: float = 0.0,
    ) -> Benchmark:
        """As `Module.benchmark`: inputs are on the device, and the host waits for each call."""
        samples: list[float] = []
        with self._lock:
            tensors = self._bound(inputs)
            for _ in range(3):
                self._run(*tensors)
            self.device.sync()
            while len(samples) < max(repeats, 1) or sum(samples) < min_seconds:
                start = time.perf_counter()
                self._run(*tensors)
                self.device.sync()
                samples.append(time.perf_counter() - start)
        return Benchmark(tuple(samples))

    def time_kernels(
        self, repeats: int = 10, inputs: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Time every kernel, each some times in a row, by the device's clock.

        Shape and units as `Module.time_kernels`. What a kernel reads may still be in the cache.
        """
        with self._lock:
            tensors = self._bound(inputs)
            self._run(*tensors)
            timer = self.library.time_evaluator("part", self.device, number=10, repeat=repeats)
            kernels = range(len(self.header["kernels"]))
            columns = [timer(*tensors, k, k + 1).results for k in kernels]
        return np.array(columns, np.float64).reshape(len(columns), -1).T

    def _bound(self, inputs: Mapping[str, np.ndarray] | None) -> list[Any]:
        self._prepare()
        given = dict(inputs) if inputs is not None else random_inputs(self.inputs)
        arrays = zip(self._match((), given), self.inputs, strict=True)
        found = [self._input(a, s) for a, s in arrays]
        return [*found, *(self._output(s, None)[0] for s in self.outputs), *self._fixed]


def _device_type(tensor: Any) -> int | None:
    """Where a tensor is, in DLPack's numbers; None if it does not say."""
    ask = getattr(tensor, "__dlpack_device__", None)
    return None if ask is None else int(ask()[0])
