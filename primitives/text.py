"""How chains of steps are written as text: `8x6 pad(1,0,2) split(1,2,4)`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from primitives.errors import LayoutError
from primitives.steps import Fold, Fuse, Pad, Reorder, Shape, Split, Step, Unfold, Unpad


def write_shape(shape: Shape) -> str:
    """A shape as text.

    >>> write_shape((8, 6)), write_shape(())
    ('8x6', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def write_steps(steps: Sequence[Step]) -> str:
    """Steps as text, in the order in which they are applied.

    >>> write_steps([Pad(1, 0, 2), Reorder((1, 0))])
    'pad(1,0,2) reorder(1,0)'
    """
    return " ".join(f"{step.name}({','.join(map(str, step.arguments))})" for step in steps)


def read_shape(text: str) -> Shape | None:
    """The shape that is written so, or None."""
    if text == "scalar":
        return ()
    return tuple(map(int, text.split("x"))) if re.fullmatch(r"\d+(x\d+)*", text) else None


def read_steps(text: str) -> tuple[Step, ...] | None:
    """The steps that are written so, or None where it does not look like steps.

    Raises:
        LayoutError: if a step has a name or arguments that no step has.

    >>> read_steps("split(1,2,4)")
    (Split(axis=1, factors=(2, 4)),)
    """
    if not re.fullmatch(r"(\s*[a-z_]+\([\d,\s-]*\))*\s*", text):
        return None
    steps: list[Step] = []
    for name, inside in re.findall(r"([a-z_]+)\(([^)]*)\)", text):
        try:
            arguments = tuple(int(a) for a in inside.split(",")) if inside.strip() else ()
        except ValueError as cause:
            raise LayoutError(
                f"layout text {text!r}: {name}({inside}) needs whole numbers between commas"
            ) from cause
        steps.append(from_arguments(name, arguments))
    return tuple(steps)


def from_arguments(name: str, arguments: Shape) -> Step:
    """The step with this name and these arguments, as `Step.name` and `Step.arguments` give them.

    >>> from_arguments("split", (1, 2, 4))
    Split(axis=1, factors=(2, 4))
    """
    match name, arguments:
        case "split", (axis, *factors) if factors:
            return Split(axis, tuple(factors))
        case "reorder", _:
            return Reorder(arguments)
        case "fuse", (axis, count):
            return Fuse(axis, count)
        case "pad", (axis, before, after):
            return Pad(axis, before, after)
        case "unpad", (axis, before, after):
            return Unpad(axis, before, after)
        case "unfold", (axis, size, stride):
            return Unfold(axis, size, stride)
        case "fold", (axis, extent, stride):
            return Fold(axis, extent, stride)
        case _:
            raise LayoutError(
                f"step {name}{arguments}: no such step; "
                "write split(axis, factors...), reorder(perm...), fuse(axis, count), "
                "pad(axis, before, after), unfold(axis, size, stride), or to undo them "
                "unpad(axis, before, after), fold(axis, extent, stride)"
            )
