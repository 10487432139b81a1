"""The callable that users hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from alt.arrays import Signature, as_input, empty, like_example, tensor_of
from alt.errors import AltError
from alt.memory import aligned_empty
from alt.processor import refusal
from alt.target import physical_cores
from alt.threads import use_threads

WARM_CALLS = 3
"""So many calls before those that are timed."""


@dataclass(frozen=True)
class Benchmark:
    """Wall-clock times of whole calls, inputs already in place.

    Units:
        Seconds.
    """

    samples_seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        """The time to quote."""
        return float(np.median(self.samples_seconds))

    @property
    def p10_seconds(self) -> float:
        """A tenth of the calls are at least this fast."""
        return float(np.quantile(self.samples_seconds, 0.1))

    @property
    def p90_seconds(self) -> float:
        """A tenth of the calls are at least this slow."""
        return float(np.quantile(self.samples_seconds, 0.9))

    def __str__(self) -> str:
        return (
            f"{self.median_seconds * 1e3:.3f} ms (p10 {self.p10_seconds * 1e3:.3f}, "
            f"p90 {self.p90_seconds * 1e3:.3f}, {len(self.samples_seconds)} calls)"
        )


def seconds_between(stamps: np.ndarray) -> np.ndarray:
    """The seconds of every kernel from what `profile` stores.

    Args:
        stamps: seconds and nanoseconds before the first kernel and after each.
    """
    passed = np.diff(stamps.reshape(-1, 2), axis=0)
    return passed[:, 0] + passed[:, 1] * 1e-9


def random_inputs(signatures: Sequence[Signature], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs of the right shapes: normal floats, zeros and ones for whole numbers."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for s in signatures:
        if np.dtype(s.dtype).kind in "iub":
            made[s.name] = rng.integers(0, 2, s.shape).astype(s.dtype)
        else:
            made[s.name] = rng.standard_normal(s.shape).astype(s.dtype)
    return made


class Module:
    """A compiled network.

    Call it with one array an input, by position or by name; NumPy arrays give NumPy arrays, other
    DLPack tensors (torch, for instance) give tensors of their kind. One output comes as it is,
    several as a tuple.

    Calls from several threads are safe; they take turns.
    """

    images: Sequence[Any] = ()
    """Machine code for another processor than the host."""

    def __init__(
        self,
        library: Any,
        weights: np.ndarray,
        header: Mapping[str, Any],
        threads: int | None = None,
        code: tuple[str, np.ndarray] | None = None,
    ) -> None:
        """Put the parts together; users call `alt.compile` or `alt.load`.

        Args:
            library: gives functions by name; `main` takes inputs, outputs, weights and arena.
            weights: the constants as the kernels read them, aligned bytes.
            header: what else is known, plain data: see `alt.artifact`.
            threads: threads to run on; one a physical core by default.
            code: name and content of the library as it was stored, if it was loaded.
        """
        self.header = header
        self.inputs = tuple(Signature.parse(s) for s in header["inputs"])
        self.outputs = tuple(Signature.parse(s) for s in header["outputs"])
        self.threads = threads or physical_cores()
        self.library = library
        self.weights = weights
        self.code = code
        self._refusal = refusal(header["target"])
        if self._refusal is None:
            self._run = library["main"]
            self._arena = aligned_empty(header["arena_bytes"])
            self._fixed = [tvm.runtime.from_dlpack(a) for a in (weights, self._arena)]
        self._lock = threading.Lock()

    @property
    def runs_on(self) -> str:
        """What of the machine it uses, in words."""
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the network.

        Raises:
            AltError: if an input is missing, unknown, or of another shape or dtype.
        """
        given = self._match(args, named)
        like = next((a for a in given if not isinstance(a, np.ndarray)), None)
        arrays = [as_input(a, s) for a, s in zip(given, self.inputs, strict=True)]
        outputs = [empty(s) for s in self.outputs]
        self._require_runnable()
        with self._lock:
            use_threads(self.threads, max(physical_cores(), self.threads))
            self._run(*map(tensor_of, arrays), *map(tensor_of, outputs), *self._fixed)
        shaped = [o.reshape(s.shape) for o, s in zip(outputs, self.outputs, strict=True)]
        if like is not None:
            shaped = [like_example(like, o) for o in shaped]
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    def _require_runnable(self) -> None:
        if self._refusal is not None:
            raise AltError(
                f"this module cannot run here: {self._refusal}; save it, and load it where it can"
            )

    def _match(self, args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        expected = ", ".join(map(str, self.inputs))
        if len(args) > len(self.inputs):
            raise AltError(
                f"called with {len(args)} inputs; the model takes {len(self.inputs)}: {expected}"
            )
        names = [s.name for s in self.inputs]
        for name in named:
            if name not in names:
                raise AltError(f"there is no input {name!r}; the model takes {expected}")
        found: list[Any] = []
        for position, signature in enumerate(self.inputs):
            if position < len(args):
                if signature.name in named:
                    raise AltError(f"input {signature.name!r} is given twice")
                found.append(args[position])
            elif signature.name in named:
                found.append(named[signature.name])
            else:
                raise AltError(f"input {signature.name!r} is missing; the model takes {expected}")
        return found

    def benchmark(
        self,
        repeats: int = 30,
        inputs: Mapping[str, np.ndarray] | None = None,
        min_seconds: float = 0.0,
    ) -> Benchmark:
        """Time whole calls.

        Args:
            repeats: calls to time, after a few that are not.
            inputs: arrays by name; seeded random ones if not given.
            min_seconds: go on until this much time has been measured.
        """
        tensors = self.bound(inputs)
        samples: list[float] = []
        spent = 0.0
        with self._lock:
            use_threads(self.threads, max(physical_cores(), self.threads))
            for _ in range(WARM_CALLS):
                self._run(*tensors)
            while len(samples) < max(repeats, 1) or spent < min_seconds:
                start = time.perf_counter()
                self._run(*tensors)
                samples.append(time.perf_counter() - start)
                spent += samples[-1]
        return Benchmark(tuple(samples))

    def time_kernels(
        self, repeats: int = 10, inputs: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Time every kernel within whole calls, so with the caches as they are there.

        Args:
            repeats: calls to time, after a few that are not.
            inputs: arrays by name; seeded random ones if not given.

        Shape:
            (repeats, kernels), kernels in the order of `header["kernels"]`.

        Units:
            Seconds; reading the clock costs some 30 ns, which are part of each.
        """
        kernels = len(self.header["kernels"])
        tensors = self.bound(inputs)
        stamps = aligned_empty((kernels + 1) * 16).view("int64")
        found = np.empty((max(repeats, 1), kernels))
        profile = self.library["profile"]
        with self._lock:
            use_threads(self.threads, max(physical_cores(), self.threads))
            for call in range(-WARM_CALLS, len(found)):
                profile(*tensors, tensor_of(stamps))
                if call >= 0:
                    found[call] = seconds_between(stamps)
        return found

    def bound(self, inputs: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        """Every argument of `library["main"]`, for whoever has a clock of their own.

        Args:
            inputs: arrays by name; seeded random ones if not given.

        Returns:
            Inputs, outputs to be written, weights, and the memory of everything in between, which
            is the module's own: no call may run meanwhile.
        """
        self._require_runnable()
        given = dict(inputs) if inputs is not None else random_inputs(self.inputs)
        arrays = zip(self._match((), given), self.inputs, strict=True)
        found = [tensor_of(as_input(a, s)) for a, s in arrays]
        return [*found, *(tensor_of(empty(s)) for s in self.outputs), *self._fixed]

    def save(self, path: str | Path) -> None:
        """Write one file from which `alt.load` restores this module.

        Raises:
            AltError: if the file cannot be written; nothing half-written is left.
        """
        from alt.artifact import save

        save(self, path)

    def explain(self, repeats: int = 10) -> Any:
        """Measure every kernel and say how it is scheduled; see `alt.explain`."""
        from alt.explain import explain

        return explain(self, repeats)
