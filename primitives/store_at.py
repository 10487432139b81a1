"""Two tensors in one buffer: a bias beside its weights, as one stream of memory.

Source: ALT (EuroSys 2023, arXiv 2210.12415), `store_at` and `decouple_at`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from primitives.builders import Builders
from primitives.errors import LayoutError
from primitives.indexing import Index, Valid, both
from primitives.layout import Layout
from primitives.steps import Pad, Shape, Step
from primitives.text import read_steps, write_shape, write_steps


@dataclass(frozen=True)
class Joint(Builders):
    """How two tensors are stored in one buffer: the guest is one more slice of the host.

    Each is stored by its own layout first. The guest's stored tensor becomes the last slice of
    the host's along `axis`; the steps `then` store the joined tensor. Like a `Layout`, a joint
    cannot be illegal, and its builders (`split`, `reorder`, `fuse`, `pad`, `unfold`, and `fold`,
    `unpad` that undo) give another one.

    Rewrite:
        before: w[k, n], k < K, and b[n]
        after:  w[k, n] at j[k, n] and b[n] at j[K, n], for axis 0

    >>> joint = store_at(Layout.identity((3, 4)), Layout.identity((4,)), 0).reorder((1, 0))
    >>> joint.shape, joint.host_forward((2, 1)), joint.guest_forward((1,))
    ((4, 4), [1, 2], [1, 3])
    >>> print(joint)
    3x4 + 4 at 0 reorder(1,0)
    """

    host: Layout
    guest: Layout
    axis: int
    """The axis of the host's stored tensor that gains a slice."""
    then: tuple[Step, ...] = ()
    shape: Shape = field(init=False, compare=False, repr=False)
    """The shape of the buffer."""
    joined: Layout = field(init=False, compare=False, repr=False)
    """How the joined tensor, the host's stored one with one more slice, is stored."""
    host_layout: Layout = field(init=False, compare=False, repr=False)
    """How the host is stored in the buffer. To it the guest's cells hold no element, and its
    `border` may count them: they hold no fill either."""

    def __post_init__(self) -> None:
        shape, axis = self.host.shape, self.axis
        what = f"store {self.guest} at axis {axis} of {self.host}"
        if not 0 <= axis < len(shape):
            raise LayoutError(
                f"{what}: that is stored as {write_shape(shape)}, which has no axis {axis}; "
                + (f"use 0 to {len(shape) - 1}" if shape else "a scalar takes no guest")
            )
        wanted = (*shape[:axis], *shape[axis + 1 :])
        if self.guest.shape != wanted:
            raise LayoutError(
                f"{what}: a slice of {write_shape(shape)} is {write_shape(wanted)}, and the guest "
                f"is stored as {write_shape(self.guest.shape)}; lay it out as {write_shape(wanted)}"
            )
        pad = Pad(axis, 0, 1)
        joined = Layout(pad.shape(shape), self.then)
        object.__setattr__(self, "joined", joined)
        object.__setattr__(self, "shape", joined.shape)
        host_layout = Layout(self.host.logical_shape, (*self.host.steps, pad, *self.then))
        object.__setattr__(self, "host_layout", host_layout)

    def apply(self, step: Step) -> Joint:
        """This joint, its buffer stored by one more step."""
        return replace(self, then=self.joined.apply(step).steps)

    def host_forward(self, indices: Sequence[Index]) -> list[Index]:
        """Where the element of the host at these logical indices is stored."""
        return self.host_layout.forward(indices)

    def guest_forward(self, indices: Sequence[Index]) -> list[Index]:
        """Where the element of the guest at these logical indices is stored."""
        stored = self.guest.forward(indices)
        stored.insert(self.axis, self.host.shape[self.axis])
        return self.joined.forward(stored)

    def inverse(self, indices: Sequence[Index]) -> tuple[list[Index], Valid, list[Index], Valid]:
        """What a cell of the buffer holds: host indices, whether it holds that element, guest ...

        At most one of the two is held; where one is not, its indices may lie outside its shape.

        >>> joint = store_at(Layout.identity((3, 4)), Layout.identity((4,)), 0)
        >>> joint.inverse((1, 2)), joint.inverse((3, 2))
        (([1, 2], True, [2], False), ([3, 2], False, [2], True))
        """
        cell, inside = self.joined.inverse(indices)
        slice_index, last = cell[self.axis], self.host.shape[self.axis]
        host, of_host = self.host.inverse(cell)
        guest, of_guest = self.guest.inverse([*cell[: self.axis], *cell[self.axis + 1 :]])
        return (
            host,
            both(both(slice_index < last, of_host), inside),
            guest,
            both(both(slice_index >= last, of_guest), inside),
        )

    def __str__(self) -> str:
        return f"{self.host} + {self.guest} at {self.axis} {write_steps(self.then)}".rstrip()

    @staticmethod
    def parse(text: str) -> Joint:
        """The joint that prints as this text.

        >>> Joint.parse("3x4 split(1,2,2) + 4 split(0,2,2) at 0 pad(0,0,4)").shape
        (8, 2, 2)
        """
        parts = re.fullmatch(r"([^+]*)\+(.*)\sat\s+(\d+)((?:\s.*)?)", text.strip())
        steps = None if parts is None else read_steps(parts[4])
        if parts is None or steps is None:
            raise LayoutError(
                f"text of a joint {text!r}: cannot be read; "
                "write it like '64x32 + 32 at 0 pad(0,0,7)'"
            )
        return Joint(Layout.parse(parts[1]), Layout.parse(parts[2]), int(parts[3]), steps)


def store_at(host: Layout, guest: Layout, axis: int) -> Joint:
    """Store a tensor as one more slice of another.

    Args:
        host: the layout of the tensor that gains a slice, for instance weights.
        guest: the layout of the other, for instance their bias. It is stored in the shape of the
            host's stored tensor without the axis.
        axis: the axis of the host's stored tensor that becomes longer by one.

    Raises:
        LayoutError: if there is no such axis, or the guest is stored in another shape.

    >>> store_at(Layout.identity((3, 4)), Layout.identity((3,)), 0)
    Traceback (most recent call last):
        ...
    primitives.errors.LayoutError: store 3 at axis 0 of 3x4: a slice of 3x4 is 4, and the guest is
    stored as 3; lay it out as 4
    """
    return Joint(host, guest, axis)


def decouple_at(joint: Joint) -> tuple[Layout, Layout]:
    """The layouts of host and guest in buffers of their own again: undoes `store_at`.

    >>> host, guest = decouple_at(Joint.parse("3x4 reorder(1,0) + 4 at 1 pad(0,0,4)"))
    >>> print(host, "and", guest)
    3x4 reorder(1,0) and 4
    """
    return joint.host, joint.guest
