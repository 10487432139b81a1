"""Relax operators on small tensors, legalised: the functions that stages must be able to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax
from tvm.relax import op as ops

Builder = Callable[..., Any]


def x(*shape: int, dtype: str = "float32") -> relax.Var:
    """A tensor argument."""
    return relax.Var("x", relax.TensorType(shape, dtype))


A = (2, 6, 5, 4)
UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf exp floor isfinite isinf isnan log "
    "negative round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc zeros_like ones_like"
)
BINARY = (
    "add atan2 divide equal floor_divide floor_mod greater greater_equal less less_equal "
    "log_add_exp maximum minimum mod multiply not_equal power subtract"
)
ACTIVATIONS = "relu silu gelu gelu_tanh leakyrelu softplus selu softmax log_softmax"


def reduction(name: str) -> Builder:
    """A reduction over two axes."""
    return lambda a: getattr(ops, name)(a, [1, 3])


def pooling(name: str, dims: int) -> Builder:
    """A pooling with overlapping windows and pads."""
    return lambda a: getattr(ops.nn, name)(a, (3,) * dims, (2,) * dims, (1,) * dims)


def adaptive(name: str, dims: int) -> Builder:
    """An adaptive pooling to extents of 3."""
    return lambda a: getattr(ops.nn, name)(a, (3,) * dims)


ARGS: dict[str, tuple[list[relax.Var], Builder]] = {
    **{name: ([x(*A)], getattr(ops, name)) for name in UNARY.split()},
    **{name: ([x(*A), x(6, 1, 4)], getattr(ops, name)) for name in BINARY.split()},
    **{f"nn.{name}": ([x(*A)], getattr(ops.nn, name)) for name in ACTIVATIONS.split()},
    **{
        name: ([x(*A, dtype="int32"), x(*A, dtype="int32")], getattr(ops, name))
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")
    },
    **{
        name: ([x(*A, dtype="bool"), x(*A, dtype="bool")], getattr(ops, name))
        for name in ("logical_and", "logical_or", "logical_xor")
    },
    "logical_not": ([x(*A, dtype="bool")], ops.logical_not),
    "bitwise_not": ([x(*A, dtype="int32")], ops.bitwise_not),
    "clip": ([x(*A)], lambda a: ops.clip(a, 0, 6)),
    "astype": ([x(*A)], lambda a: ops.astype(a, "int64")),
    "where": ([x(*A, dtype="bool"), x(*A), x(6, 1, 1)], ops.where),
    "nn.prelu": ([x(*A), x(6)], ops.nn.prelu),
    **{
        name: ([x(*A)], reduction(name))
        for name in ("sum", "mean", "max", "min", "prod", "std", "variance")
    },
    "sum.all": ([x(*A)], ops.sum),
    "sum.keepdims": ([x(*A)], lambda a: ops.sum(a, [1], keepdims=True)),
    "argmax": ([x(*A)], lambda a: ops.argmax(a, 1)),
    "argmin": ([x(*A)], lambda a: ops.argmin(a, 2, keepdims=True)),
    "median": ([x(*A)], lambda a: ops.median(a, [1])),
    "cumsum": ([x(*A)], lambda a: ops.cumsum(a, 1)),
    "sort": ([x(*A)], lambda a: ops.sort(a, 1)),
    "argsort": ([x(*A)], lambda a: ops.argsort(a, 1)),
    "topk": ([x(*A)], lambda a: ops.topk(a, 2, 1)),
    "reshape": ([x(*A)], lambda a: ops.reshape(a, (12, 20))),
    "flatten": ([x(*A)], ops.flatten),
    "squeeze": ([x(2, 1, 5, 1)], ops.squeeze),
    "expand_dims": ([x(2, 5)], lambda a: ops.expand_dims(a, [1, 3])),
    "permute_dims": ([x(*A)], lambda a: ops.permute_dims(a, [0, 2, 3, 1])),
    "broadcast_to": ([x(6, 1, 4)], lambda a: ops.broadcast_to(a, A)),
    "concat": ([x(2, 3, 4), x(2, 5, 4), x(2, 1, 4)], lambda *a: ops.concat(list(a), 1)),
    "stack": ([x(2, 3), x(2, 3)], lambda *a: ops.stack(list(a), 1)),
    "split": ([x(*A)], lambda a: ops.split(a, 2, 1)),
    "split.at": ([x(*A)], lambda a: ops.split(a, [1, 4], 1)),
    "strided_slice": ([x(*A)], lambda a: ops.strided_slice(a, [1, 2], [1, 0], [6, 5], [2, 1])),
    "strided_slice.backwards": (
        [x(*A)],
        lambda a: ops.strided_slice(a, [1], [5], [-7], [-1]),
    ),
    "dynamic_strided_slice": (
        [x(8), x(1, dtype="int64"), x(1, dtype="int64"), x(1, dtype="int64")],
        ops.dynamic_strided_slice,
    ),
    "take": ([x(*A), x(3, 2, dtype="int64")], lambda a, b: ops.take(a, b, 1)),
    "gather_elements": (
        [x(3, 4), x(3, 4, dtype="int64")],
        lambda a, b: ops.gather_elements(a, b, 1),
    ),
    "gather_nd": ([x(3, 4, 5), x(2, 2, dtype="int64")], ops.gather_nd),
    "index_tensor": ([x(3, 4), x(5, dtype="int64")], lambda a, b: ops.index_tensor(a, [b])),
    "index_put": (
        [x(6), x(5, dtype="int64"), x(5)],
        lambda a, b, c: ops.index_put(a, [b], c),
    ),
    "scatter_elements": (
        [x(3, 4), x(3, 4, dtype="int64"), x(3, 4)],
        lambda a, b, c: ops.scatter_elements(a, b, c, 1),
    ),
    "scatter_nd": ([x(8), x(4, 1, dtype="int64"), x(4)], ops.scatter_nd),
    "slice_scatter": ([x(8, 4), x(3, 4)], lambda a, b: ops.slice_scatter(a, b, 1, 4, 1, 0)),
    "one_hot": (
        [x(5, dtype="int64")],
        lambda a: ops.one_hot(a, relax.prim_value(1), relax.prim_value(0), 4),
    ),
    "tile": ([x(2, 3)], lambda a: ops.tile(a, [2, 1, 3])),
    "repeat": ([x(2, 3)], lambda a: ops.repeat(a, 2, 1)),
    "flip": ([x(*A)], lambda a: ops.flip(a, 1)),
    "reverse_sequence": (
        [x(3, 4), x(3, dtype="int64")],
        lambda a, b: ops.reverse_sequence(a, b, 1, 0),
    ),
    "meshgrid": ([x(3), x(4)], lambda *a: ops.meshgrid(list(a), "ij")),
    "outer": ([x(3), x(4)], ops.outer),
    "einsum": ([x(3, 4), x(4, 5)], lambda *a: ops.einsum(list(a), "ij,jk->ik")),
    "matmul": ([x(2, 5, 6), x(6, 7)], ops.matmul),
    "matmul.vector": ([x(6), x(6)], ops.matmul),
    "tril": ([x(5, 5)], ops.tril),
    "triu": ([x(5, 5)], lambda a: ops.triu(a, 1)),
    "full": ([], lambda: ops.full((2, 3), relax.const(1.5), "float32")),
    "full_like": ([x(2, 3)], lambda a: ops.full_like(a, relax.const(1.5))),
    "zeros": ([], lambda: ops.zeros((2, 3), "float32")),
    "ones": ([], lambda: ops.ones((2, 3), "float32")),
    "eye": ([], lambda: ops.eye(4, 5, 1, "float32")),
    "eye_like": ([x(4, 5)], ops.eye_like),
    "arange": ([], lambda: ops.arange(2, 12, 3, "float32")),
    "hamming_window": ([], lambda: ops.hamming_window(8, True, 0.54, 0.46, "float32")),
    "bucketize": ([x(5), x(4)], ops.bucketize),
    "unique": ([x(8)], ops.unique),
    "nonzero": ([x(8)], ops.nonzero),
    "quantize": (
        [x(*A), x(6), x(6, dtype="int8")],
        lambda a, b, c: ops.quantize(a, b, c, 1, "int8"),
    ),
    "dequantize": (
        [x(*A, dtype="int8"), x(6), x(6, dtype="int8")],
        lambda a, b, c: ops.dequantize(a, b, c, 1, "float32"),
    ),
    "nn.pad": ([x(2, 3, 4)], lambda a: ops.nn.pad(a, [0, 0, 1, 2, 0, 3])),
    "nn.pad.reflect": ([x(2, 3, 4)], lambda a: ops.nn.pad(a, [0, 0, 1, 2, 0, 3], "reflect")),
    "nn.pad.replicate": ([x(2, 3, 4)], lambda a: ops.nn.pad(a, [0, 0, 1, 2, 0, 3], "replicate")),
    "nn.pad.circular": ([x(2, 3, 4)], lambda a: ops.nn.pad(a, [0, 0, 1, 2, 0, 3], "circular")),
    "nn.batch_flatten": ([x(*A)], ops.nn.batch_flatten),
    "nn.dropout": ([x(*A)], ops.nn.dropout),
    "nn.conv1d": ([x(1, 4, 9), x(6, 4, 3)], lambda a, w: ops.nn.conv1d(a, w, 2, 1)),
    "nn.conv2d": ([x(2, 4, 7, 6), x(6, 4, 3, 3)], lambda a, w: ops.nn.conv2d(a, w, 1, 1)),
    "nn.conv2d.grouped": (
        [x(1, 4, 7, 6), x(6, 2, 3, 3)],
        lambda a, w: ops.nn.conv2d(a, w, 2, 1, groups=2),
    ),
    "nn.conv2d.depthwise": (
        [x(1, 6, 7, 6), x(6, 1, 3, 3)],
        lambda a, w: ops.nn.conv2d(a, w, 1, 2, 2, groups=6),
    ),
    "nn.conv2d.nhwc": (
        [x(1, 7, 6, 4), x(6, 3, 3, 4)],
        lambda a, w: ops.nn.conv2d(a, w, 1, 1, data_layout="NHWC", kernel_layout="OHWI"),
    ),
    "nn.conv3d": ([x(1, 2, 4, 5, 6), x(3, 2, 3, 3, 3)], lambda a, w: ops.nn.conv3d(a, w, 1, 1)),
    "nn.conv1d_transpose": (
        [x(1, 4, 5), x(4, 6, 3)],
        lambda a, w: ops.nn.conv1d_transpose(a, w, 2, 1),
    ),
    "nn.conv2d_transpose": (
        [x(1, 4, 5, 4), x(4, 6, 3, 3)],
        lambda a, w: ops.nn.conv2d_transpose(a, w, 2, 1, 1),
    ),
    "nn.conv3d_transpose": (
        [x(1, 2, 3, 3, 3), x(2, 3, 2, 2, 2)],
        lambda a, w: ops.nn.conv3d_transpose(a, w, 2),
    ),
    **{
        f"nn.{kind}_pool{d}d": (
            [x(1, 3, *(7, 6, 5)[:d])],
            pooling(f"{kind}_pool{d}d", d),
        )
        for kind in ("max", "avg")
        for d in (1, 2, 3)
    },
    "nn.avg_pool2d.ceil": (
        [x(1, 3, 7, 6)],
        lambda a: ops.nn.avg_pool2d(
            a, (3, 3), (2, 2), (1, 1), ceil_mode=True, count_include_pad=True
        ),
    ),
    **{
        f"nn.adaptive_avg_pool{d}d": (
            [x(1, 3, *(7, 6, 5)[:d])],
            adaptive(f"adaptive_avg_pool{d}d", d),
        )
        for d in (1, 2, 3)
    },
    "nn.adaptive_avg_pool2d.global": (
        [x(1, 3, 7, 6)],
        lambda a: ops.nn.adaptive_avg_pool2d(a, (1, 1)),
    ),
    "nn.batch_norm": (
        [x(*A), x(6), x(6), x(6), x(6)],
        lambda a, *p: ops.nn.batch_norm(a, *p, axis=1, training=False),
    ),
    "nn.layer_norm": ([x(2, 5, 6), x(6), x(6)], lambda a, g, b: ops.nn.layer_norm(a, g, b, [-1])),
    "nn.group_norm": (
        [x(*A), x(6), x(6)],
        lambda a, g, b: ops.nn.group_norm(a, g, b, 2, 1, [2, 3]),
    ),
    "nn.instance_norm": (
        [x(*A), x(6), x(6)],
        lambda a, g, b: ops.nn.instance_norm(a, g, b, 1, [2, 3]),
    ),
    "nn.rms_norm": ([x(2, 5, 6), x(6)], lambda a, g: ops.nn.rms_norm(a, g, [-1])),
    "nn.attention": ([x(1, 5, 2, 4), x(1, 7, 2, 4), x(1, 7, 2, 4)], ops.nn.attention),
    "nn.cross_entropy_with_logits": ([x(3, 4), x(3, 4)], ops.nn.cross_entropy_with_logits),
    "nn.nll_loss": (
        [x(3, 4), x(3, dtype="int64"), x(4)],
        ops.nn.nll_loss,
    ),
    "image.resize2d": (
        [x(1, 3, 4, 5)],
        lambda a: ops.image.resize2d(a, (8, 7), layout="NCHW", method="linear"),
    ),
    "image.resize2d.nearest": (
        [x(1, 3, 4, 5)],
        lambda a: ops.image.resize2d(a, (8, 10), layout="NCHW", method="nearest_neighbor"),
    ),
    "image.resize2d.cubic": (
        [x(1, 3, 4, 5)],
        lambda a: ops.image.resize2d(a, (8, 7), layout="NCHW", method="cubic"),
    ),
    "image.resize3d": ([x(1, 2, 3, 4, 5)], lambda a: ops.image.resize3d(a, (4, 6, 7))),
    "image.grid_sample": ([x(1, 3, 4, 5), x(1, 2, 6, 7)], ops.image.grid_sample),
    "image.affine_grid": ([x(1, 2, 3)], lambda a: ops.image.affine_grid(a, (4, 5))),
    "vision.roi_align": (
        [x(1, 3, 8, 8), x(2, 5)],
        lambda a, r: ops.vision.roi_align(a, r, (2, 2), 1.0, 2),
    ),
    "vision.roi_pool": (
        [x(1, 3, 8, 8), x(2, 5)],
        lambda a, r: ops.vision.roi_pool(a, r, (2, 2), 1.0),
    ),
    "vision.non_max_suppression": (
        [x(1, 8, 6), x(1, dtype="int32"), x(1, 8, dtype="int32")],
        ops.vision.non_max_suppression,
    ),
    "grad.max_pool2d_backward": (
        [x(1, 2, 3, 3), x(1, 2, 6, 6)],
        lambda g, a: ops.grad.max_pool2d_backward(g, a, (2, 2), (2, 2)),
    ),
    "grad.avg_pool2d_backward": (
        [x(1, 2, 3, 3), x(1, 2, 6, 6)],
        lambda g, a: ops.grad.avg_pool2d_backward(g, a, (2, 2), (2, 2)),
    ),
    "collapse_sum_to": ([x(2, 3, 4)], lambda a: ops.collapse_sum_to(a, (3, 1))),
    "layout_transform": (
        [x(4, 8)],
        lambda a: ops.layout_transform(a, lambda i, j: (i, j // 4, j % 4)),
    ),
}
"""For each case the arguments and what makes the call from them."""


def module(name: str) -> tvm.IRModule:
    """One operator, legalised into TensorIR functions."""
    shapes, build = ARGS[name]
    params = [relax.Var(f"x{k}", p.ty) for k, p in enumerate(shapes)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(build(*params)))
        builder.emit_func_output(out)
    return relax.transform.LegalizeOps()(builder.get())


def functions(name: str) -> list[tvm.tirx.PrimFunc]:
    """The TensorIR functions of one operator."""
    legal = module(name)
    return [f for f in legal.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
