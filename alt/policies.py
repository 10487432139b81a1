"""How the layouts of a network come about: values to pass as `alt.compile(layouts=...)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alt.errors import AltError
from primitives import Layout, LayoutError

SMALL_BYTES = 64 << 10
"""Tensors that take no more than this may be stored with any amount of padding."""


@dataclass(frozen=True)
class LayoutPolicy:
    """Which layouts the operators of a network may have, and how they spread.

    Complex operators (convolutions) have layouts of their own; the rest inherits. Where two do not
    agree, a conversion runs in between.

    Attributes:
        name: what the policy is called on the command line.
        upstream: whether a producer writes what its consumer wants to read: blocks of channels, a
            border of zeros. Otherwise a conversion does.
        downstream: whether elementwise operators, pooling and concatenation keep the layout of what
            they read, and convolutions write their own one.
        format: the one layout of all activations, or None where operators choose: `NCHW`, `NHWC`
            (channels innermost, padded to whole vectors) or `NCHWc` (blocks of one vector).
        max_expansion: the most stored cells per element for a tensor of more than 64 KiB. Blocks of
            channels that would take more are refused, and the operator works on rows.

    Source:
        ALT (EuroSys 2023, arXiv 2210.12415): layout propagation, and the variants ALT-OL (one fixed
        format) and ALT-WP (no propagation) that the paper compares with.
    """

    name: str
    upstream: bool = True
    downstream: bool = True
    format: Literal["NCHW", "NHWC", "NCHWc"] | None = None
    max_expansion: float = 8.0

    @property
    def is_alone(self) -> bool:
        """Whether every complex operator has its layouts for itself: all else is in rows."""
        return not (self.upstream or self.downstream)

    def block(self, channels: int, lanes: int) -> int:
        """How many channels lie next to each other, for a vector of this many lanes.

        >>> JOINT.block(100, 16), NHWC.block(100, 16), NCHW.block(100, 16)
        (16, 112, 1)
        """
        if self.format == "NCHW":
            return 1
        return -(-channels // lanes) * lanes if self.format == "NHWC" else lanes

    def check(self, layout: Layout, bytes_each: int = 4) -> None:
        """Refuse a layout that multiplies memory.

        Raises:
            LayoutError: with the numbers.
        """
        stored = layout.elements * bytes_each
        if layout.expansion > self.max_expansion and stored > SMALL_BYTES:
            logical = round(stored / layout.expansion)
            raise LayoutError(
                f"layout {layout}: it takes {stored} bytes for {logical} bytes of data, "
                f"{layout.expansion:.1f} times as many; the bound is {self.max_expansion:g} times: "
                "use fewer cells, or a policy with a higher max_expansion"
            )


JOINT = LayoutPolicy("joint")
FORWARD_ONLY = LayoutPolicy("forward-only", upstream=False)
BACKWARD_ONLY = LayoutPolicy("backward-only", downstream=False)
NO_PROPAGATION = LayoutPolicy("none", upstream=False, downstream=False)
NCHW = LayoutPolicy("NCHW", format="NCHW")
NHWC = LayoutPolicy("NHWC", format="NHWC")
NCHWC = LayoutPolicy("NCHWc", format="NCHWc")

POLICIES = {
    p.name: p for p in (JOINT, FORWARD_ONLY, BACKWARD_ONLY, NO_PROPAGATION, NCHW, NHWC, NCHWC)
}


def policy_of(given: str | LayoutPolicy) -> LayoutPolicy:
    """A policy, given by name or as it is.

    Raises:
        AltError: if no policy has that name.
    """
    if isinstance(given, LayoutPolicy):
        return given
    if given not in POLICIES:
        raise AltError(f"layout policy {given!r}: use one of {', '.join(POLICIES)}")
    return POLICIES[given]
