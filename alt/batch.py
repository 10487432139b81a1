"""Which worker does what next, so that building and timing do not disturb each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Generic, TypeVar

from tuner.task import Measurement

Hand = TypeVar("Hand")


@dataclass
class Batch(Generic[Hand]):
    """A batch of candidates, by number, on their way from built to timed.

    Candidates are built by all workers at once, some by whichever is free; then they run, one at a
    time, where they were built. If a worker dies, what it had built and not yet timed is built
    again. If several cannot be built together, each is built alone from then on.

    >>> batch = Batch(2)
    >>> batch.to_build(), batch.to_build(), batch.to_build()
    ((0,), (1,), ())
    >>> batch.built("A", 1)
    >>> batch.to_run("A", busy=True) is None  # another worker is still building
    True
    >>> batch.built("B", 0)
    >>> batch.to_run("A", busy=False) is None, batch.to_run("B", busy=False)
    (True, 0)
    >>> batch.lose("A")
    >>> batch.to_build()
    (1,)

    Attributes:
        count: how many candidates there are.
        rounds: how often each is timed, in turns.
        overlap: run candidates as soon as they are built, several at once.
        hands: how many workers there are.
        together: how many candidates a worker builds at once, at most.
    """

    count: int
    rounds: int = 1
    overlap: bool = False
    hands: int = 1
    together: int = 1
    results: dict[int, Measurement] = field(default_factory=dict)
    _todo: deque[int] = field(default_factory=deque)
    _held: dict[int, Hand] = field(default_factory=dict)
    _timed: dict[int, list[Measurement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Everything is yet to be built."""
        self._todo.extend(range(self.count))

    @property
    def done(self) -> bool:
        """Whether there is a result for every candidate."""
        return len(self.results) == self.count

    def to_build(self) -> tuple[int, ...]:
        """The next candidates to build at once; `built`, `finish` or `separate` follows."""
        # The fewer are left, the fewer at once: all workers should be done at the same time.
        count = min(self.together, ceil(len(self._todo) / (self.hands + 1)))
        return tuple(self._todo.popleft() for _ in range(count))

    def separate(self, numbers: Sequence[int]) -> None:
        """These could not be built together: build each alone, to see which one cannot be built."""
        self.together = 1
        self._todo.extend(numbers)

    def to_run(self, hand: Hand, busy: bool) -> int | None:
        """The next candidate for a worker to run.

        Args:
            hand: a worker that has nothing to do.
            busy: whether another one has.
        """
        if self.overlap:
            mine = [n for n, holder in self._held.items() if holder == hand]
            return min(mine, key=self._turn, default=None)
        if self._todo or busy or not self._held:
            return None
        first = min(self._held, key=self._turn)
        return first if self._held[first] == hand else None

    def _turn(self, number: int) -> tuple[int, int]:
        return self.rounds_of(number), number

    def rounds_of(self, number: int) -> int:
        """How often a candidate was timed."""
        return len(self._timed.get(number, []))

    def built(self, hand: Hand, number: int) -> None:
        """A worker holds a candidate."""
        self._held[number] = hand

    def ran(self, number: int, measurement: Measurement) -> None:
        """A candidate was timed, or failed."""
        timed = self._timed.setdefault(number, [])
        timed.append(measurement)
        if not measurement.ok:
            self.finish(number, measurement)
        elif len(timed) >= self.rounds:
            samples = tuple(s for each in timed for s in each.seconds)
            self.finish(number, replace(timed[0], seconds=samples))

    def finish(self, number: int, measurement: Measurement) -> None:
        """Nothing more is to be done for a candidate."""
        self.results[number] = measurement
        self._held.pop(number, None)

    def lose(self, hand: Hand) -> None:
        """A worker died: what it held is to be built again."""
        lost = [n for n, holder in self._held.items() if holder == hand]
        for number in lost:
            del self._held[number]
        self._todo.extend(lost)
