"""The layout primitives, each defined once, for ints, NumPy arrays and TVM expressions alike.

A step takes a tensor of one shape to a tensor of another. `forward` says where an element goes;
`inverse` says which element a cell holds, and whether it holds one at all. The definitions use
only operators that Python ints, NumPy integer arrays and TVM expressions share, so the same code
is the reference, the packer's oracle and what compiled programs compute.

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout primitives.
"""

from __future__ import annotations

from primitives.steps.merge import merged as merged
from primitives.steps.one_to_one import Fuse as Fuse
from primitives.steps.one_to_one import Reorder as Reorder
from primitives.steps.one_to_one import Split as Split
from primitives.steps.pads import Pad as Pad
from primitives.steps.pads import Unpad as Unpad
from primitives.steps.step import Shape as Shape
from primitives.steps.step import Step as Step
from primitives.steps.tiles import Fold as Fold
from primitives.steps.tiles import Unfold as Unfold
from primitives.steps.tiles import tiles_of as tiles_of
