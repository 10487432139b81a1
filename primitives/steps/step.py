"""What every layout primitive offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from primitives.errors import LayoutError
from primitives.indexing import Index, Valid

Shape = tuple[int, ...]


@runtime_checkable
class Step(Protocol):
    """One primitive: `shape` raises `LayoutError` where it is illegal, the others rely on that."""

    name: ClassVar[str]
    """The primitive's name in the text form of layouts."""

    @property
    def arguments(self) -> Shape:
        """The ints of the text form, from which `from_arguments` builds the step again."""
        ...

    def shape(self, shape: Shape) -> Shape:
        """The stored shape, for a tensor of this shape."""
        ...

    def forward(self, indices: Sequence[Index], shape: Shape) -> list[Index]:
        """Where the element at these indices of a tensor of this shape is stored."""
        ...

    def inverse(self, indices: Sequence[Index], shape: Shape) -> tuple[list[Index], Valid]:
        """Which element of a tensor of this shape the cell at these stored indices holds."""
        ...

    def undo(self, shape: Shape) -> Step:
        """The step that gives a tensor of this shape back from its stored form."""
        ...

    def is_noop(self, shape: Shape) -> bool:
        """Whether the step leaves a tensor of this shape as it is."""
        ...


def check_axis(what: str, axis: int, shape: Shape) -> None:
    """Refuse an axis that a tensor of this shape does not have."""
    if not 0 <= axis < len(shape):
        raise LayoutError(
            f"{what} of {shape}: there is no axis {axis}; axes are 0 to {len(shape) - 1}"
        )
