"""What measurements are good for: the headers of logs, and which one a network is replayed from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from itertools import chain
from typing import Any

from alt.cuda.code import device_refusal
from alt.cuda.gpu import Gpu, device_of
from alt.features import NAMES
from alt.gpu_features import NAMES as GPU_NAMES
from alt.messages import Timing
from alt.target import Hardware
from tuner.errors import TuningError
from tuner.experience import FEATURES
from tuner.log import TuningLog
from tuner.records import Header, Record

_CACHES = ("flush_bytes", "cold_weights")
"""What `Timing.caches` may hold."""


def header_of(
    machine: Hardware, threads: int, device: str = "", timing: Timing | None = None
) -> Header:
    """What measurements on this machine are good for.

    Args:
        machine: what was compiled for.
        threads: of a CPU.
        device: the name of the GPU that is there, or of the processor; empty if it is not known.
        timing: how candidates are timed. With caches that are not as a network leaves them, what is
            measured is something else.
    """
    names = GPU_NAMES if isinstance(machine, Gpu) else NAMES
    versions = {
        "alt": metadata.version("alt-compiler"),
        "tvm": metadata.version("apache-tvm"),
        FEATURES: hashlib.sha256("\n".join(names).encode()).hexdigest()[:10],
    }
    if isinstance(machine, Gpu):
        target: dict[str, Any] = {
            "kind": "cuda",
            "arch": machine.arch,
            "device": device,
            "cores": machine.cores,
            "precision": machine.precision,
        }
    else:
        target = {**machine.description, "cores": machine.cores, "threads": threads}
        versions |= {"cpu": device} if device else {}
    return Header({**target, **(timing or Timing()).caches}, versions)


def header_for_replay(
    log: TuningLog, machine: Hardware, threads: int, device: int | str | None = None
) -> Header:
    """The header whose measurements a network is to be replayed from, up to the state of caches.

    The number of multiprocessors of a GPU may differ: it is what defaults depend on, and a log has
    all answers. For a GPU that is not here, measurements of any GPU of its kind will do, if they
    are of one.

    Args:
        log: with measurements.
        machine: what is compiled for.
        threads: of a CPU.
        device: the GPU that the network will run on; the first one by default.

    Raises:
        TuningError: if there is no GPU here, and the log is of several that would fit.
    """
    if not isinstance(machine, Gpu):
        return header_of(machine, threads)
    here = device_of(device)
    is_here = device_refusal(machine.arch, here) is None
    own = header_of(machine, threads, str(here.device_name) if is_here else "")
    fitting = {
        h.target_id: h
        for h in map(_plain, log.headers.values())
        if _kind(h) == _kind(own) and (not is_here or h.target["device"] == own.target["device"])
    }
    if own.target_id in fitting:
        return own
    if len(fitting) > 1:
        names = ", ".join(sorted(_named(header) for header in fitting.values()))
        raise TuningError(
            f"replay of the log {log.path}: it was measured on {names}, and none of them is here "
            "to say which is meant; give a log of one of them"
        )
    return next(iter(fitting.values()), own)


def with_caches(header: Header, log: TuningLog, keys: Mapping[str, object], whole: str) -> Header:
    """The header with caches as they were left when most of a network was measured.

    What was measured with caches in different states is not compared: all that a network is
    replayed from is of one. It is the one in which most of its tasks were; of several the one in
    which the whole network was timed last, as tuning it does in the end.

    Args:
        header: with caches as a network leaves them, see `header_for_replay`.
        log: with measurements.
        keys: of the network's tasks.
        whole: the key of the network.
    """
    ways = {h.target_id: h for h in log.headers.values() if _plain(h).target_id == header.target_id}
    if ways.keys() <= {header.target_id}:
        return header

    def known(way: Header) -> tuple[int, float, float]:
        def of(key: str) -> list[Record]:
            return [r for r in log.of_task(key) if r.target == way.target_id]

        def last(records: Iterable[Record]) -> float:
            return max((r.time.timestamp() for r in records), default=0.0)

        measured = [of(key) for key in keys]
        tasks = sum(any(r.measurement.ok for r in records) for records in measured)
        return tasks, last(of(whole)), last(chain.from_iterable(measured))

    return max((header, *ways.values()), key=known)


def _plain(header: Header) -> Header:
    """The header that it would be with caches as a network leaves them."""
    target = {name: value for name, value in header.target.items() if name not in _CACHES}
    return header if len(target) == len(header.target) else replace(header, target=target, text="")


def _kind(header: Header) -> dict[str, Any]:
    """What code was measured for, whichever GPU of that kind it ran on."""
    return {k: v for k, v in header.target.items() if k not in ("device", "cores")}


def _named(header: Header) -> str:
    return f"{header.target['device']} ({header.target['cores']} multiprocessors)"
