"""A question with its legal answers: `Decision`, tile sizes worth trying, the nearest answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, log2
from typing import Literal, cast

from tuner.config import Answer, same
from tuner.errors import TuningError

Kind = Literal["tile", "one_of", "order"]


@dataclass(frozen=True)
class Decision:
    """A question that a program asked, and its answer.

    For an order, `options` are the items, and every permutation of them is legal.
    """

    name: str
    kind: Kind
    options: tuple[Answer, ...]
    default: Answer
    answer: Answer

    def allows(self, answer: Answer) -> bool:
        """Whether the answer is a legal one, of the right type too."""
        if self.kind == "order":
            items = cast("tuple[str, ...]", self.options)
            return (
                isinstance(answer, tuple)
                and len(answer) == len(items)
                and set(answer) == set(items)
            )
        if answer not in self.options:
            return False
        # Equal, but perhaps of another type, so that it stands in another place.
        first = self.options.index(answer)
        return any(same(answer, option) for option in self.options[first:])

    def answered(self, answer: Answer) -> Decision:
        """The same question with another answer."""
        return Decision(self.name, self.kind, self.options, self.default, answer)


@lru_cache(maxsize=4096)  # a search asks the same thousands of times
def tile_sizes(extent: int, *, at_most: int | None = None, multiple_of: int = 1) -> tuple[int, ...]:
    """The sizes worth trying: those that cut the extent into parts as even as can be.

    Such a size is the smallest that gives its number of parts, so it wastes least in the last one;
    every divisor is among them. Between two of them nothing is gained.

    Args:
        extent: What is cut.
        at_most: No size is larger.
        multiple_of: Every size is a multiple of this; the parts are even in these units.

    >>> tile_sizes(14)
    (1, 2, 3, 4, 5, 7, 14)
    >>> tile_sizes(100, multiple_of=16)
    (16, 32, 48, 64)
    >>> tile_sizes(100, at_most=30, multiple_of=5)
    (5, 10, 15, 20, 25)
    """
    if extent < 1 or multiple_of < 1:
        raise TuningError(
            f"tile sizes of extent {extent} in multiples of {multiple_of}: both must be positive"
        )
    units = -(-extent // multiple_of)
    limit = min(extent, extent if at_most is None else at_most)
    sizes: list[int] = []
    parts = 1
    while parts <= units:
        unit = -(-units // parts)
        if unit * multiple_of <= limit:
            sizes.append(unit * multiple_of)
        # On to the fewest parts that give a smaller size.
        parts = -(-units // (unit - 1)) if unit > 1 else units + 1
    return tuple(reversed(sizes))


def nearest(question: Decision, answer: Answer) -> Answer:
    """The legal answer nearest to one that may not be legal here.

    Numbers are compared by their ratio, tuples of numbers by the ratios of their entries; an order
    keeps the known items in their order. What cannot be compared becomes the default.

    >>> nearest(Decision("oh", "tile", (1, 2, 7, 14), 7, 7), 5)
    7
    >>> nearest(Decision("loops", "order", ("n", "c", "w"), ("n", "c", "w"), ()), ("w", "h", "n"))
    ('w', 'c', 'n')
    """
    if question.allows(answer):
        return answer
    if question.kind == "order":
        return _nearest_order(cast("tuple[str, ...]", question.default), answer)
    # Of equally near options the default wins, then the earliest.
    options = (question.default, *question.options)
    distance, best = min(
        ((_distance(option, answer), number) for number, option in enumerate(options))
    )
    return options[best] if distance < inf else question.default


def _distance(option: Answer, answer: Answer) -> float:
    if isinstance(option, tuple) and isinstance(answer, tuple) and len(option) == len(answer):
        return sum(map(_distance, option, answer))
    if type(option) is int and type(answer) is int:
        return abs(_logarithm(option) - _logarithm(answer))
    return 0.0 if same(option, answer) else inf


def _logarithm(value: int) -> float:
    # Zero and negative answers exist: unroll by 0, an axis of -1. Half a step below 1.
    return log2(value) if value >= 1 else value - 0.5


def _nearest_order(default: tuple[str, ...], answer: Answer) -> Answer:
    if not isinstance(answer, tuple):
        return default
    known = [item for item in dict.fromkeys(map(str, answer)) if item in default]
    places = iter(known)
    return tuple(next(places) if item in known else item for item in default)
