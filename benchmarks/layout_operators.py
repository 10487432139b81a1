"""The operators whose layouts we compare: a convolution or a product with weights, bias and ReLU.

Each knows its TensorIR function, what it computes in NumPy, and how much work that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te as _te
from tvm import tirx

te: Any = _te
"""TVM has no types that say what its operators give."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Convolution:
    """A convolution of any number of spatial axes, dense or depthwise.

    Attributes:
        batch: images.
        channels: of the input.
        outputs: channels of the output.
        size: spatial extents of the input.
        kernel: taps along each spatial axis.
        strides: along each spatial axis.
        pads: zeros before and after, along each spatial axis.
        depthwise: whether each channel is convolved by itself.
    """

    batch: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    depthwise: bool = False

    @property
    def name(self) -> str:
        """Short and unique: `64x56x56 -> 64, 3x3`.

        >>> Convolution(1, 8, 16, (9, 7), (3, 3), (2, 2), ((1, 1), (1, 1))).name
        'conv 8x9x7 -> 16, 3x3 /2x2'
        """
        size = "x".join(map(str, (self.channels, *self.size)))
        kernel = "x".join(map(str, self.kernel))
        stride = "x".join(map(str, self.strides)) if max(self.strides) > 1 else ""
        kind = "depthwise" if self.depthwise else "conv"
        text = f"{kind} {size} -> {self.outputs}, {kernel}" + (f" /{stride}" if stride else "")
        return text if self.batch == 1 else f"{text}, batch {self.batch}"

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial extents of the output."""
        return tuple(
            (n + before + after - k) // s + 1
            for n, k, s, (before, after) in zip(
                self.size, self.kernel, self.strides, self.pads, strict=True
            )
        )

    @property
    def border(self) -> tuple[tuple[int, int], ...]:
        """Zeros around the input that are read; strides may never reach all of the pads.

        >>> Convolution(1, 8, 16, (8, 7), (3, 3), (2, 2), ((1, 1), (1, 1))).border
        ((1, 0), (1, 1))
        """
        return tuple(
            (before, max(0, s * (out - 1) + k - before - n))
            for n, out, k, s, (before, _) in zip(
                self.size, self.out_size, self.kernel, self.strides, self.pads, strict=True
            )
        )

    @property
    def pointwise(self) -> bool:
        """Whether each output position reads just the same position of the input."""
        return {*self.kernel, *self.strides} == {1} and not any(map(sum, self.pads))

    @property
    def depth(self) -> int:
        """Input channels that one output channel reads."""
        return 1 if self.depthwise else self.channels

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        positions = self.batch * self.outputs * prod(self.out_size)
        return 2 * positions * self.depth * prod(self.kernel)

    def inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        """Random input, weights and bias, by the names of the function's parameters."""
        shapes = {
            "x": (self.batch, self.channels, *self.size),
            "w": (self.outputs, self.depth, *self.kernel),
            "bias": (self.outputs,),
        }
        return {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}

    def function(self) -> Any:
        """Padding, convolution, bias and ReLU: blocks `pad`, `anchor` and `out`."""
        x = te.placeholder((self.batch, self.channels, *self.size), name="x")
        w = te.placeholder((self.outputs, self.depth, *self.kernel), name="w")
        bias = te.placeholder((self.outputs,), name="bias")
        padded = tuple(n + sum(p) for n, p in zip(self.size, self.border, strict=True))

        def pad(n: Any, c: Any, *at: Any) -> Any:
            where = [i - before for i, (before, _) in zip(at, self.border, strict=True)]
            sides = [(i >= 0, i < n) for i, n in zip(where, self.size, strict=True)]
            inside = [condition for side in sides for condition in side]
            return te.if_then_else(te.all(*inside), x[(n, c, *where)], te.const(0, "float32"))

        source = x
        if any(map(sum, self.border)):
            source = te.compute((self.batch, self.channels, *padded), pad, name="pad")
        i = te.reduce_axis((0, self.depth), "i")
        taps = [te.reduce_axis((0, k), f"k{d}") for d, k in enumerate(self.kernel)]

        def anchor(n: Any, o: Any, *at: Any) -> Any:
            window = [p * s + k for p, s, k in zip(at, self.strides, taps, strict=True)]
            read = source[(n, o if self.depthwise else i, *window)]
            return te.sum(read * w[(o, i, *taps)], axis=[i, *taps])

        shape = (self.batch, self.outputs, *self.out_size)
        total = te.compute(shape, anchor, name="anchor")
        zero = te.const(0, "float32")
        out = te.compute(
            shape, lambda n, o, *at: tirx.max(total[(n, o, *at)] + bias[o], zero), name="out"
        )
        return te.create_prim_func([x, w, bias, out])

    def reference(self, arrays: dict[str, Array]) -> Array:
        """What it computes, tap by tap."""
        x = np.pad(arrays["x"], ((0, 0), (0, 0), *self.pads))
        w = arrays["w"]
        result = np.zeros((self.batch, self.outputs, *self.out_size), np.float32)
        for tap in product(*map(range, self.kernel)):
            window = tuple(
                slice(k, k + s * (n - 1) + 1, s)
                for k, s, n in zip(tap, self.strides, self.out_size, strict=True)
            )
            read, weights = (
                x[(slice(None), slice(None), *window)],
                w[(slice(None), slice(None), *tap)],
            )
            if self.depthwise:
                result += read * _along_channels(weights[:, 0], len(self.size))
            else:
                result += np.moveaxis(np.tensordot(weights, read, (1, 1)), 0, 1)
        return np.maximum(result + _along_channels(arrays["bias"], len(self.size)), 0)


@dataclass(frozen=True)
class Product:
    """Rows times a constant matrix.

    Attributes:
        rows: of the left operand and the result.
        depth: what is summed over.
        columns: of the weights and the result.
    """

    rows: int
    depth: int
    columns: int

    @property
    def name(self) -> str:
        """Short and unique.

        >>> Product(128, 768, 3072).name
        'product 128x768 @ 768x3072'
        """
        return f"product {self.rows}x{self.depth} @ {self.depth}x{self.columns}"

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.rows * self.depth * self.columns

    def inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        """Random operands and bias, by the names of the function's parameters."""
        shapes: dict[str, Sequence[int]] = {
            "a": (self.rows, self.depth),
            "b": (self.depth, self.columns),
            "bias": (self.columns,),
        }
        return {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}

    def function(self) -> Any:
        """Product, bias and ReLU: blocks `anchor` and `out`."""
        a = te.placeholder((self.rows, self.depth), name="a")
        b = te.placeholder((self.depth, self.columns), name="b")
        bias = te.placeholder((self.columns,), name="bias")
        k = te.reduce_axis((0, self.depth), "k")
        shape = (self.rows, self.columns)
        total = te.compute(shape, lambda m, n: te.sum(a[m, k] * b[k, n], axis=k), name="anchor")
        zero = te.const(0, "float32")
        out = te.compute(shape, lambda m, n: tirx.max(total[m, n] + bias[n], zero), name="out")
        return te.create_prim_func([a, b, bias, out])

    def reference(self, arrays: dict[str, Array]) -> Array:
        """What it computes."""
        return np.maximum(arrays["a"] @ arrays["b"] + arrays["bias"], 0)


Operator = Convolution | Product


def _along_channels(values: Array, spatial: int) -> Array:
    return values.reshape(1, -1, *[1] * spatial)
