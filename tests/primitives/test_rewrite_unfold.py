"""Reads of unfolded tensors find each window in one tile, where that can be proven.

Bugs the author planted in `access.py`, and what caught each:
- a window allowed to reach one past the end of its tile:
  `test_a_tile_one_too_short_falls_back`;
- negative steps through the window not counted: `test_windows_that_run_backwards`;
- the tile not checked to exist: `test_random_windows`;
- the offset of terms that count in whole strides not checked: `test_random_windows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx, topi

from primitives.expressions import reads_of
from primitives.layout import Layout
from primitives.stage import mentions
from primitives.stages import shape_of_buffer, stages_of
from primitives.tensorir import ffi
from tests.primitives.operators import function, operator, placeholders
from tests.primitives.rewriting import Case, check, check_all

pytestmark = pytest.mark.llvm


@dataclass(frozen=True)
class Window:
    """What an operator reads along each spatial axis; `before` is its pad."""

    stride: tuple[int, ...]
    reach: tuple[int, ...]  # from a window's first element to its last, and one
    before: tuple[int, ...]
    after: tuple[int, ...]
    tensor: str | int = 0
    fill: float = 0


WINDOWS = {
    "conv1d": Window((2,), (3,), (1,), (1,)),
    "dilated_conv1d": Window((1,), (5,), (2,), (1,)),
    "conv2d": Window((1, 1), (3, 3), (1, 1), (1, 1)),
    "strided_conv2d": Window((2, 2), (3, 3), (1, 1), (1, 1)),
    "conv2d_of_one_channel": Window((2, 1), (5, 2), (2, 0), (1, 1)),
    "conv2d_that_skips": Window((3, 3), (2, 2), (0, 0), (0, 0)),
    "dilated_conv2d": Window((1, 1), (5, 5), (2, 2), (2, 2)),
    "asymmetric_conv2d": Window((2, 1), (3, 5), (0, 2), (1, 0)),
    "conv3d": Window((1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "strided_conv3d": Window((1, 2, 2), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "grouped_conv2d": Window((1, 1), (3, 3), (1, 1), (1, 1)),
    "depthwise_conv2d": Window((1, 1), (3, 3), (1, 1), (1, 1)),
    "strided_depthwise_conv2d": Window((2, 2), (3, 3), (0, 0), (1, 1)),
    "conv1d_transpose": Window((1,), (3,), (1,), (2,), "data_dilate"),
    "conv2d_transpose": Window((1, 1), (3, 3), (1, 1), (2, 2), "data_dilate"),
    "conv3d_transpose": Window((1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 2, 2), "data_dilate"),
    "max_pool1d": Window((2,), (3,), (1,), (1,), fill=-np.inf),
    "max_pool2d": Window((2, 2), (3, 3), (1, 1), (1, 1), fill=-np.inf),
    "max_pool2d_that_skips": Window((3, 3), (2, 2), (1, 0), (0, 2), fill=-np.inf),
    "avg_pool2d": Window((2, 2), (3, 3), (1, 1), (1, 1)),
    "avg_pool2d_of_all": Window((1, 1), (3, 3), (1, 0), (1, 2)),
}


def tensor_of(func: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return func.params[key]
    return next(b for stage in stages_of(func) for b in stage.outputs if str(b.name) == key)


def unfolded(shape: tuple[int, ...], window: Window, tile: int) -> Layout:
    """Every spatial axis in tiles of what `tile` windows read, the places innermost."""
    layout = Layout.identity(shape)
    rank = len(window.stride)
    for k, axis in enumerate(range(2, 2 + rank)):
        every = window.stride[k] * tile
        size = max(every, every - window.stride[k] + window.reach[k])
        before, after = window.before[k], window.after[k]
        after += max(0, size - shape[axis] - before - after)
        layout = layout.pad(2 + 2 * k, before, after).unfold(2 + 2 * k, size, every)
    return layout.reorder((0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 2 + 2 * rank, 2)))


def tiled(shape: tuple[int, ...], tile: int) -> Layout:
    """Every axis after the second in tiles."""
    layout = Layout.identity(shape)
    for k, extent in enumerate(shape[2:]):
        layout = layout.pad(2 + 2 * k, 0, -extent % tile).split(2 + 2 * k, (-1, tile))
    return layout


def reading_indices(func: Any, name: str) -> list[list[Any]]:
    """The indices at which the tensor is read."""
    return [
        list(read.indices)
        for stage in stages_of(func)
        for value in stage.values
        for read in reads_of(value)
        if str(read.buffer.name) == name
    ]


def divides(index: Any) -> bool:
    found: list[Any] = []
    for kind in (tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max):
        ffi.structural_walk(index, [(kind, found.append)])
    return bool(found)


def takes_minimum(index: Any) -> bool:
    found: list[Any] = []
    ffi.structural_walk(index, [(tirx.Min, found.append)])
    return bool(found)


def _cases(name: str, tile: int) -> tuple[Case, str]:
    func, window = operator(name), WINDOWS[name]
    tensor = tensor_of(func, window.tensor)
    output = len(func.params) - 1
    layouts = {
        window.tensor: unfolded(shape_of_buffer(tensor), window, tile),
        output: tiled(shape_of_buffer(func.params[-1]), tile),
    }
    for stage in stages_of(func):
        # Stages after the window's are tiled alike, as propagation makes them.
        inner = str(stage.outputs[0].name)
        same = shape_of_buffer(stage.outputs[0]) == shape_of_buffer(func.params[-1])
        if same and stage.outputs[0] not in set(func.params) and "pad" not in stage.name:
            layouts[inner] = layouts[output]
    return Case(func, layouts, fill={window.tensor: window.fill}), str(tensor.name)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_tiled_outputs_need_no_division(name: str) -> None:
    made = [_cases(name, tile) for tile in (1, 2, 3)]
    rewritten = check_all([case for case, _ in made], np.random.default_rng(0))
    for func, (case, tensor) in zip(rewritten, made, strict=True):
        names = [stage.name for stage in stages_of(func)]
        assert not any("pad" in n.lower() for n in names)
        indices = reading_indices(func, tensor)
        assert indices
        assert not [i for each in indices for i in each[2:] if divides(i)], case.layouts


@pytest.mark.parametrize("name", ["conv2d", "strided_conv2d", "max_pool2d", "dilated_conv1d"])
def test_windows_of_outputs_that_are_not_tiled_lie_in_one_tile_too(name: str) -> None:
    case, tensor = _cases(name, 2)
    layouts = {k: v for k, v in case.layouts.items() if k == WINDOWS[name].tensor}
    func = check(case.func, layouts, np.random.default_rng(0), fill=case.fill)
    indices = [i for each in reading_indices(func, tensor) for i in each]
    assert any(map(divides, indices))
    assert not any(map(takes_minimum, indices))


def _row_sums(extent: int, stride: int, window: int, step: int = 1, start: int = 0) -> Any:
    """y[i] = sum of x[stride * i + step * r + start] over r < window, wherever that fits."""
    (a,) = placeholders((extent,))
    r = te.reduce_axis((0, window), "r")
    first = start + min(0, step * (window - 1))
    reach = abs(step) * (window - 1) + 1
    outputs = (extent - reach - first) // stride + 1
    assert first >= 0 and outputs >= 1
    return function(
        [a],
        te.compute((outputs,), lambda i: te.sum(a[i * stride + r * step + start], axis=r), "y"),
    )


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_tile_one_too_short_falls_back(size: int) -> None:
    """Windows of 3 every 1, tiles every 2: four elements must fit."""
    func = _row_sums(12, 1, 3)
    layout = Layout.identity((12,)).unfold(0, size, 2)
    rewritten = check(func, {0: layout}, np.random.default_rng(size))
    ((tile, _),) = reading_indices(rewritten, "x0")
    (reduced,) = stages_of(rewritten)[0].reduce
    assert mentions(tile, reduced.var) == (size < 4)


@pytest.mark.parametrize("step", [-1, -2])
def test_windows_that_run_backwards(step: int) -> None:
    func = _row_sums(14, 2, 3, step, start=-2 * step)
    layout = Layout.identity((14,)).unfold(0, 3 - 2 * step, 4)
    rewritten = check(func, {0: layout}, np.random.default_rng(0))
    ((tile, _),) = reading_indices(rewritten, "x0")
    (reduced,) = stages_of(rewritten)[0].reduce
    assert not mentions(tile, reduced.var)


def test_tensors_unfolded_alike_are_read_cell_by_cell() -> None:
    (a,) = placeholders((2, 11))
    func = function([a], te.compute((2, 11), lambda i, j: a[i, j] * 2, "y"))
    layout = Layout.identity((2, 11)).unfold(1, 5, 3)
    rewritten = check(func, {0: layout, 1: layout}, np.random.default_rng(0))
    (indices,) = reading_indices(rewritten, "x0")
    assert not any(map(divides, indices))


def _random_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < 60:
        stride, window, step = (int(rng.integers(1, 5)) for _ in range(3))
        extent = int(rng.integers(10, 25))
        start = int(rng.integers(3))
        if (window - 1) * step + start >= extent:
            continue
        func = _row_sums(extent, stride, window, step, start)
        size = int(rng.integers(1, extent + 1))
        layout = Layout.identity((extent,)).unfold(0, size, int(rng.integers(1, size + 1)))
        (outputs,) = shape_of_buffer(func.params[1])
        tile = int(rng.integers(1, 5))
        out = Layout.identity((outputs,)).pad(0, 0, -outputs % tile).split(0, (-1, tile))
        cases.append(Case(func, {0: layout, 1: out}))
    check_all(cases, rng)


def test_random_windows() -> None:
    _random_windows(0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_random_windows(seed: int) -> None:
    _random_windows(seed)


def _random_convolution(rng: np.random.Generator) -> tuple[Any, Window]:
    stride, kernel, dilation = (tuple(int(n) for n in rng.integers(1, 4, 2)) for _ in range(3))
    before, after = (tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in range(2))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    extents = [int(n) + max(0, r - 3) for n, r in zip(rng.integers(4, 10, 2), reach, strict=True)]
    batch, inputs, outputs = (int(n) for n in rng.integers(1, 4, 3))
    a, w = placeholders((batch, inputs, *extents), (outputs, inputs, *kernel))
    conv = topi.nn.conv2d(
        a, w, stride, (*before, *after), dilation, data_layout="NCHW", out_dtype="float32"
    )
    return function([a, w], conv), Window(stride, reach, before, after)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 9))]
)
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for _ in range(24):
        func, window = _random_convolution(rng)
        tile = int(rng.integers(1, 4))
        given, _, made = (shape_of_buffer(p) for p in func.params)
        cases.append(Case(func, {0: unfolded(given, window, tile), 2: tiled(made, tile)}))
    for func, case in zip(check_all(cases, rng), cases, strict=True):
        assert len(stages_of(func)) == 1
        (indices,) = reading_indices(func, "x0")
        assert not any(map(divides, indices[2:])), case.layouts
