"""Searchers: they propose configurations and are told how fast those are. They measure nothing.

A searcher is asked for a batch and told the results, in any order; what it was told of others, from
a log above all, it uses as if it had asked for it itself.

>>> from typing import cast
>>> from tuner.choices import Choose
>>> def program(choose: Choose) -> None:
...     choose.tile("oh", 64, default=8)
...     choose.tile("ow", 64, default=8)
>>> def seconds(config: Config) -> float:
...     return abs(cast(int, config["oh"]) - 16) + abs(cast(int, config["ow"]) - 4) + 1.0
>>> searcher = RandomSearch(Space(program), np.random.default_rng(0))
>>> for _ in range(10):
...     searcher.tell([(config, seconds(config)) for config in searcher.ask(8)])
>>> searcher.best, len(searcher.results)
(Config(oh=16, ow=6), 80)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from math import isfinite
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tuner.choices import Config
from tuner.space import Space

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

Score = Callable[[Sequence[Config]], Floats]
"""How good configurations are expected to be: one number for each, larger is better."""

_LISTED = 4096
"""Spaces up to this size are listed when random draws find nothing new."""


class Searcher(Protocol):
    """What a driver sees of a search."""

    @property
    def best(self) -> Config | None:
        """The fastest configuration that it was told of; none while all have failed."""
        ...

    def ask(self, count: int) -> list[Config]:
        """Configurations to measure, at most this many, none of them asked or told before.

        The first of all is the default. An empty list says that there is nothing left to ask, at
        least until more results are told.
        """
        ...

    def tell(self, results: Sequence[tuple[Config, float | None]]) -> None:
        """How fast configurations are.

        Units:
            Seconds, or any number that is smaller for better ones; None says that it failed.
        """
        ...


class Search:
    """The bookkeeping of a searcher: what was asked, what was told. Subclasses propose."""

    def __init__(self, space: Space, rng: Rng) -> None:
        """All randomness comes from the generator."""
        self.space = space
        self.rng = rng
        self.results: dict[Config, float | None] = {}
        self._seen: set[Config] = set()

    @property
    def best(self) -> Config | None:
        """See `Searcher.best`."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[Config]:
        """The configurations that did not fail, the fastest first; of equal ones, the earliest."""
        good = {config: cost for config, cost in self.results.items() if cost is not None}
        return sorted(good, key=good.__getitem__)

    def ask(self, count: int) -> list[Config]:
        """See `Searcher.ask`."""
        batch: list[Config] = []
        if count > 0:
            for config in self._first_default(count):
                if config not in self._seen:
                    self._seen.add(config)
                    batch.append(config)
                    if len(batch) == count:
                        break
        return batch

    def tell(self, results: Sequence[tuple[Config, float | None]]) -> None:
        """See `Searcher.tell`. What is not in the space, as it may be in old logs, is left out."""
        for config, cost in results:
            if config in self._seen or self.space.contains(config):
                self._seen.add(config)
                self.results[config] = cost if cost is not None and isfinite(cost) else None

    def propose(self, count: int) -> Iterator[Config]:
        """Configurations in the order of their promise; those seen before are skipped.

        It ends when nothing is left, and is closed when there are enough: only what is taken from
        it costs anything.
        """
        raise NotImplementedError

    def fresh(self, count: int) -> Iterator[Config]:
        """Random configurations; of a small space all, in the end."""
        for _ in range(64 + 16 * count):
            yield self.space.sample(self.rng)
        yield from self.shuffled(self._listing)

    def shuffled(self, configs: Sequence[Config]) -> list[Config]:
        """In random order."""
        places: list[int] = self.rng.permutation(len(configs)).tolist()
        return [configs[place] for place in places]

    def _first_default(self, count: int) -> Iterator[Config]:
        yield self.space.default()
        yield from self.propose(count)

    @cached_property
    def _listing(self) -> list[Config]:
        return self.space.enumerate(_LISTED) or []


class RandomSearch(Search):
    """Each decision uniform over its options: the searcher that others must beat."""

    def propose(self, count: int) -> Iterator[Config]:
        """Random configurations."""
        return self.fresh(count)


def in_order(score: Score, configs: Sequence[Config]) -> list[Config]:
    """The best predicted first; what the model has no number for comes last."""
    known = np.nan_to_num(score(configs), nan=-np.inf)
    places: list[int] = np.argsort(-known, kind="stable").tolist()
    return [configs[place] for place in places]
