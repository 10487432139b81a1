"""`Resize`, which the importer gets right only in its commonest forms."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, optional

_Array = np.ndarray


def resize(node: NodeProto, view: View) -> Repair:
    """Keep plain upscaling of the last axes; spell everything else as products and gathers.

    Problem: the importer works from output sizes alone, so a scale that does not divide evenly
    moves every sample; it ignores `axes`, `antialias` and `keep_aspect_ratio_policy`, scales of
    the first two axes, and takes only constant scales of full length.
    Evidence: `tests/tvm_patches/test_onnx_resize.py`.

    A resize is separable and linear. Along each axis it is a matrix, written as `MatMul`, or,
    for nearest, as `Gather`.
    """
    shape = view.shape(node.input[0])
    if shape is None:
        return None
    roi, scales, sizes = (view.constant(optional(node, i)) for i in (1, 2, 3))
    for position, value in ((2, scales), (3, sizes)):
        if optional(node, position) and value is None:
            return "its sizes are not constant; bind the inputs they depend on with constants={}"
    values = attributes(node)
    rank = len(shape)
    axes = [a % rank for a in values.get("axes", range(rank))]
    scale, size = _extents(shape, axes, scales, sizes, values)
    moved = [a for a in range(rank) if scale[a] != 1 or size[a] != shape[a]]
    crop = values.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crop:
        if roi is None:
            return "its roi is not constant; bind the inputs it depends on with constants={}"
        if values.get("extrapolation_value", 0.0) != 0.0:
            return "extrapolation_value other than 0 is not supported"
        moved = axes
    exact = all(size[a] == shape[a] * scale[a] for a in range(rank))
    # roi and scales stay behind: the importer reads sizes only.
    whole = all(size[a] % max(shape[a], 1) == 0 for a in moved)
    if _plain(values, moved, rank, exact, whole):
        if not optional(node, 1) and not optional(node, 2) and "axes" not in values:
            return None
        write = Rewrite(node, view)
        kept = {k: values[k] for k in values if k not in ("axes", "keep_aspect_ratio_policy")}
        write("Resize", node.input[0], "", "", write.constant(size), out=node.output[0], **kept)
        return write.nodes
    write = Rewrite(node, view)
    x = node.input[0]
    for axis in moved:
        window = (0.0, 1.0)
        if crop and roi is not None:
            place = axes.index(axis)
            window = (float(roi[place]), float(roi[place + len(axes)]))
        matrix = _matrix(shape[axis], size[axis], scale[axis], values, window)
        x = _apply(write, x, axis, rank, matrix, view)
    write("Identity", x, out=node.output[0])
    return write.nodes


def _plain(values: dict, moved: list[int], rank: int, exact: bool, whole: bool) -> bool:
    coordinates = values.get("coordinate_transformation_mode", "half_pixel")
    mode = values.get("mode", "nearest")
    if rank != 4 or any(axis < 2 for axis in moved) or values.get("antialias", 0) or not exact:
        return False
    if mode == "nearest":
        rounding = values.get("nearest_mode", "round_prefer_floor")
        return whole and (coordinates, rounding) == ("asymmetric", "floor")
    return mode == "linear" and coordinates in ("half_pixel", "align_corners", "asymmetric")


def _extents(
    shape: tuple[int, ...],
    axes: list[int],
    scales: _Array | None,
    sizes: _Array | None,
    values: dict,
) -> tuple[list[float], list[int]]:
    scale, size = [1.0] * len(shape), list(shape)
    if sizes is not None and sizes.size:
        policy = values.get("keep_aspect_ratio_policy", "stretch")
        ratios = [float(s) / shape[a] for a, s in zip(axes, sizes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            for a in axes:
                scale[a], size[a] = ratio, int(np.floor(ratio * shape[a] + 0.5))
        else:
            for a, s, ratio in zip(axes, sizes, ratios, strict=True):
                scale[a], size[a] = ratio, int(s)
    elif scales is not None:
        for a, s in zip(axes, scales, strict=True):
            scale[a], size[a] = float(s), int(np.floor(np.float64(s) * shape[a]))
    return scale, size


def _apply(write: Rewrite, x: str, axis: int, rank: int, matrix: _Array, view: View) -> str:
    one_each = (matrix != 0).sum(axis=1) == 1
    if one_each.all() and np.all(matrix[matrix != 0] == 1):
        return write("Gather", x, write.constant(matrix.argmax(axis=1)), axis=axis)
    dtype = view.dtype(write.node.input[0]) or np.dtype("float32")
    weights = write.constant(matrix.T, dtype)
    if axis == rank - 1:
        return write("MatMul", x, weights)
    order = [a for a in range(rank) if a != axis] + [axis]
    back = [int(a) for a in np.argsort(order)]
    moved = write("Transpose", x, perm=order)
    return write("Transpose", write("MatMul", moved, weights), perm=back)


def _matrix(
    extent: int, size: int, scale: float, values: dict, window: tuple[float, float]
) -> _Array:
    """Rows of weights: `output = matrix @ input` along one axis."""
    mode = values.get("mode", "nearest")
    place = _coordinates(extent, size, scale, values, window)
    matrix = np.zeros((size, extent))
    if mode == "nearest":
        rounding = values.get("nearest_mode", "round_prefer_floor")
        index = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[rounding]
        matrix[np.arange(size), np.clip(index, 0, extent - 1).astype(int)] = 1
    else:
        stretch = min(scale, 1.0) if values.get("antialias", 0) else 1.0
        radius = (1 if mode == "linear" else 2) / stretch
        first = np.floor(place - radius).astype(int)
        for offset in range(int(np.ceil(2 * radius)) + 2):
            index = first + offset
            distance = np.abs(place - index) * stretch
            weight = _kernel(distance, mode, values.get("cubic_coeff_a", -0.75))
            if values.get("exclude_outside", 0):
                weight = np.where((index < 0) | (index >= extent), 0, weight)
            np.add.at(matrix, (np.arange(size), np.clip(index, 0, extent - 1)), weight)
        matrix /= matrix.sum(axis=1, keepdims=True)
    if values.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        matrix[(place < 0) | (place > extent - 1)] = 0
    return matrix


def _kernel(distance: _Array, mode: str, a: float) -> _Array:
    if mode == "linear":
        return np.maximum(1 - distance, 0)
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _coordinates(
    extent: int, size: int, scale: float, values: dict, window: tuple[float, float]
) -> _Array:
    index = np.arange(size, dtype=np.float64)
    mode = values.get("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return index / scale
    if mode == "align_corners":
        # With scales, the length that the spec means is the unrounded one.
        length = scale * extent
        return np.zeros(size) if length == 1 else index * (extent - 1) / (length - 1)
    if mode == "pytorch_half_pixel":
        return (index + 0.5) / scale - 0.5 if scale * extent > 1 else np.zeros(size)
    if mode == "half_pixel_symmetric":
        centre = extent / 2 * (1 - size / (scale * extent))
        return centre + (index + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        start, end = window
        if size == 1:
            return np.full(1, 0.5 * (start + end) * (extent - 1))
        return start * (extent - 1) + index * (end - start) * (extent - 1) / (size - 1)
    return (index + 0.5) / scale - 0.5
