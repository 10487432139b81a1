"""Steps that say together what fewer, simpler steps say."""

from __future__ import annotations

from dataclasses import replace

from primitives.steps.one_to_one import Fuse, Reorder, Split
from primitives.steps.pads import Pad, Unpad
from primitives.steps.step import Shape, Step
from primitives.steps.tiles import Fold, Unfold

_SIMPLIFIES: dict[type[Step], type[Step]] = {
    Reorder: Reorder,
    Split: Fuse,
    Fuse: Split,
    Pad: Unpad,
    Unpad: Pad,
    Unfold: Fold,
    Fold: Unfold,
}
"""The only kind of step that may simplify one of each kind."""


def merged(first: Step, second: Step, shape: Shape) -> tuple[Step, ...] | None:
    """Simpler steps for two in a row on a tensor of this shape; None if there are none.

    A step and what undoes it become nothing, two reorders one; a pad and an unpad lose what the
    second takes back of the first.

    >>> merged(Pad(0, 1, 2), Unpad(0, 1, 1), (4,))
    (Pad(axis=0, before=0, after=1), Unpad(axis=0, before=0, after=0))
    >>> merged(Split(0, (2, 3)), Fuse(0, 2), (6,)), merged(Split(0, (2, 3)), Pad(0, 0, 1), (6,))
    ((), None)
    """
    if type(second) is not _SIMPLIFIES.get(type(first)):
        return None
    match first, second:
        case Reorder(p), Reorder(q):
            return (Reorder(tuple(p[axis] for axis in q)),)
        case (Pad(), Unpad()) | (Unpad(), Pad()) if first.axis == second.axis:
            before, after = min(first.before, second.before), min(first.after, second.after)
            if before or after:
                return _shorter(first, before, after), _shorter(second, before, after)
        case _:
            pass
    return () if second == first.undo(shape) else None


def _shorter(step: Pad | Unpad, before: int, after: int) -> Step:
    return replace(step, before=step.before - before, after=step.after - after)
