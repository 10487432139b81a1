"""A batch of candidates on its way through the workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from alt.batch import Batch
from alt.messages import Build, Built, Limits, Named, Refer, Reply, Request, Run, Timing
from alt.pool import TOO_LONG, Hand, Pool
from tuner.errors import Unmeasurable
from tuner.task import Candidate, Measurement, Status

REFERENCE_SECONDS = 120.0
"""The reference of a task may take so long."""

WORK: tuple[str, ...] = ("build", "run", "refer")
"""What workers are asked for."""


@dataclass
class Course:
    """Gives workers something to do and notes what they answer, until all candidates are measured.

    Attributes:
        pool: the workers.
        batch: what is next.
        key: of the task.
        candidates: of the task, by the number they have in the batch.
        timing: how they are timed.
        limits: what they may take.
        best: the best time known of the task, in seconds.
        reference: what the task computes; found out if it is not known.
        spent: seconds of workers, by what they did.
    """

    pool: Pool
    batch: Batch[Hand]
    key: str
    candidates: Sequence[Candidate]
    timing: Timing
    limits: Limits
    best: float = inf
    reference: np.ndarray | None = None
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WORK, 0.0))
    _doing: dict[Hand, tuple[Request, float]] = field(default_factory=dict)
    _build_seconds: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """Measure all; the results are in the batch.

        Raises:
            Unmeasurable: there is no reference.
        """
        while self._doing or not self.batch.done:
            for lost in self.pool.fill():
                self.batch.lose(lost)
            for hand in self.pool.hands:
                if not hand.busy:
                    self._give(hand)
            for hand, reply, alive in self.pool.wait():
                request, start = self._doing.pop(hand)
                self.spent[type(request).__name__.lower()] += time.monotonic() - start
                self._take(hand, request, reply)
                if not alive:
                    self.batch.lose(hand)

    def _give(self, hand: Hand) -> None:
        """Find something to do for a worker."""
        if self.batch.done:
            return
        referring = any(isinstance(request, Refer) for request, _ in self._doing.values())
        if self.reference is None and not referring:
            hand.knows = ""  # it forgets the reference of another task, even if it fails now
            self._ask(hand, Refer(self.key), REFERENCE_SECONDS)
        elif numbers := self.batch.to_build():
            named = tuple(Named.of(self.key, self.candidates[n]) for n in numbers)
            self._ask(hand, Build(numbers, named), self.limits.build_seconds)
        elif self.reference is not None:
            number = self.batch.to_run(hand, busy=bool(self._doing))
            if number is not None:
                self._ask(hand, self._run_of(hand, number), self.limits.run_seconds)

    def _run_of(self, hand: Hand, number: int) -> Run:
        before = self.batch.rounds_of(number)
        last = before + 1 >= self.batch.rounds
        reference = None if hand.knows == self.key else self.reference
        hand.knows = self.key
        return Run(number, self.timing, reference, self.best, last, checked=before > 0)

    def _ask(self, hand: Hand, request: Request, seconds: float) -> None:
        self._doing[hand] = request, time.monotonic()
        self.pool.send(hand, request, seconds)

    def _take(self, hand: Hand, request: Request, reply: Reply) -> None:
        """Note what a worker answered, or what became of it."""
        match request, reply:
            case Refer(), np.ndarray():
                self.reference = reply
                hand.knows = self.key
            case Refer(), Measurement():
                raise no_reference(reply)
            case Build(numbers), Built(seconds):
                for number in numbers:
                    self.batch.built(hand, number)
                    self._build_seconds[number] = seconds
            case Build((number,)), Measurement():
                self.batch.finish(number, _explained("building", reply, self.limits))
            case Build(numbers), Measurement():
                self.batch.separate(numbers)
            case Run(number), Measurement():
                self.best = min(self.best, reply.best)
                found = _explained("running", reply, self.limits)
                seconds = self._build_seconds[number]
                self.batch.ran(number, replace(found, build_seconds=seconds))


def no_reference(why: Measurement) -> Unmeasurable:
    """What to raise of a task whose reference failed like this."""
    reason = why.message
    if reason == TOO_LONG:
        reason = f"computing it took more than {REFERENCE_SECONDS:g} s"
    return Unmeasurable(f"there is no reference to compare candidates with: {reason}")


def _explained(doing: str, found: Measurement, limits: Limits) -> Measurement:
    """The measurement; if it is a failure, its message says during what."""
    if found.ok or found.status is Status.wrong:
        return found
    if found.message == TOO_LONG:
        most = limits.build_seconds if doing == "building" else limits.run_seconds
        return replace(found, message=f"{doing} it took more than {most:g} s")
    return replace(found, message=f"{doing} it: {found.message}")
