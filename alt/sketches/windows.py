"""What a convolution computes: phases, the input it reads, the weights it uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from alt.graph import Node


@dataclass(frozen=True)
class Phase:
    """A stride-1-output convolution that computes every `step`-th output, from `first` on.

    A plain convolution is one phase; a transposed one is a phase for each remainder of the output
    index by the stride. For output `first + step*q` along an axis the taps read input
    `q*stride + t*dilation + offset`, t = 0 .. taps-1.
    """

    first: tuple[int, ...]
    step: tuple[int, ...]
    count: tuple[int, ...]
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    offset: tuple[int, ...]
    kernel_first: tuple[int, ...]
    kernel_step: tuple[int, ...]


def phases(node: Node) -> list[Phase]:
    """How a convolution node decomposes."""
    a = node.attrs
    spatial = len(node.output.shape) - 2
    kernel = node.inputs[1].shape[2:]
    if node.op == "conv":
        return [
            Phase(
                first=(0,) * spatial,
                step=(1,) * spatial,
                count=node.output.shape[2:],
                taps=kernel,
                stride=a["strides"],
                dilation=a["dilation"],
                offset=tuple(-lo for lo, _ in a["pads"]),
                kernel_first=(0,) * spatial,
                kernel_step=(1,) * spatial,
            )
        ]
    # Output o reads input (o + pad - t*dilation) / stride for the taps t where that is whole.
    per_axis: list[list[tuple[int, ...]]] = []
    for d in range(spatial):
        s, dil, pad = a["strides"][d], a["dilation"][d], a["pads"][d][0]
        choices: list[tuple[int, ...]] = []
        for r in range(min(s, node.output.shape[2 + d])):
            hits = [t for t in range(kernel[d]) if (r + pad - t * dil) % s == 0]
            count = -(-(node.output.shape[2 + d] - r) // s)
            if hits:
                period = hits[1] - hits[0] if len(hits) > 1 else 1
                # Taps run backwards, so that the input index grows with the tap.
                last = hits[-1]
                offset = (r + pad - last * dil) // s
                choices.append(
                    (r, s, count, len(hits), period * dil // s or 1, offset, last, -period)
                )
            else:
                choices.append((r, s, count, 0, 1, 0, 0, 1))
        per_axis.append(choices)

    def combine(axis: int) -> Iterator[list[tuple[int, ...]]]:
        if axis == spatial:
            yield []
            return
        for choice in per_axis[axis]:
            for rest in combine(axis + 1):
                yield [choice, *rest]

    found: list[Phase] = []
    for axes in combine(0):
        r, s, count, taps, dil, offset, kfirst, kstep = (tuple(c) for c in zip(*axes, strict=True))
        found.append(Phase(r, s, count, taps, (1,) * spatial, dil, offset, kfirst, kstep))
    return found


def required_border(node: Node) -> tuple[tuple[int, int], ...]:
    """Cells of zeros a convolution reads before and after each spatial axis of its input."""
    shape = node.inputs[0].shape[2:]
    border = [(0, 0)] * len(shape)
    for phase in phases(node):
        for d in range(len(shape)):
            if not phase.taps[d] or not phase.count[d]:
                continue
            low = phase.offset[d]
            high = (
                (phase.count[d] - 1) * phase.stride[d]
                + (phase.taps[d] - 1) * phase.dilation[d]
                + phase.offset[d]
            )
            lo, hi = border[d]
            border[d] = (max(lo, -low), max(hi, high - shape[d] + 1))
    return tuple(border)


def geometry(node: Node) -> tuple[int, int, int]:
    """Groups, input channels a group, output channels a group."""
    groups = node.attrs["groups"]
    return groups, node.inputs[0].shape[1] // groups, node.output.shape[1] // groups


def has_packed_weights(node: Node) -> bool:
    """Whether the weights are constants, which can be laid out at compile time."""
    return not node.attrs.get("runtime_weights", False)


def is_depthwise(node: Node) -> bool:
    """Whether every channel is convolved by itself, with weights known at compile time."""
    groups, channels, outputs = geometry(node)
    alone = groups > 1 and channels == 1 and outputs == 1
    return node.op == "conv" and alone and has_packed_weights(node) and not on_rows(node)


def on_rows(node: Node) -> bool:
    """Whether the layouts were chosen such that a convolution works on row-major tensors."""
    return bool(node.attrs.get("rows", False))


def wants_blocks(node: Node, lanes: int) -> bool:
    """Whether a convolution runs on channel blocks.

    Grouped ones do only if a vector of output channels never straddles two groups, and all only if
    the weights can be laid out at compile time.
    """
    groups, channels, outputs = geometry(node)
    if not has_packed_weights(node) or on_rows(node):
        return False
    if groups == 1 or is_depthwise(node):
        return True
    return outputs % lanes == 0 and channels % lanes == 0


def taps_of_phase(node: Node, phase: Phase, weight: np.ndarray) -> np.ndarray:
    """The weights that one phase uses.

    Shape:
        (groups, outputs a group, channels a group, taps).
    """
    groups, channels, outputs = geometry(node)
    kernel = weight.shape[2:]
    if node.op == "conv_transpose":
        w = weight.reshape(groups, channels, outputs, *kernel).swapaxes(1, 2)
    else:
        w = weight.reshape(groups, outputs, channels, *kernel)
    for axis, (first, step, count) in enumerate(
        zip(phase.kernel_first, phase.kernel_step, phase.taps, strict=True)
    ):
        if (first, step, count) != (0, 1, kernel[axis]):
            w = w.take([first + step * t for t in range(count)], axis=3 + axis)
    return np.ascontiguousarray(w).reshape(groups, outputs, channels, prod(phase.taps))
