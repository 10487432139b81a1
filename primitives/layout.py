"""A layout: how the elements of one tensor are stored, as a chain of steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from primitives.builders import Builders
from primitives.errors import LayoutError
from primitives.expansion import check_expansion, empty_cells
from primitives.indexing import Index, Valid, both
from primitives.provenance import DROPS_CELLS, border, check
from primitives.steps import (
    Shape,
    Step,
    merged,
)
from primitives.table import table
from primitives.text import read_shape, read_steps, write_shape, write_steps


@dataclass(frozen=True)
class Layout(Builders):
    """How a tensor of `logical_shape` is stored: the steps, applied one after the other.

    A layout cannot be illegal: making one whose steps do not fit raises `LayoutError`. Layouts
    with the same steps on the same shape are equal and hash alike. The builders (`split`,
    `reorder`, `fuse`, `pad`, `unfold`, and `fold`, `unpad` that undo) leave out steps that do
    nothing, merge neighbouring reorders and drop a step together with the one that undoes it.

    >>> nchw8c = Layout.identity((1, 32, 7, 7)).split(1, (4, 8)).reorder((0, 1, 3, 4, 2))
    >>> nchw8c.shape, nchw8c.forward((0, 13, 2, 3))
    ((1, 4, 7, 7, 8), [0, 1, 2, 3, 5])
    >>> print(nchw8c)
    1x32x7x7 split(1,4,8) reorder(0,1,3,4,2)
    """

    logical_shape: Shape
    steps: tuple[Step, ...] = ()
    shape: Shape = field(init=False, compare=False, repr=False)
    """The stored shape."""
    _shapes: tuple[Shape, ...] = field(init=False, compare=False, repr=False)
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if any(extent < 1 for extent in self.logical_shape):
            raise LayoutError(
                f"layout of a tensor of shape {self.logical_shape}: every extent must be 1 or more"
            )
        shapes = [self.logical_shape]
        for step in self.steps:
            shapes.append(step.shape(shapes[-1]))
        if any(isinstance(step, DROPS_CELLS) for step in self.steps):
            check(self.logical_shape, self.steps)
        self._remember(tuple(shapes))

    def _remember(self, shapes: tuple[Shape, ...]) -> None:
        object.__setattr__(self, "shape", shapes[-1])
        object.__setattr__(self, "_shapes", shapes[:-1])
        object.__setattr__(self, "_hash", hash((self.logical_shape, self.steps)))

    def __hash__(self) -> int:
        return self._hash

    @staticmethod
    def identity(shape: Iterable[int]) -> Layout:
        """The layout that stores a tensor as it is, row by row."""
        return Layout(tuple(int(extent) for extent in shape))

    def apply(self, step: Step) -> Layout:
        """This layout followed by one more step."""
        shape = step.shape(self.shape)
        if isinstance(step, DROPS_CELLS):
            check(self.logical_shape, (*self.steps, step))
        if self.steps:
            before = self._shapes[-1]
            simpler = merged(self.steps[-1], step, before)
            if simpler is not None:
                result = self._made(self.steps[:-1], self._shapes)
                for step in simpler:
                    result = result.apply(step)
                return result
        if step.is_noop(self.shape):
            return self
        return self._made((*self.steps, step), (*self._shapes, self.shape, shape))

    def _made(self, steps: tuple[Step, ...], shapes: tuple[Shape, ...]) -> Layout:
        """A layout of the same tensor by steps that are known to be legal."""
        made = object.__new__(Layout)
        object.__setattr__(made, "logical_shape", self.logical_shape)
        object.__setattr__(made, "steps", steps)
        made._remember(shapes)
        return made

    def inverse_steps(self) -> tuple[Step, ...]:
        """The steps that take the stored tensor back to the logical one, first to last."""
        pairs = zip(reversed(self.steps), reversed(self._shapes), strict=True)
        return tuple(step.undo(shape) for step, shape in pairs)

    def undo(self) -> Layout:
        """This layout followed by its inverse: it stores the logical tensor as it is.

        >>> layout = Layout.parse("8 pad(0,1,1) unfold(0,4,2) reorder(1,0)")
        >>> layout.inverse_steps()[:2]
        (Reorder(perm=(1, 0)), Fold(axis=0, extent=10, stride=2))
        >>> layout.undo() == Layout.identity((8,))
        True
        """
        result = self
        for step in self.inverse_steps():
            result = result.apply(step)
        return result

    def then(self, other: Layout) -> Layout:
        """This layout, and its stored tensor stored by another layout."""
        if other.logical_shape != self.shape:
            raise LayoutError(
                f"{self} then {other}: the first stores {self.shape}, the second takes "
                f"{other.logical_shape}; they must be the same"
            )
        result = self
        for step in other.steps:
            result = result.apply(step)
        return result

    def forward(self, indices: Sequence[Index]) -> list[Index]:
        """Where the element at these logical indices is stored."""
        result = list(indices)
        for step, shape in zip(self.steps, self._shapes, strict=True):
            result = step.forward(result, shape)
        return result

    def inverse(self, indices: Sequence[Index]) -> tuple[list[Index], Valid]:
        """Which logical indices a stored cell holds, and whether it holds any.

        Where it does not, the logical indices may lie outside the logical shape.
        """
        result, valid = list(indices), True
        for step, shape in zip(reversed(self.steps), reversed(self._shapes), strict=True):
            result, inside = step.inverse(result, shape)
            valid = both(inside, valid)
        return result, valid

    @property
    def is_identity(self) -> bool:
        """Whether the tensor is stored as it is."""
        return not self.steps or all(
            step.is_noop(shape) for step, shape in zip(self.steps, self._shapes, strict=True)
        )

    @property
    def has_padding(self) -> bool:
        """Whether some stored cells hold no element."""
        return self.padded_elements > 0

    @cached_property
    def border(self) -> tuple[tuple[int, int], ...]:
        """For each logical axis, how far outside it an index may lie and still find fill.

        `forward` of such an index is the index of a cell that holds no element. Without a border
        it is (0, 0).

        >>> blocked((1, 8, 5, 5), 1, 8, border=((2, 1, 0), (3, 2, 1))).border
        ((0, 0), (0, 0), (1, 0), (2, 1))
        """
        return border(self.logical_shape, self.steps)

    @property
    def elements(self) -> int:
        """Number of stored cells."""
        return prod(self.shape)

    @cached_property
    def padded_elements(self) -> int:
        """Number of stored cells that hold no element.

        >>> Layout.parse("8 pad(0,1,0) unfold(0,4,3)").padded_elements
        2
        """
        return empty_cells(self)

    @property
    def expansion(self) -> float:
        """Stored cells per logical element: 1.0 without padding and overlapping tiles."""
        return prod(self.shape) / prod(self.logical_shape)

    def within(self, most: float) -> Layout:
        """This layout, if it stores at most so many cells per logical element.

        Raises:
            LayoutError: if it stores more; the message names the steps that add cells.
        """
        check_expansion(self, most)
        return self

    def table(self, most_cells: int = 1000) -> str:
        """A picture of the stored cells and the elements they hold; see `primitives.table`."""
        return table(self, most_cells)

    def __str__(self) -> str:
        return f"{write_shape(self.logical_shape)} {write_steps(self.steps)}".rstrip()

    @staticmethod
    def parse(text: str) -> Layout:
        """The layout that prints as this text.

        >>> Layout.parse("4x6 pad(1,0,2) split(1,2,4)").shape
        (4, 2, 4)
        """
        start, _, rest = text.strip().partition(" ")
        shape, steps = read_shape(start), read_steps(rest)
        if shape is None or steps is None:
            raise LayoutError(
                f"layout text {text!r}: cannot be read; "
                "write it like '1x64x7x7 split(1,4,16) pad(2,1,1)'"
            )
        return Layout(shape, steps)


def blocked(
    shape: Sequence[int], axis: int, block: int, border: Iterable[tuple[int, int, int]] = ()
) -> Layout:
    """One axis cut into blocks that are stored innermost: NCHW becomes N C/b H W b.

    The axis is padded up to a multiple of the block where it is not one.

    Args:
        shape: the logical shape.
        axis: the axis to block, for instance 1 for the channels of NCHW.
        block: how many of its elements are stored next to each other; 1 leaves it alone.
        border: for some of the axes (axis, cells before, cells after).

    >>> print(blocked((1, 24, 7, 7), 1, 16, border=((2, 1, 1), (3, 1, 1))))
    1x24x7x7 pad(1,0,8) pad(2,1,1) pad(3,1,1) split(1,2,16) reorder(0,1,3,4,2)
    """
    layout = Layout.identity(shape)
    if block < 1:
        raise LayoutError(
            f"block axis {axis} of {tuple(shape)} by {block}: use a block of 1 or more"
        )
    if block > 1 and 0 <= axis < len(shape):
        layout = layout.pad(axis, 0, -shape[axis] % block)
    for padded, before, after in border:
        layout = layout.pad(padded, before, after)
    if block == 1:
        return layout
    layout = layout.split(axis, (-1, block))
    rank = len(shape)
    return layout.reorder((*range(axis + 1), *range(axis + 2, rank + 1), axis + 1))
