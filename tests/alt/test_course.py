"""What workers are asked for, in which order, when one of them dies; the workers are made up.

A bug the author planted, and what caught it: a worker is given up before its answer is noted, so
that the candidate that killed it is built again: `test_what_killed_a_worker_is_not_built_again`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from alt.batch import Batch
from alt.course import Course
from alt.messages import Build, Built, Limits, Refer, Run, Timing
from alt.pool import TOO_LONG
from tuner.config import Config
from tuner.errors import Unmeasurable
from tuner.task import Candidate, Measurement, Status


@dataclass(eq=False)
class Hand:
    busy: bool = False
    knows: str = ""


class Pool:
    """One worker that answers at once, and dies of running one candidate."""

    def __init__(self, deadly=-1, reference=None):
        self.hands = [Hand()]
        self.deadly = deadly
        self.reference = np.zeros(1) if reference is None else reference
        self.sent = []

    def fill(self):
        return []

    def send(self, hand, request, seconds):
        hand.busy = True
        self.sent.append(request)

    def wait(self):
        (hand,) = self.hands
        hand.busy = False
        match self.sent[-1]:
            case Refer():
                yield hand, self.reference, True
            case Build():
                yield hand, Built(0.25), True
            case Run(self.deadly):
                yield hand, Measurement(Status.crash, message="killed by SIGSEGV"), False
            case Run():
                yield hand, Measurement(Status.ok, (1.0,)), True


def test_what_killed_a_worker_is_not_built_again():
    pool, batch = Pool(deadly=1), Batch(3)
    candidates = [Candidate(Config({}), Config({"number": n})) for n in range(3)]
    Course(pool, batch, "task", candidates, Timing(), Limits()).run()
    statuses = [batch.results[n].status for n in range(3)]
    assert statuses == [Status.ok, Status.crash, Status.ok]
    assert batch.results[1].build_seconds == 0.25
    built = [n for request in pool.sent if isinstance(request, Build) for n in request.numbers]
    assert built == [0, 1, 2, 2]  # the last one was held by the worker that died


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("ValueError: too odd", "ValueError: too odd"),
        (TOO_LONG, "computing it took more than 120 s"),
    ],
)
def test_without_a_reference_no_candidate_is_blamed(said, why):
    pool, batch = Pool(reference=Measurement(Status.run, message=said)), Batch(2)
    candidates = [Candidate(Config({}), Config({"number": n})) for n in range(2)]
    with pytest.raises(Unmeasurable, match=f"no reference to compare candidates with: {why}"):
        Course(pool, batch, "task", candidates, Timing(), Limits()).run()
    assert batch.results == {}
