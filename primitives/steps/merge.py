"""Steps that say together what fewer, simpler steps say."""

from __future__ import annotations

from dataclasses import replace

from primitives.steps.one_to_one import Fuse, Reorder, Split
from primitives.steps.pads import Pad, Unpad
from primitives.steps.step import Shape, Step
from primitives.steps.tiles import Fold, Unfold


def merged(first: Step, second: Step, shape: Shape) -> tuple[Step, ...] | None:
    """Simpler steps for two in a row on a tensor of this shape; None if there are none.

    A step and what undoes it become nothing, two reorders one; a pad and an unpad lose what the
    second takes back of the first.

    >>> merged(Pad(0, 1, 2), Unpad(0, 1, 1), (4,))
    (Pad(axis=0, before=0, after=1), Unpad(axis=0, before=0, after=0))
    >>> merged(Split(0, (2, 3)), Fuse(0, 2), (6,)), merged(Split(0, (2, 3)), Pad(0, 0, 1), (6,))
    ((), None)
    """
    match first, second:
        case Reorder(p), Reorder(q):
            return (Reorder(tuple(p[axis] for axis in q)),)
        case (Pad(), Unpad()) | (Unpad(), Pad()) if first.axis == second.axis:
            before, after = min(first.before, second.before), min(first.after, second.after)
            if not before and not after:
                return () if second == first.undo(shape) else None
            a, b = (
                replace(step, before=step.before - before, after=step.after - after)
                for step in (first, second)
            )
            return a, b
        case (Split(), Fuse()) | (Fuse(), Split()) | (Unfold(), Fold()) | (Fold(), Unfold()):
            return () if second == first.undo(shape) else None
        case _:
            return None
