"""Whole networks on a server behind TVM's RPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, TypeVar

import numpy as np

from alt.arrays import Signature
from alt.errors import AltError
from alt.linker import linked
from alt.memory import aligned_empty
from alt.module import WARM_CALLS, Benchmark, Module, random_inputs, seconds_between
from alt.servers import Servers
from alt.session import LostError, Session

Name = TypeVar("Name")

SESSION_SECONDS = 3600.0
"""Whatever is done with deployed networks takes no longer."""


class Deployed(Module):
    """A compiled network that runs on a server: call it or time it as if it were here.

    Args:
        module: compiled for the server; it need not be one that can run here.
        session: on the server.
        name: that nothing else in this session has.
    """

    def __init__(self, module: Module, session: Session, name: str) -> None:
        """Send code and weights, and give it memory."""
        header = module.header
        self.header = header
        self.inputs, self.outputs = module.inputs, module.outputs
        self.threads = module.threads
        self._session = session
        file, code = linked(module.library, header["target"])
        # A library that is loaded must not be overwritten by the next one.
        self._code = session.load(f"{name}-{file}", code)
        arena = aligned_empty(header["arena_bytes"])
        self._fixed = [session.place(module.weights), session.place(arena, copied=False)]

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the network on NumPy arrays."""
        given = dict(zip((s.name for s in self.inputs), self._match(args, named), strict=True))
        tensors = self._tensors(given)
        self._code["main"](*tensors)
        first = len(self.inputs)
        found = [
            tensors[first + n].numpy()[: prod(s.shape)].reshape(s.shape)
            for n, s in enumerate(self.outputs)
        ]
        return found[0] if len(found) == 1 else tuple(found)

    def benchmark(
        self,
        repeats: int = 30,
        inputs: Mapping[str, np.ndarray] | None = None,
        min_seconds: float = 0.0,
    ) -> Benchmark:
        """As `Module.benchmark`, by the server's clock."""
        tensors = self._tensors(random_inputs(self.inputs) if inputs is None else inputs)
        samples: list[float] = []
        while not samples or sum(samples) < min_seconds:
            samples += self._session.time(self._code, tensors, 1, repeats)
        return Benchmark(tuple(samples))

    def time_kernels(
        self, repeats: int = 10, inputs: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """As `Module.time_kernels`, by the server's clock."""
        tensors = self._tensors(random_inputs(self.inputs) if inputs is None else inputs)
        kernels = len(self.header["kernels"])
        stamps = self._session.place(np.zeros(2 * kernels + 2, "int64"))
        profile = self._code["profile"]
        found = np.empty((max(repeats, 1), kernels))
        for call in range(-WARM_CALLS, len(found)):
            profile(*tensors, stamps)
            if call >= 0:
                found[call] = seconds_between(stamps.numpy())
        return found

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Every argument of the compiled function."""
        made = [self._session.place(_flat(s, inputs[s.name])) for s in self.inputs]
        return [
            *made,
            *(self._session.place(_flat(s), copied=False) for s in self.outputs),
            *self._fixed,
        ]


def _flat(signature: Signature, content: np.ndarray | None = None) -> np.ndarray:
    """The array that compiled code takes: of one dimension, never without elements."""
    flat = np.zeros(max(prod(signature.shape), 1), signature.dtype)
    if content is not None:
        flat[: content.size] = content.reshape(-1)
    return flat


@contextmanager
def deployed(
    modules: Mapping[Name, Module], servers: Servers, wait_seconds: float
) -> Iterator[dict[Name, Deployed]]:
    """Networks on one server, which nobody else uses meanwhile.

    Args:
        modules: networks by name, all for the same threads.
        servers: where one is to be free.
        wait_seconds: how long to wait for that.

    Raises:
        AltError: if none becomes free, or the one that did goes away.
    """
    session = servers.open(wait_seconds, SESSION_SECONDS)
    try:
        with session.translated():
            session.use_threads(max(module.threads for module in modules.values()))
            yield {name: Deployed(m, session, str(name)) for name, m in modules.items()}
    except LostError as cause:
        raise AltError(
            f"{cause} while the whole network ran; what was measured before is kept: see that "
            "the server runs, then run the same again"
        ) from cause
