"""Winograd's algorithm on a GPU: three kernels in place of a convolution, and what they take.

The first transforms windows of the input, the second multiplies matrices, one for each point of
the transformed space, the third transforms their products back and applies the epilogue. What goes
from one to the next passes through memory, which pays where there is much to multiply.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from alt.cuda.gpu import Gpu
from alt.graph import Node, Value
from alt.kernels import Kernel
from alt.sketches.gpu.tiling import Problem, choose_tile, cycles_of
from alt.winograd import grid_of, winograd_sizes

MOST_BYTES = 2**31
"""Of what goes from kernel to kernel; a convolution that would take more is summed directly."""

PRODUCT = 1
"""Which of the kernels has loops to decide."""


def sizes_on_gpu(kernel: Kernel, gpu: Gpu) -> tuple[int, ...]:
    """The tile sizes with which a kernel can be computed so; none with tensor cores.

    Those multiply faster than memory could bring what the transforms make. What is made must not
    take much of the memory.
    """
    anchor = kernel.anchor
    if anchor is None or gpu.precision != "fp32" or not kernel.output.size:
        return ()
    sizes = winograd_sizes(anchor, gpu)
    return tuple(m for m in sizes if 4 * sum(map(prod, shapes_of(anchor, m))) <= MOST_BYTES)


def winograd_on_gpu(kernel: Kernel, m: int, names: Iterator[str]) -> list[Kernel]:
    """The three kernels in place of one whose anchor is a convolution over rows.

    Loops that were decided are those of the product.

    Args:
        kernel: what to compute.
        m: an output tile is m x m.
        names: for the tensors in between.
    """
    node = kernel.anchor
    assert node is not None
    x, weight, output = node.inputs[0], node.inputs[1], node.output
    windows, products = shapes_of(node, m)
    attrs = {**node.attrs, "m": m, "kernel": weight.shape[2:], "image": output.shape[2:]}
    fixed = {name: value for name, value in attrs.items() if name != "loops"}
    transformed = Value(next(names), windows, x.dtype)
    multiplied = Value(next(names), products, x.dtype)
    before = Node("winograd_input", "winograd_input", (x,), transformed, fixed)
    between = Node("winograd_product", "winograd", (transformed, weight), multiplied, attrs)
    after = Node("winograd_output", node.name, (multiplied,), output, fixed)
    nodes = tuple(after if n is node else n for n in kernel.nodes)
    read = {v for n in nodes for v in n.inputs}
    inputs = (multiplied, *(v for v in kernel.inputs if v in read))
    return [
        Kernel(before, (before,), (x,), transformed),
        Kernel(between, (between,), (transformed, weight), multiplied),
        replace(kernel, anchor=after, nodes=nodes, inputs=inputs),
    ]


def shapes_of(node: Node, m: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of what is in between.

    Returns:
        (points, channels, batch, planes with their padding, tiles) of the transformed windows, and
        (points, output channels, batch, planes, tiles) of the products. Images of two dimensions
        have one plane.
    """
    x, output = node.inputs[0], node.output
    *outer, height, width = output.shape[2:]
    grid = grid_of(m, height, width)
    planes = prod(outer)
    padded = x.shape[2] + sum(node.attrs["pads"][0]) if outer else 1
    batch = x.shape[0]
    return (
        (grid.products, x.shape[1], batch, padded, grid.tiles),
        (grid.products, output.shape[1], batch, planes, grid.tiles),
    )


def product_of_points(node: Node, m: int) -> Problem:
    """The matrix products in the transformed space."""
    (points, channels, *_), (_, outputs, *places) = shapes_of(node, m)
    depth = channels * prod(node.inputs[1].shape[2:-2])
    return Problem(points, outputs, prod(places), depth)


def bytes_moved(kernel: Kernel, m: int) -> tuple[int, int, int]:
    """Bytes that each of the kernels reads and writes."""
    node = kernel.anchor
    assert node is not None
    windows, products = (4 * prod(shape) for shape in shapes_of(node, m))
    x, weight = node.inputs[:2]
    transformed = 4 * weight.size // 9 * (m + 2) ** 2
    also = sum(v.size for v in kernel.inputs if v not in node.inputs)
    return (
        4 * x.size + windows,
        windows + transformed + products,
        products + 4 * (kernel.output.size + also),
    )


def product_cycles(node: Node, m: int, gpu: Gpu) -> float:
    """What the products take, by rule."""
    problem = product_of_points(node, m)
    return cycles_of(choose_tile(problem, gpu), problem, gpu)
