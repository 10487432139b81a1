"""Layouts: what they are, and how arrays and TensorIR functions are rewritten for them."""

from primitives.errors import LayoutError as LayoutError
from primitives.layout import Layout as Layout
from primitives.layout import blocked as blocked
from primitives.reference import pack as pack
from primitives.reference import unpack as unpack
from primitives.store_at import Joint as Joint
from primitives.store_at import decouple_at as decouple_at
from primitives.store_at import store_at as store_at
