"""Where the steps of a reduction read, where those of a stage have several taps."""

from __future__ import annotations

from typing import Any

import numpy as np

from alt.graph import Node
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.separable import Separable
from alt.sketches.gpu.staging import Steps
from alt.sketches.gpu.tap_bits import MOST_BITS, bits_needed, leaving
from alt.sketches.gpu.tiling import Tile
from alt.sketches.windows import Phase, geometry
from primitives import Layout


def table_of(
    scope: GpuScope, node: Node, phase: Phase, steps: Steps, images: Separable, tile: Tile
) -> tuple[Any, Layout]:
    """What `reads_of_steps` gives, as a constant of the kernel."""
    groups, _, _ = geometry(node)
    some = tile.depth * tile.slices
    count = -(-steps.count // some) * some
    layout = Layout.identity((groups, count, 2))
    key = phase.taps, phase.dilation, steps.stride, leaving(node, phase)
    name = f"reads {key} {count} {images.layout}"
    found = scope.buffer(
        node.inputs[1],
        layout,
        (name, lambda _: reads_of_steps(node, phase, steps, images, count).view(np.float32)),
    )
    return found, layout


def reads_of_steps(
    node: Node, phase: Phase, steps: Steps, images: Separable, count: int
) -> np.ndarray:
    """Where the steps of a reduction read, seen from the first tap: divisions would take longer.

    Args:
        node: the convolution.
        phase: which part of it.
        steps: its reduction.
        images: how the input is stored.
        count: how many steps there are with those that are only there to fill a stage.

    Shape:
        (groups, count, 2): what is added to an address, and the bits that a place must have: one
        for every tap along the axes that leave the image, and one that none has.
    """
    groups, channels, _ = geometry(node)
    assert steps.stride == channels, "taps that begin with a stage need no table"
    made = np.zeros((groups, count, 2), np.int32)
    number = np.arange(steps.count)
    taps = np.unravel_index(number // channels, phase.taps)
    of_group = np.arange(groups)[:, None] * channels + number % channels
    made[:, : steps.count, 0] = (images.terms(1) - images.origin)[of_group]
    for d, (t, dilation) in enumerate(zip(taps, phase.dilation, strict=True)):
        stride = images.stride(2 + d)
        assert stride is not None, "places are equally far apart"
        made[:, : steps.count, 0] += (t * dilation * stride).astype(np.int32)
    needed, shift = bits_needed(phase, leaving(node, phase), taps)
    made[:, : steps.count, 1] = needed
    made[:, steps.count :, 1] = 1 << shift
    return made


def has_bits(node: Node, phase: Phase) -> bool:
    """Whether there are enough bits for the taps of places, see `reads_of_steps`."""
    return sum(phase.taps[d] for d in leaving(node, phase)) < MOST_BITS
