"""Layouts: what they are, and how arrays and TensorIR functions are rewritten for them."""

from primitives.errors import LayoutError as LayoutError
from primitives.layout import Layout as Layout
from primitives.layout import blocked as blocked
