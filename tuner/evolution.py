"""Evolution: the fastest configurations so far have children; a model says which to measure.

>>> from tuner.choices import Choose
>>> def program(choose: Choose) -> None:
...     choose.tile("oh", 64, default=8)
...     choose.order("loops", ("n", "c", "h", "w"))
>>> def model(configs: Sequence[Config]) -> Floats:
...     return np.array([config["oh"] == 32 for config in configs], float)
>>> searcher = Evolution(Space(program), np.random.default_rng(0), model, explore=0.0)
>>> [config["oh"] for config in searcher.ask(5)]  # the default, then what the model likes
[8, 32, 32, 32, 32]

Source: Ansor (OSDI 2020, arXiv 2006.06762), section on performance fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from tuner.choices import Config
from tuner.search import Floats, Rng, Score, Search
from tuner.space import Space


class Evolution(Search):
    """Crossover and mutation of what was fastest; with a model, several generations unmeasured."""

    def __init__(
        self,
        space: Space,
        rng: Rng,
        score: Score | None = None,
        *,
        population: int = 64,
        generations: int = 4,
        elite: int = 16,
        rate: float = 0.1,
        explore: float = 0.1,
    ) -> None:
        """The searcher of a space.

        Args:
            space: What is searched.
            rng: Decides.
            score: The model; without one, children of the fastest are measured as they come.
            population: How many configurations a generation has.
            generations: How many follow each other on the model's word alone, before measuring.
            elite: How many of the fastest have children.
            rate: How likely a mutation changes a decision.
            explore: How likely an answer is a random configuration instead.
        """
        super().__init__(space, rng)
        self.score = score
        self._population = population
        self._generations = generations
        self._elite = elite
        self._rate = rate
        self._explore = explore

    def propose(self, count: int) -> Iterator[Config]:
        """The most promising children, a few random configurations between them."""
        children = self._bred(count) if self.score is None else self._selected(self.score)
        for child in children:
            if self.rng.random() < self._explore:
                yield self.space.sample(self.rng)
            yield child
        yield from self.fresh(count)

    def _bred(self, count: int) -> Iterator[Config]:
        parents = self.ranked()[: self._elite]
        if parents:
            weights = _by_rank(len(parents))
            for _ in range(8 * count):
                yield self._child(parents, weights)

    def _selected(self, score: Score) -> list[Config]:
        parents = self.ranked()[: self._elite]
        drawn = (self.space.sample(self.rng) for _ in range(self._population - len(parents)))
        scores = _scored(score, [*parents, *drawn])
        for _ in range(self._generations):
            alive = _best(scores)[: self._population]
            weights = _by_rank(len(alive))
            born = [self._child(alive, weights) for _ in range(self._population)]
            scores |= _scored(score, [child for child in born if child not in scores])
        return _best(scores)

    def _child(self, parents: Sequence[Config], weights: Floats) -> Config:
        first, second = cast("list[int]", self.rng.choice(len(parents), size=2, p=weights).tolist())
        child = self.space.crossover(parents[first], parents[second], self.rng)
        return self.space.mutate(child, self.rng, self._rate)


def _by_rank(length: int) -> Floats:
    """The chance of each to be a parent: the first is four times as likely as the last."""
    weights = np.geomspace(4.0, 1.0, length)
    return weights / weights.sum()


def _scored(score: Score, configs: Sequence[Config]) -> dict[Config, float]:
    once = list(dict.fromkeys(configs))
    if not once:
        return {}
    return dict(zip(once, np.nan_to_num(score(once), nan=-np.inf).tolist(), strict=True))


def _best(scores: dict[Config, float]) -> list[Config]:
    return sorted(scores, key=scores.__getitem__, reverse=True)
