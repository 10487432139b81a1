"""What will be built: kernels in order, and how every tensor is stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from alt import operators as ops
from alt.graph import Node, Value
from alt.kernels import Kernel
from primitives import Layout


@dataclass
class Plan:
    """What will be built.

    Attributes:
        kernels: in execution order, conversions included.
        layouts: how each value is stored; row by row where it is not listed.
        outputs: the values handed to the caller, stored row by row.
        conversions: the kernels that only change a layout, with the reason.
        inside: values that are a slice of another one's memory: (whole, cells before the slice).
        refused: layouts that would have taken too much memory, with the numbers.
    """

    kernels: list[Kernel]
    layouts: dict[Value, Layout]
    outputs: list[Value]
    conversions: dict[Kernel, str] = field(default_factory=dict)
    inside: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def copy_kernel(source: Value, target: Value) -> Kernel:
    """Copies a value, as it is stored, to another of the same shape, as that is stored."""
    relabel = ops.reshape(source.shape, target.shape)
    node = Node("view", "reshape", (source,), target, {"target": target.shape}, relabel)
    return Kernel(None, (node,), (source,), target)
