"""Constants in the form that kernels read them, in one buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from alt.graph import Value
from alt.memory import ALIGNMENT, SLACK_BYTES, RecentArrays, aligned, aligned_empty
from alt.sketches.scope import Argument
from primitives.reference import pack

ConstantKey = tuple[Value, str, str]
"""A constant, its layout, and what was done to it before."""


def pack_weights(
    constants: Mapping[Value, np.ndarray],
    arguments: Iterable[Argument],
    packed: RecentArrays | None = None,
) -> tuple[np.ndarray, dict[ConstantKey, int]]:
    """All constants among the arguments of kernels in one buffer, and the offset of each.

    Candidates that differ in their loops only read the same weights, and transforming those for
    Winograd's algorithm takes longer than compiling: `packed` saves that.

    Args:
        constants: their contents.
        arguments: what kernels are called with.
        packed: what earlier calls with the same constants made; nobody may write to it.
    """
    offsets: dict[ConstantKey, int] = {}
    wanted: list[tuple[int, Argument]] = []
    total = 0
    for argument in arguments:
        if argument.value not in constants:
            continue
        key = constant_key(argument)
        if key in offsets:
            continue
        offsets[key] = total
        wanted.append((total, argument))
        assert argument.layout is not None
        size = argument.layout.elements * np.dtype(argument.value.dtype).itemsize
        total += aligned(size + SLACK_BYTES)
    if packed is None:
        packed = RecentArrays(0)
    everything = tuple(offsets)
    buffer = packed.find(everything)
    if buffer is None:
        buffer = _packed(constants, wanted, total, packed)
        packed.keep(everything, buffer)
    return buffer, offsets


def _packed(
    constants: Mapping[Value, np.ndarray],
    wanted: Sequence[tuple[int, Argument]],
    total: int,
    known: RecentArrays,
) -> np.ndarray:
    blob = aligned_empty(max(total, ALIGNMENT))
    blob[total:] = 0
    for offset, argument in wanted:
        array = constants[argument.value]
        if argument.prepare is not None:
            name, prepare = argument.prepare
            found = known.find((argument.value, name))
            if found is None:
                found = prepare(array)
                known.keep((argument.value, name), found)
            array = found
        assert argument.layout is not None
        packed = pack(array, argument.layout)
        size = packed.nbytes
        view = blob[offset : offset + size].view(packed.dtype).reshape(packed.shape)
        view[...] = packed
        blob[offset + size : offset + aligned(size + SLACK_BYTES)] = 0
    return blob


def constant_key(argument: Argument) -> ConstantKey:
    """What distinguishes a constant in one form from others and from other forms."""
    prepared = argument.prepare[0] if argument.prepare else ""
    return argument.value, str(argument.layout), prepared
