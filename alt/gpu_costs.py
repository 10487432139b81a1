"""What kernels on a GPU take in each format, estimated; all constants are from data sheets."""

from __future__ import annotations

from alt.cuda.gpu import Gpu
from alt.gpu_formats import Label
from alt.graph import Value
from alt.kernels import Kernel

CLOCK = 1.6e9
"""Cycles a second, about."""

MEMORY_BYTES_A_CYCLE = 12.0
"""What one multiprocessor gets from memory while all others read, too.

Source: data sheets of A100 (10) and H100 (14).
"""

LAUNCH_SECONDS = 3e-6
"""A kernel more: what the device does not do between two of them, and the tail of the first."""


def memory_seconds(count: int, gpu: Gpu) -> float:
    """How long it takes to read or write so many bytes."""
    return count / (MEMORY_BYTES_A_CYCLE * gpu.cores * CLOCK)


def conversion_seconds(value: Value, gpu: Gpu) -> float:
    """A kernel that reads a float32 tensor and writes it in another format."""
    return LAUNCH_SECONDS + memory_seconds(2 * 4 * value.size, gpu)


def kernel_seconds(kernel: Kernel, label: Label, gpu: Gpu) -> float:
    """What a kernel takes in its formats, beyond what it takes in all of them."""
    return 0.0
