"""A function rewritten for layouts must compute what the untouched one does."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import tvm

from primitives.layout import Layout
from primitives.lower import rewrite
from primitives.reference import pack, unpack
from primitives.stages import dtype_of_buffer, shape_of_buffer, stages_of


def tolerance(dtype: str, length: int) -> float:
    """How far two orders of summing `length` terms may differ, relative to the sum of magnitudes.

    A sum of n rounded terms is off by at most about n times the machine epsilon; eight more for
    the functions around it. Integers and booleans must agree exactly.
    """
    return float(np.finfo(dtype).eps) * (8 + length) if dtype.startswith("float") else 0.0


def random_layout(rng: np.random.Generator, shape: tuple[int, ...], steps: int = 4) -> Layout:
    """A chain of random legal steps that at most quadruples the tensor."""
    layout = Layout.identity(shape)
    for _ in range(int(rng.integers(0, steps + 1))):
        rank = len(layout.shape)
        if not rank:
            break
        axis = int(rng.integers(rank))
        grown = layout
        match rng.integers(4):
            case 0:
                extent = layout.shape[axis]
                factors = [f for f in range(1, extent + 1) if extent % f == 0]
                grown = layout.split(axis, (-1, int(rng.choice(factors))))
            case 1:
                grown = layout.reorder(int(p) for p in rng.permutation(rank))
            case 2:
                grown = layout.fuse(axis, int(rng.integers(1, rank - axis + 1)))
            case _:
                grown = layout.pad(axis, int(rng.integers(3)), int(rng.integers(3)))
        if grown.expansion <= 4 and len(grown.shape) <= 9:
            layout = grown
    return layout


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Contents for an input: floats around 0, integers that serve as indices and shift counts."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        return rng.integers(0, 3, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def run(func: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Compile for the CPU, run, return what all parameters then hold."""
    executable = tvm.compile(func.with_attr("global_symbol", "main"), "llvm")
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    executable["main"](*tensors)
    return [t.numpy() for t in tensors]


def spoiled(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What an output holds before it is written."""
    return np.full(shape, np.nan if dtype.startswith("float") else 1, dtype)


def check(
    func: Any,
    layouts: Mapping[str | int, Layout],
    rng: np.random.Generator,
    *,
    fill: float = 0,
    absorb: bool = True,
    inputs: Mapping[int, np.ndarray] | None = None,
) -> Any:
    """Rewrite, run both on the same inputs, compare; returns the rewritten function.

    Inputs are random but for those given by position.
    """
    given = inputs or {}
    rewritten = rewrite(func, layouts, fill=fill, absorb=absorb)
    stages = stages_of(func)
    written = {b for stage in stages for b in stage.outputs}
    length = max((prod(a.extent for a in stage.reduce) for stage in stages), default=1)
    plain: list[np.ndarray] = []
    stored: list[np.ndarray] = []
    by_position: list[Layout] = []
    for position, param in enumerate(func.params):
        shape, dtype = shape_of_buffer(param), dtype_of_buffer(param)
        layout = layouts.get(position, layouts.get(str(param.name), Layout.identity(shape)))
        by_position.append(layout)
        if param in written:
            plain.append(spoiled(shape, dtype))
            stored.append(spoiled(layout.shape, dtype))
        else:
            plain.append(given.get(position, random_array(rng, shape, dtype)))
            stored.append(pack(plain[-1], layout, fill))
    expected, found = run(func, plain), run(rewritten, stored)
    for param, layout, e, f in zip(func.params, by_position, expected, found, strict=True):
        if param not in written:
            continue
        text = f"{param.name} stored as {layout}; all layouts: {layouts}"
        again = unpack(f, layout)
        error = tolerance(str(e.dtype), length)
        if e.dtype.kind == "f":
            size = float(np.max(np.abs(e[np.isfinite(e)]), initial=1e-30))
            np.testing.assert_allclose(again, e, rtol=error, atol=error * size, err_msg=text)
        else:
            np.testing.assert_array_equal(again, e, err_msg=text)
        np.testing.assert_array_equal(f, pack(again, layout, fill), err_msg=f"fill of {text}")
    return rewritten
