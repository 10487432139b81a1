"""Candidates that misbehave on a GPU: the answer to `planted` says how. For `test_tuning_on_gpu`."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import tvm
import tvm_ffi
from gxx import KERNEL

from alt.cuda.driver import driver
from alt.tasks import KernelTask
from tuner.config import Config
from tuner.task import Candidate

STATEMENTS = {
    "faults": "__trap();",
    "hangs": "for (volatile int forever = 1; forever;) {}",
    "does not compile": "this is no C;",
}
"""What the kernel begins with."""


def install(tasks):
    """Tasks that look at `planted`."""
    return {
        key: Planted(**{f.name: getattr(task, f.name) for f in fields(KernelTask)})
        for key, task in tasks.items()
    }


class Unrecordable:
    """Host code that takes memory while it is recorded, which is not allowed."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        return getattr(self.library, name)

    def __getitem__(self, name):
        def run(*arguments):
            self.library[name](*arguments)
            if driver().is_recorded(tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", 0))):
                tvm.runtime.empty((1,), "uint8", tvm.runtime.cuda(0))

        return run


class Planted(KernelTask):
    def program(self, candidate, packed=None):
        loops = dict(candidate.loops)
        what = loops.pop("planted", "")
        kept = Candidate(candidate.layout, Config(loops))
        if what == "cannot be launched":
            small = replace(self.machine, most_shared_bytes=100)
            return replace(self, machine=small, _variants={}).program(kept)
        if what == "is wrong":
            wrong = {value: array * np.float32(1.5) for value, array in self.constants.items()}
            return replace(self, constants=wrong, _variants={}).program(kept)
        program = super().program(kept, packed)
        match what:
            case "cannot be recorded":
                library = program.library
                return replace(program, library=replace(library, host=Unrecordable(library.host)))
            case "":
                return program
        source = program.library.source
        start = KERNEL.search(source).end()
        source = f"{source[:start]}\n  {STATEMENTS[what]}{source[start:]}"
        return replace(program, library=replace(program.library, source=source))
