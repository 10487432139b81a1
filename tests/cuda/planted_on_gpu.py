"""Candidates that misbehave on a GPU: the answer to `planted` says how. For `test_tuning_on_gpu`."""

from __future__ import annotations

from dataclasses import fields, replace

from gxx import KERNEL

from alt.errors import AltError
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


class Planted(KernelTask):
    def program(self, candidate, packed=None):
        loops = dict(candidate.loops)
        what = loops.pop("planted", "")
        program = super().program(Candidate(candidate.layout, Config(loops)), packed)
        match what:
            case "cannot be launched":
                raise AltError("internal error in kernel k0: it has no threads")
            case "is wrong":
                return replace(program, weights=(program.weights + 1).astype("uint8"))
            case "":
                return program
        source = program.library.source
        start = KERNEL.search(source).end()
        source = f"{source[:start]}\n  {STATEMENTS[what]}{source[start:]}"
        return replace(program, library=replace(program.library, source=source))
