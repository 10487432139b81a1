"""`TopK` and the scatters: sorting and writing anywhere have no TensorIR stages, comparing has."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import NodeProto, TensorProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, checked_axis

LONGEST_TOP_K = 4096
"""Every element is compared with every other one, so longer axes are refused."""

MOST_COMPARISONS = 1 << 28
"""Of one node, every element with every other one or every index: a few tenths of a second."""

_COMBINE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


def top_k(node: NodeProto, view: View) -> Repair:
    """An element's place is how many others come before it: larger, or equal and further left.

    Where elements are not numbers, which ONNX leaves open, some indices may come twice.
    """
    k, shape = view.constant(node.input[1]), view.shape(node.input[0])
    if k is None or shape is None:
        return None
    values, write, x = attributes(node), Rewrite(node, view), node.input[0]
    axis = checked_axis(values.get("axis", -1), len(shape))
    if isinstance(axis, str):
        return axis
    length, after = shape[axis], [1] * (len(shape) - axis - 1)
    if length > LONGEST_TOP_K:
        return f"its axis has {length} elements, more than {LONGEST_TOP_K} are not supported"
    if prod(shape) * length > MOST_COMPARISONS:
        return _too_many(prod(shape), length)
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
    """A choice between the data and the gathered updates; known when compiling, or looked for."""
    data, updates = node.input[0], node.input[2]
    shape, size, indices = view.shape(data), view.shape(node.input[1]), view.constant(node.input[1])
    if shape is None or size is None:
        return None
    if size[-1] > len(shape):
        return f"indices of {size[-1]} numbers for {len(shape)} dimensions"
    outer, inner = shape[: size[-1]], shape[size[-1] :]
    count, updated = prod(outer), prod(size[:-1])
    write, reduction = Rewrite(node, view), attributes(node).get("reduction", "none")
    if reduction not in ("none", *_COMBINE):
        return f"reduction={reduction} is not supported"
    if indices is not None:
        bounds = np.array(outer, np.int64)
        if ((indices < -bounds) | (indices >= bounds)).any():
            return f"an index of its input {node.input[1]} is out of range"
        at = indices.reshape(-1, size[-1]) % bounds
        rows = np.asarray(np.ravel_multi_index(tuple(at.T), outer))
        if reduction != "none" and len(np.unique(rows)) != updated:
            return f"reduction={reduction} at repeated indices is not supported"
        known = np.full(count, -1)
        known[rows] = np.arange(updated)
        source = write.constant(known)
    elif reduction != "none":
        return f"reduction={reduction} at indices that are not constant is not supported"
    elif count * updated > MOST_COMPARISONS:
        return _too_many(count, updated)
    else:
        source = _last_to_write(write, outer, size[-1], updated)
    flat = write("Reshape", updates, write.constant([updated, *inner]))
    taken = write("Gather", flat, write("Max", source, write.constant(0)), axis=0)
    whole = write("Reshape", taken, write.constant(shape))
    if reduction != "none":
        whole = write(_COMBINE[reduction], data, whole)
    hit = write("GreaterOrEqual", source, write.constant(0))
    hit = write("Reshape", hit, write.constant([*outer, *[1] * len(inner)]))
    write("Where", hit, whole, data, out=node.output[0])
    return write.nodes


def _last_to_write(write: Rewrite, outer: tuple[int, ...], depth: int, updated: int) -> str:
    """For each place the number of the last update of it, -1 if there is none."""
    index = write("Reshape", write.node.input[1], write.constant([updated, depth]))
    index = _from_the_front(write, index, outer)
    strides = [prod(outer[axis + 1 :]) for axis in range(depth)]
    part = write("Mul", index, write.constant(strides))
    # What is out of range writes nowhere: one such number makes the whole negative.
    above = write("GreaterOrEqual", index, write.constant(0))
    inside = write("And", above, write("Less", index, write.constant(outer)))
    part = write("Where", inside, part, write.constant(-prod(outer)))
    row = write("ReduceSum", part, write.constant([1]))
    place = write.constant(np.arange(prod(outer))[None])
    number = write.constant(np.arange(updated)[:, None])
    last = write("Where", write("Equal", row, place), number, write.constant(-1))
    return write("ReduceMax", last, write.constant([0]), keepdims=0)


def _from_the_front(write: Rewrite, index: str, extents: int | tuple[int, ...]) -> str:
    """Indices, of which negative ones count from the end."""
    wrapped = write("Add", index, write.constant(extents))
    return write("Where", write("Less", index, write.constant(0)), wrapped, index)


def _too_many(places: int, indices: int) -> str:
    return f"comparing {places} elements with {indices} others takes too long"


def scatter_elements(node: NodeProto, view: View) -> Repair:
    """Each element looks for the last index that names it, or adds up all updates that do."""
    data, updates = node.input[0], node.input[2]
    shape, size, dtype = view.shape(data), view.shape(node.input[1]), view.dtype(data)
    if shape is None or size is None or dtype is None:
        return None
    values, write = attributes(node), Rewrite(node, view)
    reduction = values.get("reduction", "none")
    axis = checked_axis(values.get("axis", 0), len(shape))
    if isinstance(axis, str):
        return axis
    if len(size) != len(shape):
        return f"indices of {len(size)} dimensions for {len(shape)}"
    after = [1] * (len(shape) - axis - 1)
    if reduction not in ("none", "add"):
        return f"reduction={reduction} is not supported"
    if prod(shape) * size[axis] > MOST_COMPARISONS:
        return _too_many(prod(shape), size[axis])
    index = write("Cast", node.input[1], to=TensorProto.INT64)
    index = _from_the_front(write, index, shape[axis])
    missing = [0 if d == axis else a - b for d, (a, b) in enumerate(zip(shape, size, strict=True))]
    if any(missing):  # no index there names any place
        ends = write.constant([0] * len(shape) + missing)
        index = write("Pad", index, ends, write.constant(-1))
        updates = write("Pad", updates, ends, write.constant(0, dtype))
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
