"""Small operators of every kind as unscheduled TensorIR functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tvm import te, topi


def placeholders(*shapes: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    return [te.placeholder(s, dtype, name=f"x{k}") for k, s in enumerate(shapes)]


def function(inputs: list[Any], output: Any) -> Any:
    return te.create_prim_func([*inputs, output])


def _of(build: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> Any:
    inputs = placeholders(*shapes, dtype=dtype)
    return function(inputs, build(*inputs))


def _conv2d(a: Any, w: Any, stride: Any, pad: Any, dilation: Any) -> Any:
    return topi.nn.conv2d(a, w, stride, pad, dilation, data_layout="NCHW", out_dtype="float32")


def _pool(a: Any, window: int, stride: int, pads: tuple[int, ...], kind: str, every: bool) -> Any:
    return topi.nn.pool2d(
        a, (window, window), (stride, stride), (1, 1), pads, kind, count_include_pad=every
    )


def _bias_relu(a: Any, w: Any, b: Any) -> Any:
    return topi.nn.relu(topi.add(_conv2d(a, w, 1, 1, 1), b))


def _normalised(a: Any, g: Any, b: Any) -> Any:
    return topi.nn.layer_norm(a, g, b, [1])


BUILDERS: dict[str, Callable[[], Any]] = {
    "matmul": lambda: _of(lambda a, b: topi.nn.relu(topi.matmul(a, b)), (6, 10), (10, 12)),
    "row_times_matrix": lambda: _of(topi.matmul, (1, 7), (7, 5)),
    "batched_matmul": lambda: _of(topi.nn.batch_matmul, (2, 5, 6), (2, 7, 6)),
    "conv1d": lambda: _of(lambda a, w: topi.nn.conv1d_ncw(a, w, 2, 1, 1), (1, 4, 9), (6, 4, 3)),
    "dilated_conv1d": lambda: _of(
        lambda a, w: topi.nn.conv1d_ncw(a, w, 1, (2, 1), 2), (2, 3, 11), (4, 3, 3)
    ),
    "conv2d": lambda: _of(_bias_relu, (1, 4, 7, 6), (6, 4, 3, 3), (6, 1, 1)),
    "pointwise_conv2d": lambda: _of(
        lambda a, w: _conv2d(a, w, 1, 0, 1), (2, 6, 4, 5), (4, 6, 1, 1)
    ),
    "strided_conv2d": lambda: _of(lambda a, w: _conv2d(a, w, 2, 1, 1), (2, 3, 8, 7), (4, 3, 3, 3)),
    "conv2d_of_one_channel": lambda: _of(
        lambda a, w: _conv2d(a, w, (2, 1), (2, 0, 1, 1), 1), (1, 1, 9, 6), (3, 1, 5, 2)
    ),
    "conv2d_that_skips": lambda: _of(
        lambda a, w: _conv2d(a, w, 3, 0, 1), (1, 3, 11, 8), (4, 3, 2, 2)
    ),
    "dilated_conv2d": lambda: _of(lambda a, w: _conv2d(a, w, 1, 2, 2), (1, 4, 9, 9), (4, 4, 3, 3)),
    "asymmetric_conv2d": lambda: _of(
        lambda a, w: _conv2d(a, w, (2, 1), (0, 2, 1, 0), (1, 2)), (1, 2, 8, 9), (3, 2, 3, 3)
    ),
    "conv3d": lambda: _of(
        lambda a, w: topi.nn.conv3d_ncdhw(a, w, 1, 1, 1, 1), (1, 2, 4, 5, 5), (4, 2, 3, 3, 3)
    ),
    "strided_conv3d": lambda: _of(
        lambda a, w: topi.nn.conv3d_ncdhw(a, w, (1, 2, 2), 1, 1, 1),
        (2, 1, 3, 5, 6),
        (2, 1, 3, 3, 3),
    ),
    "grouped_conv2d": lambda: _of(
        lambda a, w: topi.nn.group_conv2d_nchw(a, w, 1, 1, 1, 2), (1, 6, 6, 5), (4, 3, 3, 3)
    ),
    "depthwise_conv2d": lambda: _of(
        lambda a, w: topi.nn.depthwise_conv2d_nchw(a, w, 1, 1, 1), (1, 6, 7, 7), (6, 1, 3, 3)
    ),
    "strided_depthwise_conv2d": lambda: _of(
        lambda a, w: topi.nn.depthwise_conv2d_nchw(a, w, 2, (0, 0, 1, 1), 1),
        (2, 3, 8, 8),
        (3, 1, 3, 3),
    ),
    "conv1d_transpose": lambda: _of(
        lambda a, w: topi.nn.conv1d_transpose_ncw(a, w, 2, (1, 1), "float32", (1,)),
        (1, 3, 5),
        (3, 4, 3),
    ),
    "conv2d_transpose": lambda: _of(
        lambda a, w: topi.nn.conv2d_transpose_nchw(a, w, (2, 2), (1, 1), "float32", (1, 1)),
        (1, 4, 5, 4),
        (4, 3, 3, 3),
    ),
    "conv3d_transpose": lambda: _of(
        lambda a, w: topi.nn.conv3d_transpose_ncdhw(
            a, w, (1, 2, 2), (1, 1, 1), "float32", (0, 1, 1)
        ),
        (1, 2, 3, 3, 3),
        (2, 2, 3, 3, 3),
    ),
    "max_pool1d": lambda: _of(
        lambda a: topi.nn.pool1d(a, [3], [2], [1], [1, 1], "max", layout="NCW"), (2, 3, 9)
    ),
    "max_pool2d": lambda: _of(
        lambda a: _pool(a, 3, 2, (1, 1, 1, 1), "max", every=False), (1, 4, 7, 7)
    ),
    "max_pool2d_that_skips": lambda: _of(
        lambda a: _pool(a, 2, 3, (1, 0, 0, 2), "max", every=False), (1, 3, 8, 7)
    ),
    "avg_pool2d": lambda: _of(
        lambda a: _pool(a, 3, 2, (1, 1, 1, 1), "avg", every=False), (1, 4, 7, 7)
    ),
    "avg_pool2d_of_all": lambda: _of(
        lambda a: _pool(a, 3, 1, (1, 0, 1, 2), "avg", every=True), (2, 1, 6, 6)
    ),
    "global_pool2d": lambda: _of(lambda a: topi.nn.global_pool(a, "avg"), (2, 3, 5, 4)),
    "elementwise": lambda: _of(
        lambda a, b: topi.tanh(topi.multiply(topi.add(a, b), a)), (2, 6, 4), (6, 1)
    ),
    "of_integers": lambda: _of(
        lambda a, b: topi.sum(topi.maximum(a, b), 1), (3, 8), (1, 8), dtype="int32"
    ),
    "softmax": lambda: _of(topi.nn.softmax, (4, 9)),
    "layer_norm": lambda: _of(_normalised, (3, 8), (8,), (8,)),
}


@cache
def operator(name: str) -> Any:
    """The function of that name; the same object every time."""
    return BUILDERS[name]()
