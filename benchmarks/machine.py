"""What a reader must know about the machine to make sense of a time."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil

from alt.processor import model_here
from benchmarks.baselines import installed_versions


@dataclass(frozen=True)
class Machine:
    """Facts that are printed beside every table."""

    cpu: str
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]


def physical_cores() -> int:
    """Physical cores that this process may use.

    Example:
        >>> 1 <= physical_cores() <= os.cpu_count()
        True
    """
    logical = os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return max(1, min(physical, allowed))


def this_machine() -> Machine:
    """The facts of the machine that this runs on."""
    return Machine(
        cpu=model_here() or platform.machine(),
        physical_cores=physical_cores(),
        logical_cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=installed_versions(),
    )
