"""Candidates that misbehave on a GPU: the answer to `planted` says how. For `test_tuning_on_gpu`."""

from __future__ import annotations

from dataclasses import fields, replace

from gxx import KERNEL

from alt.memory import aligned_empty
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
        kept = Candidate(candidate.layout, Config(loops))
        if what == "cannot be launched":
            small = replace(self.machine, most_shared_bytes=100)
            return replace(self, machine=small, _variants={}).program(kept)
        program = super().program(kept, packed)
        match what:
            case "is wrong":
                weights = aligned_empty(program.weights.size)
                weights[...] = program.weights ^ 1 << 4
                return replace(program, weights=weights)
            case "":
                return program
        source = program.library.source
        start = KERNEL.search(source).end()
        source = f"{source[:start]}\n  {STATEMENTS[what]}{source[start:]}"
        return replace(program, library=replace(program.library, source=source))
