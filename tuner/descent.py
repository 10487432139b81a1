"""Coordinate descent: one decision at a time from the fastest configuration, until none helps.

>>> import numpy as np
>>> from typing import cast
>>> from tuner.choices import Choose
>>> def program(choose: Choose) -> None:
...     choose.tile("oh", 64, default=8)
...     choose.tile("ow", 64, default=8)
>>> def seconds(config: Config) -> float:
...     return abs(cast(int, config["oh"]) - 16) + abs(cast(int, config["ow"]) - 4) + 1.0
>>> searcher = CoordinateDescent(Space(program), None, np.random.default_rng(0))
>>> while batch := searcher.ask(4):
...     searcher.tell([(config, seconds(config)) for config in batch])
>>> searcher.best, len(searcher.results) < 40
(Config(oh=16, ow=4), True)
"""

from __future__ import annotations

from collections.abc import Iterator

from tuner.choices import Config
from tuner.search import Rng, Search
from tuner.space import Space

_REACH = 4
"""How far a tile may jump, so that a start far from the optimum does not cost a batch a size."""


class CoordinateDescent(Search):
    """Asks for the neighbours of the fastest; when all are known, it has nothing left to ask.

    A searcher to finish with: it is cheap, and its end is a local optimum. While everything fails
    it looks elsewhere at random.
    """

    def __init__(self, space: Space, start: Config | None, rng: Rng) -> None:
        """Starts near a configuration, or at the default; what is told may be better already."""
        super().__init__(space, rng)
        self._start = space.default() if start is None else space.project(start)

    def propose(self, count: int) -> Iterator[Config]:
        """The start, then the neighbours of the fastest in random order."""
        yield self._start
        centre = self.best
        near = self.space.neighbours(self._start if centre is None else centre, _REACH)
        yield from self.shuffled(near)
        if centre is None:
            yield from self.fresh(count)
