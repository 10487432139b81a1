"""The transforms of Winograd's algorithm for 3x3 windows, by the size m of an output tile.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alt.elementary import Emitter, Expr, f32

INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}

WEIGHT = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}

OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}
"""The transforms of F(2x2, 3x3) and F(4x4, 3x3), by m."""


def _combine(emit: Emitter, row: Sequence[float], terms: Sequence[Expr]) -> Expr:
    """A linear combination, without products by 0, 1 and -1."""
    total: Expr = None
    for factor, term in zip(row, terms, strict=True):
        if factor == 0:
            continue
        size = abs(factor)
        product = term if size == 1 else term * f32(float(size))
        if total is None:
            total = product if factor > 0 else f32(0.0) - product
        else:
            total = total + product if factor > 0 else total - product
    return emit.bind(total)


def both_sides(
    emit: Emitter, matrix: Sequence[Sequence[float]], cells: list[list[Expr]]
) -> list[list[Expr]]:
    """Matrix * cells * matrix^T."""
    columns = range(len(cells[0]))
    half = [[_combine(emit, row, [line[j] for line in cells]) for j in columns] for row in matrix]
    return [[_combine(emit, row, line) for row in matrix] for line in half]


def transformed_weights(m: int, weight: np.ndarray) -> np.ndarray:
    """Transform the weights, a few output channels at a time: in between they are float64.

    Shape:
        (O, C, depth, (m+2)**2).
    """
    g = np.array(WEIGHT[m])
    outputs, channels = weight.shape[:2]
    w = weight.reshape(outputs, channels, -1, 3, 3)
    u = np.empty((*w.shape[:3], len(g) ** 2), weight.dtype)
    for start in range(0, outputs, 16):
        some = w[start : start + 16].astype("float64")
        u[start : start + 16] = (g @ some @ g.T).reshape(*some.shape[:3], -1)
    return u
