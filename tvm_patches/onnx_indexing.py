"""`TopK` and the scatters: sorting and writing anywhere have no TensorIR stages, comparing has."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes

LONGEST_TOP_K = 4096
"""Every element is compared with every other one, so longer axes are refused."""

_COMBINE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


def top_k(node: NodeProto, view: View) -> Repair:
    """An element's place is how many others come before it: larger, or equal and further left."""
    k, shape = view.constant(node.input[1]), view.shape(node.input[0])
    if k is None:
        why = "bind what it depends on with constants={}"
        return f"its input {node.input[1]} is not constant; {why}"
    if shape is None:
        return None
    values, write, x = attributes(node), Rewrite(node, view), node.input[0]
    axis = values.get("axis", -1) % len(shape)
    length, after = shape[axis], [1] * (len(shape) - axis - 1)
    if length > LONGEST_TOP_K:
        return f"its axis has {length} elements, more than {LONGEST_TOP_K} are not supported"
    places = np.arange(length)
    left = write.constant((places < places[:, None]).reshape(length, length, *after), "bool")
    here, other = (write("Unsqueeze", x, write.constant([a])) for a in (axis + 1, axis))
    before = write("Greater" if values.get("largest", 1) else "Less", other, here)
    tied = write("And", write("Equal", other, here), left)
    count = write("Cast", write("Or", before, tied), to=TensorProto.INT32)
    place = write("ReduceSum", count, write.constant([axis + 1]), keepdims=0)
    wanted = write.constant(np.arange(int(k.item())).reshape(-1, 1, *after), "int32")
    hit = write("Equal", write("Unsqueeze", place, write.constant([axis])), wanted)
    column = write.constant(places.reshape(-1, *after))
    chosen = write("Where", hit, column, write.constant(0))
    indices = node.output[1] if len(node.output) > 1 else ""
    index = write("ReduceMax", chosen, write.constant([axis + 1]), out=indices, keepdims=0)
    write("GatherElements", x, index, out=node.output[0], axis=axis)
    return write.nodes


def scatter_nd(node: NodeProto, view: View) -> Repair:
    """What is written where is known: a choice between the data and the gathered updates."""
    data, updates = node.input[0], node.input[2]
    shape, indices = view.shape(data), view.constant(node.input[1])
    if indices is None:
        return f"its indices {node.input[1]} are not constant; bind what they depend on"
    if shape is None:
        return None
    depth = indices.shape[-1]
    outer, inner = shape[:depth], shape[depth:]
    at = indices.reshape(-1, depth) % np.array(outer, np.int64)
    rows = np.asarray(np.ravel_multi_index(tuple(at.T), outer))
    reduction = attributes(node).get("reduction", "none")
    if reduction != "none" and len(np.unique(rows)) != len(rows):
        return f"reduction={reduction} at repeated indices is not supported"
    source = np.full(int(np.prod(outer)), -1)
    source[rows] = np.arange(len(rows))
    write = Rewrite(node, view)
    flat = write("Reshape", updates, write.constant([len(rows), *inner]))
    taken = write("Gather", flat, write.constant(np.maximum(source, 0)), axis=0)
    whole = write("Reshape", taken, write.constant(shape))
    if reduction != "none":
        whole = write(_COMBINE[reduction], data, whole)
    hit = write.constant((source >= 0).reshape(*outer, *[1] * len(inner)), "bool")
    write("Where", hit, whole, data, out=node.output[0])
    return write.nodes


def scatter_elements(node: NodeProto, view: View) -> Repair:
    """Each element looks for the last index that names it, or adds up all updates that do."""
    data, updates = node.input[0], node.input[2]
    shape, size, dtype = view.shape(data), view.shape(node.input[1]), view.dtype(data)
    if shape is None or size is None or dtype is None:
        return None
    values, write = attributes(node), Rewrite(node, view)
    axis, reduction = values.get("axis", 0) % len(shape), values.get("reduction", "none")
    after = [1] * (len(shape) - axis - 1)
    if reduction not in ("none", "add"):
        return f"reduction={reduction} is not supported"
    if any(a != b for d, (a, b) in enumerate(zip(shape, size, strict=True)) if d != axis):
        return f"indices of shape {size} for data of shape {shape} are not supported"
    index = write("Cast", node.input[1], to=TensorProto.INT64)
    wrapped = write("Add", index, write.constant(shape[axis]))
    index = write("Where", write("Less", index, write.constant(0)), wrapped, index)
    column = write("Unsqueeze", index, write.constant([axis]))
    place = np.arange(shape[axis]).reshape(-1, 1, *after)
    hit = write("Equal", column, write.constant(place))
    over = write.constant([axis + 1])
    if reduction == "add":
        wide = write("Unsqueeze", updates, write.constant([axis]))
        kept = write("Where", hit, wide, write.constant(0, dtype))
        write("Add", data, write("ReduceSum", kept, over, keepdims=0), out=node.output[0])
        return write.nodes
    number = write.constant(np.arange(size[axis]).reshape(-1, *after))
    last = write("Where", hit, number, write.constant(-1))
    last = write("ReduceMax", last, over, keepdims=0)
    found = write("GreaterOrEqual", last, write.constant(0))
    inside = write("Max", last, write.constant(0))
    taken = write("GatherElements", updates, inside, axis=axis)
    write("Where", found, taken, data, out=node.output[0])
    return write.nodes
