"""Convolutions on GPUs read nothing outside their input: a device may not have memory there.

Planted bugs, each of which these tests caught: places behind the last image are loaded; so is what
lies above an image's first row; channels behind the last.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from conv_models import Case, inputs_of, model_of, network_of
from emulated import Emulation, fenced, needs_gxx, planned

pytestmark = [pytest.mark.cuda_build, needs_gxx]

SAME = {"pads": [1, 1, 1, 1]}


def beside_forbidden(array: np.ndarray, at_end: bool) -> tuple[mmap.mmap, int]:
    """A copy of an array that starts, or ends, where a page begins that must not be touched."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    region = mmap.mmap(-1, size + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(region))
    start = page + (size - array.nbytes if at_end else 0)
    region[start : start + array.nbytes] = array.tobytes()
    for forbidden in (base, base + page + size):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(forbidden), page, 0) == 0
    return region, base + start


def ends_well(emulation: Emulation, array: np.ndarray, at_end: bool) -> bool:
    """Whether the only kernel runs; in a process of its own, which may die."""
    program = emulation.program
    (step,) = program.steps
    (output,) = program.plan.outputs
    region, address = beside_forbidden(array, at_end)
    buffers = {
        "weights": program.weights.ctypes.data,
        "in0": address,
        "out0": fenced(output.size * 4).ctypes.data,
    }
    places = [program.tensors.place(a) for a in step.arguments]
    pointers = [buffers[name] + offset for name, offset in places]
    child = os.fork()
    if not child:
        try:
            emulation.launch(step.function, pointers)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    del region
    return status == 0


@pytest.mark.parametrize(
    "case",
    [
        Case((1, 8, 5, 5), (8, 8, 3, 3), SAME),
        Case((3, 4, 2, 6), (8, 4, 1, 1)),
        Case((1, 4, 7, 7), (8, 2, 3, 3), {**SAME, "strides": [2, 2], "group": 2}),
        Case((1, 4, 5, 5), (4, 1, 3, 3), {**SAME, "group": 4}),
        Case((1, 4, 5, 5), (4, 4, 4, 4), {**SAME, "strides": [2, 2]}, op="ConvTranspose"),
        # Steps and channels that only fill a stage.
        Case((1, 3, 5, 6), (8, 3, 3, 3), {"pads": [2, 0, 1, 3], "dilations": [1, 2]}),
        Case((2, 36, 3, 3), (8, 36, 1, 1)),
        Case((1, 30, 4, 4), (8, 30, 3, 3), SAME),
    ],
    ids=str,
)
def test_nothing_outside_the_input_is_read(case):
    model = model_of(case)
    (array,) = inputs_of(model).values()
    emulation = Emulation(planned(network_of(case)))
    assert ends_well(emulation, array, at_end=True)
    assert ends_well(emulation, array, at_end=False)
