"""What a layout means, in NumPy: `pack` and `unpack`, for weights, tests and conversions."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.steps import Fold, Fuse, Pad, Reorder, Shape, Split, Step, Unfold, Unpad
from primitives.store_at import Joint

Array: TypeAlias = npt.NDArray[Any]


def pack(array: Array, layout: Layout, fill: float = 0) -> Array:
    """The stored form of an array: contiguous, of shape `layout.shape`; perhaps the array itself.

    Args:
        array: an array of the layout's logical shape, of any strides.
        layout: how to store it.
        fill: what cells that hold no element are set to.

    Raises:
        LayoutError: if the shapes differ.

    >>> pack(np.arange(5), Layout.identity((5,)).pad(0, 0, 1).split(0, (3, 2)), fill=9).tolist()
    [[0, 1], [2, 3], [4, 9]]
    """
    if array.shape != layout.logical_shape:
        raise LayoutError(
            f"pack an array of shape {array.shape} by {layout}: the layout stores "
            f"{layout.logical_shape}; reshape the array or make a layout for its shape"
        )
    shape = layout.logical_shape
    for step in layout.steps:
        array = _pack_step(array, step, step.shape(shape), fill)
        shape = array.shape
    return np.asarray(array, order="C")


def unpack(stored: Array, layout: Layout) -> Array:
    """The array whose stored form this is: contiguous; perhaps the stored array itself.

    >>> layout = Layout.parse("5 pad(0,0,1) split(0,3,2)")
    >>> unpack(np.array([[0, 1], [2, 3], [4, 9]]), layout).tolist()
    [0, 1, 2, 3, 4]
    """
    if stored.shape != layout.shape:
        raise LayoutError(
            f"unpack an array of shape {stored.shape} by {layout}: it stores as {layout.shape}; "
            "pass the stored array"
        )
    shapes = [layout.logical_shape]
    for step in layout.steps:
        shapes.append(step.shape(shapes[-1]))
    for step, shape in zip(reversed(layout.steps), reversed(shapes[:-1]), strict=True):
        stored = _unpack_step(stored, step, shape)
    return np.asarray(stored, order="C")


def pack_joint(host: Array, guest: Array, joint: Joint, fill: float = 0) -> Array:
    """The buffer in which two arrays are stored together: contiguous.

    Args:
        host: an array of the logical shape of the joint's host.
        guest: one of the logical shape of its guest and of the same dtype.
        joint: how to store them.
        fill: what cells that hold no element are set to.

    Raises:
        LayoutError: if the shapes are not the joint's, or the dtypes differ.

    >>> joint = Joint.parse("2x3 + 3 at 0 pad(1,0,1)")
    >>> pack_joint(np.arange(6).reshape(2, 3), np.array([7, 8, 9]), joint, fill=-1).tolist()
    [[0, 1, 2, -1], [3, 4, 5, -1], [7, 8, 9, -1]]
    """
    if host.dtype != guest.dtype:
        raise LayoutError(
            f"pack arrays of {host.dtype} and {guest.dtype} by {joint}: a buffer has one dtype; "
            "convert one of the arrays"
        )
    slices = np.expand_dims(pack(guest, joint.guest, fill), joint.axis)
    joined = np.concatenate([pack(host, joint.host, fill), slices], joint.axis)
    return pack(joined, joint.joined, fill)


def unpack_joint(stored: Array, joint: Joint) -> tuple[Array, Array]:
    """The two arrays that are stored together in this buffer: host and guest, contiguous.

    Raises:
        LayoutError: if the buffer has another shape.

    >>> host, guest = unpack_joint(np.arange(6).reshape(3, 2), Joint.parse("2x2 + 2 at 0"))
    >>> host.tolist(), guest.tolist()
    ([[0, 1], [2, 3]], [4, 5])
    """
    joined = unpack(stored, joint.joined)
    host, guest = np.split(joined, [joint.host.shape[joint.axis]], joint.axis)
    return unpack(host, joint.host), unpack(guest.squeeze(joint.axis), joint.guest)


def _pack_step(array: Any, step: Step, shape: Shape, fill: float) -> Array:
    match step:
        case Reorder(perm):
            return array.transpose(perm)
        case Pad(axis, before, _):
            padded = np.empty(shape, array.dtype)
            inside = [slice(None)] * array.ndim
            extent = array.shape[axis]
            for part in (slice(0, before), slice(before + extent, None)):
                inside[axis] = part
                padded[tuple(inside)] = fill
            inside[axis] = slice(before, before + extent)
            padded[tuple(inside)] = array
            return padded
        case Unpad(axis, before, _):
            inside = [slice(None)] * array.ndim
            inside[axis] = slice(before, before + shape[axis])
            return array[tuple(inside)]
        case Split() | Fuse():
            return array.reshape(shape)
        case Unfold(axis, size, stride):
            behind = (shape[axis] - 1) * stride + size - array.shape[axis]
            longer = _pack_step(
                array, Pad(axis, 0, behind), Pad(axis, 0, behind).shape(array.shape), fill
            )
            windows = np.lib.stride_tricks.sliding_window_view(longer, size, axis)
            every = [slice(None)] * array.ndim
            every[axis] = slice(None, None, stride)
            return np.moveaxis(windows[tuple(every)], -1, axis + 1)
        case Fold(axis, extent, stride):
            size = array.shape[axis + 1]
            cell = Unfold(0, size, stride).forward([np.arange(extent)], (extent,))
            tiles_first = np.moveaxis(array, (axis, axis + 1), (0, 1))
            return np.moveaxis(tiles_first[tuple(cell)], 0, axis)
        case _:
            raise LayoutError(f"pack by step {step}: NumPy has no definition of it; add one here")


def _unpack_step(stored: Any, step: Step, shape: Shape) -> Array:
    """The array of this shape that the step stored so; cells it cut off come back as 0."""
    return _pack_step(stored, step.undo(shape), shape, 0)
