"""The space that a program spans: all configurations that its decisions allow.

>>> def program(choose: Choose) -> None:
...     if choose.tile("oh", 8, default=4) * choose.tile("ow", 8, default=4) > 32:
...         raise Infeasible("more than the registers hold")
>>> space = Space(program)
>>> space.default()
Config(oh=4, ow=4)
>>> space.project({"oh": 3, "ow": 5, "oc": 2})
Config(oh=3, ow=4)
>>> len(space.enumerate(100) or []), space.enumerate(10) is None
(24, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from math import factorial, log2
from typing import cast

import numpy as np
import numpy.typing as npt

from tuner.choices import Answer, Choose, Chooser, Config, Decision, Default, Given
from tuner.config import same
from tuner.errors import Infeasible, TuningError
from tuner.moves import Mutated, Prefix, Sampled, others, steps

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

_ATTEMPTS = 64


class Space:
    """All configurations that a program allows. The program is run for each question.

    A program is deterministic: the same answers lead to the same questions. It may raise
    `Infeasible`, but not for the defaults.
    """

    def __init__(self, program: Callable[[Choose], object]) -> None:
        """The program's result is not used."""
        self.program = program

    def default(self) -> Config:
        """Every decision at its default.

        Raises:
            TuningError: The program refuses its own defaults.
        """
        found = self.run(Default())
        if found is None:
            raise TuningError(
                "the default of a space: the program refuses it; give defaults that are feasible"
            )
        return found

    def run(self, chooser: Chooser) -> Config | None:
        """What a chooser makes of the program; none where the program refuses it."""
        try:
            self.program(chooser)
        except Infeasible:
            return None
        return chooser.config

    def decisions(self, config: Mapping[str, Answer]) -> list[Decision]:
        """The questions that lead to a configuration, in the order they are asked.

        Raises:
            TuningError: The configuration is not in the space.
        """
        given = Given(config)
        self.program(given)
        given.finish()
        return list(given.decisions.values())

    def contains(self, config: Mapping[str, Answer]) -> bool:
        """Whether the program accepts exactly these answers."""
        try:
            self.decisions(config)
        except TuningError:
            return False
        return True

    def project(self, answers: Mapping[str, Answer]) -> Config:
        """The configuration near these answers, which may come from another space.

        Each decision takes the nearest legal answer, or its default where none is given. Where the
        program refuses that, defaults take over, from the last decision backwards.
        """
        kept = dict(answers)
        while True:
            given = Given(kept, strict=False)
            found = self.run(given)
            if found is not None:
                return found
            dropped = next((name for name in reversed(given.decisions) if name in kept), None)
            if dropped is None:
                return self.default()
            del kept[dropped]

    def sample(self, rng: Rng) -> Config:
        """A random configuration: each decision uniform over its options.

        Where the program refuses most combinations, a mutation of the default.
        """
        for _ in range(_ATTEMPTS):
            found = self.run(Sampled(rng))
            if found is not None:
                return found
        return self.mutate(self.default(), rng, 0.5)

    def mutate(self, config: Config, rng: Rng, rate: float = 0.1) -> Config:
        """A configuration in which some decisions are answered otherwise.

        Args:
            config: Where to start.
            rng: Decides.
            rate: How likely each decision is changed; one is in any case. Half of the changes are
                steps to a neighbouring option, half go anywhere.
        """
        free = [each.name for each in self.decisions(config) if len(each.options) > 1]
        if not free:
            return self.project(config)
        for _ in range(_ATTEMPTS):
            chosen = {name for name in free if rng.random() < rate}
            found = self.run(Mutated(config, chosen or {str(rng.choice(free))}, rng))
            if found is not None and found != config:
                return found
        return config

    def crossover(self, one: Config, other: Config, rng: Rng) -> Config:
        """A configuration that takes each answer from one of two parents."""
        names = sorted({*one, *other})
        for _ in range(_ATTEMPTS):
            parents = [one if first else other for first in rng.random(len(names)) < 0.5]
            answers = {
                name: at[name] for name, at in zip(names, parents, strict=True) if name in at
            }
            found = self.run(Given(answers, strict=False))
            if found is not None:
                return found
        return one

    def neighbours(self, config: Config, reach: int = 1) -> list[Config]:
        """The configurations that are one step away, each once.

        A step takes a tile to another size, another choice to any other option, an order to one
        with two items that follow each other swapped. Decisions that depend on the changed one
        follow to their nearest legal answer.

        Args:
            config: Where to start.
            reach: How far a tile moves among its sizes: by 1, 2, 4, up to this many.
        """
        found: dict[Config, None] = {}
        for decision in self.decisions(config):
            for answer in steps(decision, reach):
                near = self.run(Given({**config, decision.name: answer}, strict=False))
                if near is not None and near != config:
                    found[near] = None
        return list(found)

    def enumerate(self, limit: int) -> list[Config] | None:
        """All configurations, the default first; none if there are more than the limit.

        Refused combinations cost time too: none, also, where they are so many that the search
        through them has no end in sight.
        """
        found: list[Config] = []
        for runs, config in enumerate(self._walk()):
            if config is not None:
                found.append(config)
            if len(found) > limit or runs > 64 * limit + 1024:
                return None
        return found

    def size_estimate(self, probes: int = 64, seed: int = 0) -> float:
        """How many configurations there are, about: exact where no decision depends on another.

        Source: Knuth, Estimating the efficiency of backtrack programs, 1975.
        """
        rng = np.random.default_rng(seed)
        sizes: list[float] = []
        for _ in range(probes):
            probe = Sampled(rng)
            found = self.run(probe)
            counts = [_count(each) for each in probe.decisions.values()]
            sizes.append(0.0 if found is None else float(np.prod(np.asarray(counts, float))))
        return max(1.0, float(np.mean(sizes)))

    def encode(self, config: Config) -> Floats:
        """The configuration as numbers, for a model.

        Numbers are log2(1 + n), so that 0 says that the decision was not asked; options without an
        order are one-hot; an order gives each item's place, from 1.

        Shape:
            (features,): the same for each configuration of this space. Names and options are those
            that turned up in a fixed sample of the space; rarer ones have no place in the vector.
        """
        vector = np.zeros(len(self._columns))
        for place, (name, option) in enumerate(self._columns):
            answer = config.get(name)
            if answer is not None:
                vector[place] = _encoded(answer, option)
        return vector

    @cached_property
    def _columns(self) -> list[tuple[str, Answer | None]]:
        rng = np.random.default_rng(0)
        columns: dict[tuple[str, Answer | None], None] = {}
        start = self.default()
        for config in [start, *(self.sample(rng) for _ in range(_ATTEMPTS))]:
            for decision in self.decisions(config):
                columns.update(dict.fromkeys(_columns_of(decision)))
        return sorted(columns, key=repr)

    def _walk(self) -> Iterator[Config | None]:
        """Depth first; a refused combination is none, and cuts off what lies below it."""
        pending: list[Iterator[Answer]] = []
        prefix: list[Answer] = []
        while True:
            chooser = Prefix(prefix)
            yield self.run(chooser)
            asked = list(chooser.decisions.values())
            for decision in asked[len(prefix) :]:
                pending.append(others(decision))
                prefix.append(decision.answer)
            while pending:
                following = next(pending[-1], None)
                if following is not None:
                    prefix[-1] = following
                    break
                pending.pop()
                prefix.pop()
            else:
                return


def _count(decision: Decision) -> int:
    length = len(decision.options)
    return factorial(length) if decision.kind == "order" else length


def _columns_of(decision: Decision) -> list[tuple[str, Answer | None]]:
    """A number has one column, named by itself; the others have one for each option or item."""
    if all(isinstance(option, int) for option in decision.options):
        return [(decision.name, None)]
    return [(decision.name, option) for option in decision.options]


def _encoded(answer: Answer, option: Answer | None) -> float:
    if option is None:
        number = int(answer) if isinstance(answer, int) else 0
        return log2(1 + number) if number >= 0 else -log2(1 - number)
    if isinstance(answer, tuple) and isinstance(option, str):
        items = cast("tuple[str, ...]", answer)
        return items.index(option) + 1.0 if option in items else 0.0
    return float(same(answer, option))
