"""Devices behind TVM's RPC tracker: who is there, and a session on one of them.

TVM's own client of the tracker waits without end, for the tracker and for a server. This one speaks
the same protocol over `tvm.rpc.base` with time-outs; the sessions are TVM's.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import rpc
from tvm.rpc import base

from alt.errors import AltError
from alt.session import Session

TRACKER_SECONDS = 5.0
"""The tracker answers at once, or not at all."""


@dataclass(frozen=True)
class Counts:
    """What the tracker knows of a key.

    Attributes:
        registered: servers, whether they have a session or not.
        free: servers that wait for one.
        waiting: requests for one.
    """

    registered: int
    free: int
    waiting: int

    def __str__(self) -> str:
        return f"{self.registered} registered, {self.free} free, {self.waiting} waiting for one"


@dataclass(frozen=True)
class Servers:
    """All servers that registered under a key at a tracker.

    Example:
        >>> servers = Servers.parse("192.168.0.7:9190", "board")
        >>> servers.host, servers.port, servers.tracker
        ('192.168.0.7', 9190, '192.168.0.7:9190')

    Attributes:
        host: of the tracker.
        port: of the tracker.
        key: what the servers were started with.
    """

    host: str
    port: int
    key: str

    @staticmethod
    def parse(rpc: str, key: str) -> Servers:
        """The servers of a key at `host:port`.

        Raises:
            AltError: if that is no address, or the key is empty.
        """
        host, colon, port = rpc.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
            raise AltError(f"{rpc!r} is not the address of a tracker: give host:port")
        if not key:
            raise AltError(f"tracker {rpc} has servers by key: give the key they were started with")
        return Servers(host, int(port), key)

    @property
    def tracker(self) -> str:
        """Its address."""
        return f"{self.host}:{self.port}"

    def counts(self) -> Counts:
        """Ask the tracker.

        Raises:
            AltError: if it cannot be reached.
        """
        with self._tracker(TRACKER_SECONDS) as channel:
            base.sendjson(channel, [base.TrackerCode.SUMMARY])
            _, summary = base.recvjson(channel)
        named = [info["key"] for info in summary["server_info"]]
        queue = summary["queue_info"].get(self.key, {"free": 0, "pending": 0})
        return Counts(named.count(f"server:{self.key}"), queue["free"], queue["pending"])

    def require(self, devices: int | None = None) -> int:
        """How many servers there are.

        Args:
            devices: how many there have to be; one by default.

        Raises:
            AltError: if the tracker cannot be reached, or has fewer.
        """
        counts = self.counts()
        if counts.registered < (devices or 1):
            raise AltError(
                f"{devices or 1} servers of key {self.key!r} are needed, tracker {self.tracker} "
                f"has {counts}: start them with python -m tvm.exec.rpc_server "
                f"--tracker {self.tracker} --key {self.key}"
            )
        return counts.registered

    def open(self, wait_seconds: float, session_seconds: float) -> Session:
        """A session on whichever server is free first; nobody else uses it meanwhile.

        Args:
            wait_seconds: how long to wait for one.
            session_seconds: the server ends the session after this time.

        Raises:
            AltError: if the tracker cannot be reached, or no server becomes free.
        """
        end = time.monotonic() + wait_seconds
        failed = ""
        while (left := end - time.monotonic()) > 0:
            try:
                with self._tracker(left) as channel:
                    base.sendjson(channel, [base.TrackerCode.REQUEST, self.key, "", 1])
                    _, (host, port, match) = base.recvjson(channel)
            except OSError:
                continue  # the time is over, or the tracker was started anew
            try:
                # It is sent as text; the server reads a float.
                seconds: Any = session_seconds
                remote = rpc.connect(host, port, match, session_timeout=seconds)
            except Exception as problem:  # noqa: BLE001 - TVM raises several kinds
                # The tracker did not know yet that this one is gone.
                failed = f"; {host}:{port} did not answer: {str(problem).strip().splitlines()[-1]}"
                time.sleep(0.1)
            else:
                return Session(f"{host}:{port}", remote, session_seconds)
        raise AltError(
            f"no server of key {self.key!r} became free within {wait_seconds:g} s; tracker "
            f"{self.tracker} has {self.counts()}{failed}: start one, or wait for the others"
        )

    @contextmanager
    def _tracker(self, seconds: float) -> Iterator[socket.socket]:
        """A connection on which nothing takes longer than that."""
        try:
            channel = socket.create_connection((self.host, self.port), TRACKER_SECONDS)
        except OSError as cause:
            raise AltError(
                f"no tracker at {self.tracker} ({cause.strerror or cause}): start one with "
                f"python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {self.port}"
            ) from cause
        with channel:
            channel.settimeout(TRACKER_SECONDS)
            magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
            try:
                channel.sendall(magic)
                same = base.recvall(channel, len(magic)) == magic
            except OSError:
                same = False
            if not same:
                raise AltError(f"what listens at {self.tracker} is not TVM's RPC tracker")
            channel.settimeout(seconds)
            yield channel
