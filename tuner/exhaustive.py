"""Everything, in the order a model recommends; a large space by a sample of it.

>>> import numpy as np
>>> from tuner.choices import Choose
>>> def program(choose: Choose) -> None:
...     choose.tile("oh", 8, default=4)
>>> def model(configs):
...     return np.array([config["oh"] for config in configs], float)
>>> searcher = Exhaustive(Space(program), model, np.random.default_rng(0))
>>> [config["oh"] for config in searcher.ask(10)], searcher.ask(10)
([4, 8, 3, 2, 1], [])
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from tuner.choices import Config
from tuner.search import Rng, Score, Search, in_order
from tuner.space import Space


class Exhaustive(Search):
    """Lists a small space once and asks for the best predicted that is left."""

    def __init__(
        self, space: Space, score: Score | None, rng: Rng, *, limit: int = 4096, sample: int = 512
    ) -> None:
        """The searcher of a space.

        Args:
            space: What is searched.
            score: The model, asked again for each batch, as it may have learnt; without one the
                order is random.
            rng: Decides.
            limit: Spaces up to this size are listed.
            sample: How many random configurations of a larger space the model chooses from.
        """
        super().__init__(space, rng)
        self.score = score
        self._limit = limit
        self._sample = sample

    def propose(self, count: int) -> Iterator[Config]:
        """What is left of the space, the best predicted first."""
        all_of_them = self._all
        drawn = all_of_them or [self.space.sample(self.rng) for _ in range(self._sample)]
        left = self.shuffled([each for each in dict.fromkeys(drawn) if each not in self.results])
        yield from left if self.score is None or not left else in_order(self.score, left)
        if not all_of_them:
            yield from self.fresh(count)

    @cached_property
    def _all(self) -> list[Config]:
        return self.space.enumerate(self._limit) or []
