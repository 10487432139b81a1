"""Whether a convolution is worth computing by Winograd's algorithm, and the kernels it becomes.

Where images are small, the larger weights make it memory-bound, so the choice is computed from the
shape.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from alt.graph import Node, Value
from alt.kernels import Kernel
from alt.sketches.windows import has_packed_weights
from alt.storage import Border
from alt.target import Hardware, Machine

TILES_A_CHUNK = 32
"""At most this many tiles are multiplied together, so that their products stay in cache."""


MEMORY_BYTES_PER_CYCLE = 8
"""What one core gets from beyond its own caches, for weights that are read once."""


@dataclass(frozen=True)
class Grid:
    """How an image is cut into tiles.

    Attributes:
        m: a tile is m x m outputs.
        down: rows of tiles.
        across: tiles in a row.
        chunks: groups of tiles that are multiplied together.
        chunk: tiles in each (the last one repeats the last tile).
    """

    m: int
    down: int
    across: int
    chunks: int
    chunk: int

    @property
    def tiles(self) -> int:
        """Tiles of one image."""
        return self.down * self.across

    @property
    def products(self) -> int:
        """Points of the transformed space."""
        return (self.m + 2) ** 2


def grid_of(m: int, height: int, width: int, chunk: int = TILES_A_CHUNK) -> Grid:
    """The tiles of an output image, at most so many multiplied together."""
    down, across = -(-height // m), -(-width // m)
    chunks = -(-down * across // chunk)
    return Grid(m, down, across, chunks, -(-down * across // chunks))


def winograd_sizes(node: Node, machine: Hardware) -> tuple[int, ...]:
    """The tile sizes with which Winograd's algorithm computes a convolution; none if it cannot."""
    if node.op != "conv" or not has_packed_weights(node):
        return ()
    a = node.attrs
    x, weight, output = node.inputs[0], node.inputs[1], node.output
    spatial = len(output.shape) - 2
    lanes = machine.lanes()
    if (
        spatial not in (2, 3)
        or a["groups"] != 1
        or weight.shape[-2:] != (3, 3)
        or any(s != 1 for s in a["strides"])
        or any(d != 1 for d in a["dilation"])
        or x.shape[1] < lanes
        or output.shape[1] < lanes
        or output.dtype != "float32"
    ):
        return ()
    return (2, 4)


def choose_winograd(node: Node, machine: Machine) -> int:
    """The tile size that should be fastest for a convolution: 4, 2, or 0 to convolve directly."""
    x, weight, output = node.inputs[0], node.inputs[1], node.output
    lanes = machine.lanes()
    batch, outputs, *outer, height, width = output.shape
    channels, depth = x.shape[1], prod(weight.shape[2:-2])
    images = batch * prod(outer)
    pair = -(-channels // lanes) * lanes * outputs * depth
    best, chosen = 0.85 * images * height * width * 9 * pair / lanes, 0
    for m in winograd_sizes(node, machine):
        grid = grid_of(m, height, width)
        tiles = images * grid.chunks * grid.chunk
        multiply = tiles * grid.products * pair / lanes
        stream = 4 * grid.products * pair / MEMORY_BYTES_PER_CYCLE
        # About eight vector instructions a point on the way in, and as many on the way out.
        transform = 8 * tiles * grid.products * (channels + outputs) / lanes
        cycles = max(multiply, stream) + transform
        if cycles < best:
            best, chosen = cycles, m
    return chosen


def winograd_kernels(
    kernel: Kernel, m: int, chunk: int, machine: Machine, name: str
) -> tuple[Kernel, Kernel]:
    """The input transform and the product that replace a convolution kernel.

    Args:
        kernel: a kernel with a convolution as its anchor.
        m: an output tile is m x m.
        chunk: at most so many tiles are multiplied together.
        machine: what the code is for.
        name: the name of the transformed input.
    """
    node = kernel.anchor
    assert node is not None
    x = node.inputs[0]
    lanes = machine.lanes()
    *outer, height, width = node.output.shape[2:]
    grid = grid_of(m, height, width, chunk)
    lo, hi = node.attrs["pads"][0] if outer else (0, 0)
    depth = x.shape[2] + lo + hi if outer else 1
    shape = (
        x.shape[0],
        depth,
        grid.chunks,
        grid.products,
        -(-x.shape[1] // lanes),
        grid.chunk,
        lanes,
    )
    transformed = Value(name, shape, x.dtype)
    attrs = {**node.attrs, "grid": (m, height, width, chunk), "kernel": node.inputs[1].shape[2:]}
    before = Node("winograd_input", "winograd_input", (x,), transformed, attrs)
    after = Node(
        "winograd",
        node.name,
        (transformed, *node.inputs[1:]),
        node.output,
        {**attrs, "channels": x.shape[1]},
    )
    nodes = tuple(after if n is node else n for n in kernel.nodes)
    also = any(x in n.inputs for n in nodes)
    inputs = [v for v in kernel.inputs if v is not x or also]
    return (
        Kernel(before, (before,), (x,), transformed),
        Kernel(after, nodes, (transformed, *inputs), kernel.output),
    )


def winograd_border(node: Node) -> Border:
    """The zeros around the input: its padding, and what the last tiles reach beyond it."""
    grid = grid_of(*node.attrs["grid"])
    shape = node.inputs[0].shape[2:]
    pads = list(node.attrs["pads"])
    for axis, tiles in ((-2, grid.down), (-1, grid.across)):
        lo = pads[axis][0]
        pads[axis] = (lo, max(0, tiles * grid.m + 2 - lo - shape[axis]))
    return tuple(pads)
