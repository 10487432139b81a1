"""Choosers that move through a space: at random, near a configuration, along a walk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import cast

import numpy as np

from tuner.choices import Answer, Chooser, Config, Decision, nearest
from tuner.config import same

Rng = np.random.Generator


class Sampled(Chooser):
    """Each answer uniform over the options."""

    def __init__(self, rng: Rng) -> None:
        """The generator decides."""
        super().__init__()
        self._rng = rng

    def decide(self, question: Decision) -> Answer:
        """Any of the options."""
        return anywhere(question, self._rng)


class Mutated(Chooser):
    """As another configuration, where that is legal, but for the names to change."""

    def __init__(self, config: Config, names: set[str], rng: Rng) -> None:
        """The names are of decisions that are to be answered otherwise."""
        super().__init__()
        self._config = config
        self._names = names
        self._rng = rng

    def decide(self, question: Decision) -> Answer:
        """Another answer, or the nearest legal one to what it was."""
        given = self._config.get(question.name)
        if given is None:
            # A decision that only now exists: nothing is known of it.
            return anywhere(question, self._rng)
        answer = nearest(question, given)
        if question.name not in self._names:
            return answer
        moves = steps(question.answered(answer))
        if moves and self._rng.random() < 0.5:
            return moves[int(self._rng.integers(len(moves)))]
        return anywhere(question, self._rng)


class Prefix(Chooser):
    """The first answers are given, the others are defaults."""

    def __init__(self, prefix: Sequence[Answer]) -> None:
        """The answers, in the order in which they are asked for."""
        super().__init__()
        self._prefix = prefix

    def decide(self, question: Decision) -> Answer:
        """The next given answer, or the default."""
        number = len(self.decisions)
        return self._prefix[number] if number < len(self._prefix) else question.default


def steps(decision: Decision, reach: int = 1) -> list[Answer]:
    """The answers that are one step away from a decision's answer; see `Space.neighbours`."""
    if decision.kind == "order":
        items = cast("tuple[str, ...]", decision.answer)
        return [
            (*items[:at], items[at + 1], items[at], *items[at + 2 :])
            for at in range(len(items) - 1)
        ]
    if decision.kind == "tile":
        at = decision.options.index(decision.answer)
        strides = [1 << power for power in range(reach.bit_length())]
        places = [at + sign * stride for stride in strides for sign in (-1, 1)]
        return [decision.options[place] for place in places if 0 <= place < len(decision.options)]
    return [option for option in decision.options if not same(option, decision.answer)]


def anywhere(question: Decision, rng: Rng) -> Answer:
    """A legal answer, each with the same chance."""
    if question.kind == "order":
        items = cast("tuple[str, ...]", question.options)
        return tuple(cast("list[str]", rng.permutation(items).tolist()))
    return question.options[int(rng.integers(len(question.options)))]


def others(decision: Decision) -> Iterator[Answer]:
    """All answers but the default, which a walk begins with."""
    options = (
        permutations(cast("tuple[str, ...]", decision.options))
        if decision.kind == "order"
        else iter(decision.options)
    )
    return (option for option in options if not same(option, decision.default))
