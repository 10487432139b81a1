"""Elementwise operators and reductions that the importer reads wrongly or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, checked_axis


def bit_shift(node: NodeProto, view: View) -> Repair:
    """A shift by the width or more is undefined in the generated code; ONNX has it give 0."""
    by, dtype = view.constant(node.input[1]), view.dtype(node.input[0])
    if dtype is None:
        return None
    if by is None or by.min(initial=0) < 0 or by.max(initial=0) >= 8 * dtype.itemsize:
        return f"shifts must be constants from 0 to {8 * dtype.itemsize - 1}"
    return None


LONGEST_SUM = 512
"""A cumulative sum over more elements than this goes block by block."""


def cum_sum(node: NodeProto, view: View) -> Repair:
    """The importer's operator has no TensorIR. Each sum is one of what a triangle lets through."""
    place, shape = view.constant(node.input[1]), view.shape(node.input[0])
    dtype, values = view.dtype(node.input[0]), attributes(node)
    if place is None or shape is None or dtype is None:
        return None
    axis = checked_axis(int(place.item()), len(shape))
    if isinstance(axis, str):
        return axis
    write = Rewrite(node, view)
    length, exclusive = shape[axis], values.get("exclusive", 0)
    if length > LONGEST_SUM:
        return _cum_sum_of_blocks(write, axis, shape, values)
    row, column = np.arange(length)[None], np.arange(length)[:, None]
    row, column = (column, row) if values.get("reverse", 0) else (row, column)
    let_through = (row < column if exclusive else row <= column).reshape(
        [length] * 2 + [1] * (len(shape) - axis - 1)
    )
    wide = write("Unsqueeze", node.input[0], write.constant([axis]))
    kept = write("Where", write.constant(let_through, "bool"), wide, write.constant(0, dtype))
    write("ReduceSum", kept, write.constant([axis + 1]), out=node.output[0], keepdims=0)
    return write.nodes


def _cum_sum_of_blocks(
    write: Rewrite, axis: int, shape: tuple[int, ...], values: dict[str, Any]
) -> list[NodeProto]:
    """Sums within blocks, and before each block the sum of the blocks on its side."""
    x, y = write.node.input[0], write.node.output[0]
    block = int(np.sqrt(shape[axis]))
    blocks = -(-shape[axis] // block)
    pads = np.zeros((2, len(shape)), np.int64)
    pads[1, axis] = blocks * block - shape[axis]
    split = write.constant([*shape[:axis], blocks, block, *shape[axis + 1 :]])
    parts = write("Reshape", write("Pad", x, write.constant(pads.ravel())), split)
    within = write("CumSum", parts, write.constant(axis + 1), **values)
    totals = write("ReduceSum", parts, write.constant([axis + 1]))
    before = write("CumSum", totals, write.constant(axis), **{**values, "exclusive": 1})
    joined = write.constant([*shape[:axis], blocks * block, *shape[axis + 1 :]])
    whole = write("Reshape", write("Add", within, before), joined)
    ends = (write.constant([n]) for n in (0, shape[axis], axis))
    write("Slice", whole, *ends, out=y)
    return write.nodes


def equal_to_minus_infinity(node: NodeProto, view: View) -> Repair:
    """TVM's maximum starts from the lowest finite number, so it is never -inf.

    ONNX's Attention asks that of each row of its mask; ask the elements instead.
    """
    bound = view.constant(node.input[1])
    maximum = view.maker(node.input[0])
    if bound is None or bound.size != 1 or bound.item() != -np.inf or maximum is None:
        return None
    if maximum.op_type != "ReduceMax":
        return None
    write = Rewrite(node, view)
    each = write("Cast", write("Equal", maximum.input[0], node.input[1]), to=TensorProto.INT32)
    every = write("ReduceMin", each, *maximum.input[1:], **attributes(maximum))
    write("Cast", every, out=node.output[0], to=TensorProto.BOOL)
    return write.nodes


def eye_like(node: NodeProto, view: View) -> Repair:
    """The importer refuses a dtype other than its input's. The value is a constant anyway."""
    shape = view.shape(node.input[0])
    if shape is None:
        return None
    values = attributes(node)
    dtype = _np_dtype(values["dtype"]) if "dtype" in values else view.dtype(node.input[0])
    write = Rewrite(node, view)
    eye = np.eye(shape[0], shape[1], values.get("k", 0))
    write("Identity", write.constant(eye, dtype or "float32"), out=node.output[0])
    return write.nodes


def is_inf(node: NodeProto, view: View) -> Repair:
    """The importer ignores `detect_positive` and `detect_negative`."""
    values = attributes(node)
    positive, negative = values.get("detect_positive", 1), values.get("detect_negative", 1)
    if positive and negative:
        return None
    write = Rewrite(node, view)
    zero = write.constant(0, view.dtype(node.input[0]) or "float32")
    side = write("Greater" if positive else "Less", node.input[0], zero)
    if not positive and not negative:
        side = write("And", side, write.constant(False, "bool"))
    write("And", write("IsInf", node.input[0]), side, out=node.output[0])
    return write.nodes


def mod(node: NodeProto, view: View) -> Repair:
    """Floats with fmod=0 give NaN for infinite divisors."""
    dtype = view.dtype(node.input[0])
    if dtype is not None and dtype.kind == "f" and not attributes(node).get("fmod", 0):
        return "fmod=0 on floats is not supported"
    return None


def one_hot(node: NodeProto, view: View) -> Repair:
    """The importer wants constant integer values, and drops negative indices."""
    depth, shape = view.constant(node.input[1]), view.shape(node.input[0])
    if depth is None:
        return "its depth is not constant; bind the input it depends on with constants={}"
    if shape is None:
        return None
    count, write = int(depth.item()), Rewrite(node, view)
    axis = attributes(node).get("axis", -1) % (len(shape) + 1)
    index = write("Cast", node.input[0], to=TensorProto.INT64)
    wrapped = write("Add", index, write.constant(count))
    index = write("Where", write("Less", index, write.constant(0)), wrapped, index)
    column = write("Unsqueeze", index, write.constant([axis]))
    place = np.arange(count).reshape([-1 if a == axis else 1 for a in range(len(shape) + 1)])
    hit = write("Equal", column, write.constant(place))
    on = write("Gather", node.input[2], write.constant(1), axis=0)
    off = write("Gather", node.input[2], write.constant(0), axis=0)
    write("Where", hit, on, off, out=node.output[0])
    return write.nodes


def power(node: NodeProto, view: View) -> Repair:
    """The importer refuses operands of different types, and integers do not compile."""
    base, exponent = view.dtype(node.input[0]), view.dtype(node.input[1])
    if base is None or exponent is None or (base == exponent and base.kind == "f"):
        return None
    write = Rewrite(node, view)
    wide = base if base.kind == "f" else np.dtype("float64")
    x = write("Cast", node.input[0], to=_onnx_dtype(wide))
    y = write("Cast", node.input[1], to=_onnx_dtype(wide))
    write("Cast", write("Pow", x, y), out=node.output[0], to=_onnx_dtype(base))
    return write.nodes


def reduce_of_bool(node: NodeProto, view: View) -> Repair:
    """The reduction's identity is undefined for booleans."""
    if view.dtype(node.input[0]) != np.bool_:
        return None
    write = Rewrite(node, view)
    x = write("Cast", node.input[0], to=TensorProto.INT32)
    made = write(node.op_type, x, *node.input[1:], **attributes(node))
    write("Cast", made, out=node.output[0], to=TensorProto.BOOL)
    return write.nodes


def _onnx_dtype(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def _np_dtype(code: int) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))
