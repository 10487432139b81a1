"""What kernels on a GPU take in each format, estimated; all constants are from data sheets."""

from __future__ import annotations

from math import prod

import numpy as np

from alt.cuda.gpu import Gpu
from alt.gpu_formats import COMPLEX, Format, Label, block_in, layout_in
from alt.gpu_winograd import bytes_moved, product_cycles
from alt.graph import Node, Value
from alt.kernels import Kernel
from alt.sketches.gpu.block_tile import (
    ALONE,
    SIDE_BY_SIDE,
    VECTOR,
    Work,
    decide_tile,
    estimate_cycles,
)
from alt.sketches.gpu.conv import tiles_well
from alt.sketches.gpu.depthwise import goes_by_channel
from alt.sketches.gpu.depthwise_channels import depthwise_of
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.tiling import Problem, choose_tile, cycles_of
from alt.sketches.gpu.warp_conv import goes_to_tensor_cores
from alt.sketches.windows import Phase, geometry, phases
from tuner.choices import Default

CLOCK = 1.6e9
"""Cycles a second, about."""

MEMORY_BYTES_A_CYCLE = 12.0
"""What one multiprocessor gets from memory while all others read, too.

Source: data sheets of A100 (10) and H100 (14).
"""

LAUNCH_SECONDS = 3e-6
"""A kernel more: what the device does not do between two of them, and the tail of the first."""

DOUBT = 1.5
"""Winograd's algorithm is taken where it seems this much faster: neither way has been timed."""

FIND_HELD = 3.0
"""Instructions to find an element of the input for tensor cores, whose threads know their places
and work out once a tap which of them exist."""

OTHER = 12.0
"""Instructions of a depthwise result beside its taps: its place, its epilogue, its store."""

ISSUED = 128.0
"""Instructions of threads that a multiprocessor issues in a cycle."""


def memory_seconds(count: int, gpu: Gpu) -> float:
    """How long it takes to read or write so many bytes."""
    return count / (MEMORY_BYTES_A_CYCLE * gpu.cores * CLOCK)


def conversion_seconds(value: Value, gpu: Gpu) -> float:
    """A kernel that reads a float32 tensor and writes it in another format."""
    return LAUNCH_SECONDS + memory_seconds(2 * 4 * value.size, gpu)


def kernel_seconds(kernel: Kernel, label: Label, gpu: Gpu) -> float:
    """What a kernel takes in its formats, by rule.

    Only convolutions have a choice that matters: all other kernels read and write each element in
    the order of memory, whatever that is.
    """
    anchor, output = kernel.anchor, kernel.output
    moved = sum(v.size * np.dtype(v.dtype).itemsize for v in (*kernel.inputs, output))
    seconds = LAUNCH_SECONDS + memory_seconds(moved, gpu)
    if anchor is None or anchor.op not in COMPLEX or not output.size:
        return seconds
    if label.tile:
        first, between, last = (memory_seconds(n, gpu) for n in bytes_moved(kernel, label.tile))
        products = max(between, product_cycles(anchor, label.tile, gpu) / CLOCK)
        return DOUBT * (3 * LAUNCH_SECONDS + first + products + last)
    if goes_by_channel(anchor):
        cycles = _depthwise_cycles(kernel, anchor, label, gpu)
    else:
        cycles = _product_cycles(kernel, anchor, label, gpu)
    return max(seconds, LAUNCH_SECONDS + cycles / CLOCK)


def _product_cycles(kernel: Kernel, node: Node, label: Label, gpu: Gpu) -> float:
    """A convolution as products, in tiles that the rule would take."""
    groups, channels, outputs = geometry(node)
    every = [p for p in phases(node) if prod(p.count)]
    first = every[0]
    places = node.output.shape[0] * prod(first.count)
    steps = max(1, channels * prod(first.taps))
    blocked = block_in(node.inputs[0], label.read, gpu.lanes()) > 1
    together = VECTOR if _vectors_read(node, first, label.read, gpu) else 1
    # Vectors of channels are turned on their way to shared memory, one by one.
    found = SIDE_BY_SIDE if together > 1 and not blocked else ALONE
    work = Work(places, outputs, steps, groups * len(every), found)
    if tiles_well(node) and goes_to_tensor_cores(_scope(kernel, node, label, gpu), gpu.precision):
        channels_across = block_in(kernel.output, label.write, gpu.lanes()) > 1
        return _tensor_core_cycles(work, channels_across, together, gpu)
    return estimate_cycles(decide_tile(Default(), work, gpu), work, gpu)


def _tensor_core_cycles(work: Work, channels_across: bool, together: int, gpu: Gpu) -> float:
    """The same on tensor cores, where finding elements costs more than multiplying them.

    Args:
        work: what is multiplied.
        channels_across: whether the rows of the product are places.
        together: how many elements of the input are found at once.
        gpu: where.
    """
    precision, copied = gpu.precision, gpu.precision == "tf32"
    extents = (work.places, work.channels) if channels_across else (work.channels, work.places)
    problem = Problem(work.groups, *extents, work.steps, precision, copied)
    tile = choose_tile(problem, gpu)
    places = tile.rows if channels_across else tile.columns
    staged = tile.blocks(problem) * places * -(-work.steps // tile.depth) * tile.depth
    # A multiprocessor without blocks does not help.
    cores = min(gpu.cores, tile.blocks(problem))
    return cycles_of(tile, problem, gpu) + staged * FIND_HELD / together / (ISSUED * cores)


def _scope(kernel: Kernel, node: Node, label: Label, gpu: Gpu) -> GpuScope:
    """The kernel in these formats, only to ask what its sketch would do."""
    lanes, x, output = gpu.lanes(), node.inputs[0], kernel.output
    layouts = {x: layout_in(x, label.read, lanes), output: layout_in(output, label.write, lanes)}
    return GpuScope(kernel, layouts, {}, gpu, asking=True)


def _vectors_read(node: Node, phase: Phase, read: Format, gpu: Gpu) -> bool:
    """Whether threads read four elements at once: of the channels, or of the places."""
    x = node.inputs[0]
    _, channels, _ = geometry(node)
    if block_in(x, read, gpu.lanes()) > 1:
        return channels % VECTOR == 0
    same = phase.count == x.shape[2:] and {*phase.taps, *phase.stride} == {1}
    return same and prod(phase.count) % VECTOR == 0


def _depthwise_cycles(kernel: Kernel, node: Node, label: Label, gpu: Gpu) -> float:
    """Instructions of all threads, as many results each as the rule gives them."""
    share = depthwise_of(_scope(kernel, node, label, gpu))
    return node.output.size * (share.instructions + OTHER) / (ISSUED * gpu.cores)
