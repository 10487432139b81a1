"""Candidates that misbehave: the answer to `planted` says how. For the workers of `test_runner`."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import fields, replace

import numpy as np

import alt.worker
from alt.expected import random_values
from alt.tasks import KernelTask
from tuner.config import Config
from tuner.task import Candidate

NO_REFERENCE = 24
"""Output channels of the task whose reference fails."""


def install(tasks):
    """Tasks that look at `planted`, and a reference that fails for one of them."""
    expected = alt.worker.expected

    def refer(kernel, *rest):
        if kernel.output.shape[1] == NO_REFERENCE:
            raise ValueError("first line\nno way to compute it")
        return expected(kernel, *rest)

    alt.worker.expected = refer
    return {
        key: Planted(**{f.name: getattr(task, f.name) for f in fields(KernelTask)})
        for key, task in tasks.items()
    }


class Planted(KernelTask):
    def programs(self, candidates, packed=None):
        planted = [dict(c.loops).pop("planted", "") for c in candidates]
        for what in planted:
            match what:
                case "raises while building":
                    raise ValueError("cannot be built")
                case "crashes while building":
                    ctypes.string_at(0)
                case "hangs while building":
                    time.sleep(10_000)
                case "takes all memory while building":
                    np.ones(1 << 40, np.uint8)
        programs = super().programs([_without(c) for c in candidates], packed)
        return [
            replace(p, library=Library(p.library, p.entry, what, self.inputs))
            for p, what in zip(programs, planted, strict=True)
        ]


def _without(candidate):
    loops = {name: answer for name, answer in candidate.loops.items() if name != "planted"}
    return Candidate(candidate.layout, Config(loops))


class Library:
    def __init__(self, library, entry, what, inputs):
        self.library, self.entry, self.what, self.inputs = library, entry, what, inputs
        self.mod = library.mod
        self.runs = 0

    def __getitem__(self, name):
        return self.run

    def run(self, *tensors):
        self.runs += 1
        match self.what:
            case "raises":
                raise ValueError("line one\nhas a bad day")
            case "crashes":
                ctypes.string_at(0)
            case "aborts":
                os.write(2, b"internal error 42\n")
                os.abort()
            case "aborts out of memory":
                os.write(2, b"terminate called: std::bad_alloc\n")
                os.abort()
            case "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                while True:
                    pass
            case "takes all memory":
                np.ones(1 << 40, np.uint8)
            case "does nothing":
                return
        self.library[self.entry](*tensors)
        output = np.from_dlpack(tensors[len(self.inputs)])
        if self.what == "is wrong":
            output[3] += 1
        if self.what == "knows the inputs":
            first = random_values(self.inputs, 0)[self.inputs[0]]
            output[3] += np.sum(np.from_dlpack(tensors[0])) - np.sum(first)
