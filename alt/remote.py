"""Measures candidates on other machines: TVM's RPC tracker hands out the servers.

On the machine with the tracker, then on each device:

    python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190
    TVM_NUM_THREADS=4 python -m tvm.exec.rpc_server --tracker tracker:9190 --key board

A server runs one candidate at a time; all servers of a key are used at once. Whoever reaches a
server can run anything there: keep them in a network that you trust. TVM 0.27's server ends when a
candidate ends its process: that costs the candidate, and the server has to be started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alt.compiler import Model
from alt.errors import AltError
from alt.messages import Job, Limits, Reply, Timing
from alt.policies import JOINT, LayoutPolicy
from alt.pool import Hand, Pool
from alt.remote_worker import NoDevice, RemoteJob
from alt.runner import Runner
from alt.servers import Servers
from alt.target import require_cpu, resolve

WAIT_SECONDS = 60.0
"""So long a candidate waits for a server."""

_LINK_SECONDS = 20.0
"""More than building and sending take beyond what the limits say."""


class RemoteRunner(Runner):
    """Builds candidates here, runs them on servers; see `alt.runner.Runner`.

    Args:
        model: as for `alt.compile`, like the options up to `layouts`.
        target: the machine that the servers run on; `"llvm"` if it is like this one.
        rpc: `host:port` of the tracker.
        key: of the servers.
        devices: how many servers to use at once; by default all that are registered now.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        threads: threads that candidates run on; one a core of the target by default.
        winograd: whether Winograd's algorithm may be used.
        layouts: which layouts there are.
        timing: how long and how often candidates run.
        limits: what they may take.
        wait_seconds: how long to wait for a server that is free.
        seed: makes the inputs that results are compared on.
        precision: what a GPU may multiply, as for `alt.compile`.

    Raises:
        AltError: if the model cannot be compiled, the tracker cannot be reached, there are fewer
            servers, or one of them cannot run a small function.
    """

    together = 1  # each is sent as a file of its own

    def __init__(
        self,
        model: Model,
        target: Any = "llvm",
        *,
        rpc: str,
        key: str,
        devices: int | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
        winograd: bool = True,
        layouts: str | LayoutPolicy = JOINT,
        timing: Timing | None = None,
        limits: Limits | None = None,
        wait_seconds: float = WAIT_SECONDS,
        seed: int = 0,
        precision: str = "fp32",
    ) -> None:
        if devices is not None and devices < 1:
            raise AltError(f"cannot measure on {devices} devices: give at least 1")
        self.servers = Servers.parse(rpc, key)
        registered = self.servers.require(devices)
        limits = limits or Limits().allowing(timing or Timing())
        self._wait_seconds = wait_seconds
        self._session_seconds = limits.run_seconds
        super().__init__(
            model,
            target,
            shapes=shapes,
            constants=constants,
            threads=threads or require_cpu(resolve(target, precision=precision)).cores,
            winograd=winograd,
            layouts=layouts,
            workers=devices or registered,
            timing=timing,
            # The server watches the candidate; this is for a server that does not answer.
            limits=replace(
                limits,
                build_seconds=limits.build_seconds + _LINK_SECONDS,
                run_seconds=wait_seconds + limits.run_seconds + _LINK_SECONDS,
            ),
            overlap=True,
            seed=seed,
            precision=precision,
        )
        try:
            self._require_working()
        except BaseException:
            self.close()
            raise

    def _start(self, job: Job, size: int) -> Pool:
        remote = RemoteJob(
            **vars(job),
            servers=self.servers,
            wait_seconds=self._wait_seconds,
            session_seconds=self._session_seconds,
        )
        return _RemotePool(remote, size)


class _RemotePool(Pool):
    """Workers that may find no device."""

    def wait(self) -> list[tuple[Hand, Reply, bool]]:
        found = super().wait()
        for _, reply, _ in found:
            if isinstance(reply, NoDevice):
                raise AltError(reply.message)
        return found
