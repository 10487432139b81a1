"""Decisions by name, made while a program runs: the answers are the configuration.

A program asks for what it needs and goes on with the answer, so later questions may depend on
earlier answers. What answers is a chooser: the defaults, a stored configuration, or a search.

>>> def program(choose: Choose) -> str:
...     tile = choose.tile("oh", extent=14, default=7)
...     unroll = choose.one_of("unroll", (0, 16, 64), default=16) if tile > 2 else 0
...     return f"tile {tile}, unroll {unroll}"
>>> program(Default())
'tile 7, unroll 16'
>>> replay(program, Config({"oh": 4, "unroll": 64}))
'tile 4, unroll 64'
>>> replay(program, Config({"oh": 2, "unroll": 64}))
Traceback (most recent call last):
tuner.errors.TuningError: replay of Config(oh=2, unroll=64): no decision asks for unroll; ...

Source: DESIGN, the pipeline, step 5; the ask/tell idiom is Optuna's define-by-run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

from tuner.config import Answer, Config, short
from tuner.decision import Decision, Kind, nearest, tile_sizes
from tuner.errors import Infeasible, TuningError

__all__ = [
    "Answer",
    "Choose",
    "Chooser",
    "Config",
    "Decision",
    "Default",
    "Given",
    "Infeasible",
    "Kind",
    "nearest",
    "replay",
    "tile_sizes",
]

Result = TypeVar("Result")
Picked = TypeVar("Picked", bound=Answer)


class Choose(Protocol):
    """What a program sees: three ways to ask. A name is asked at most once in a run."""

    def tile(
        self,
        name: str,
        extent: int,
        default: int,
        *,
        at_most: int | None = None,
        multiple_of: int = 1,
    ) -> int:
        """A tile size between 1 and the extent: one of `tile_sizes`, or the default.

        Raises:
            TuningError: The default is not between 1 and the extent, or the name is asked twice.
        """
        ...

    def one_of(self, name: str, options: Sequence[Picked], default: Picked) -> Picked:
        """One of the options, in whose order neighbours are next to each other.

        Raises:
            TuningError: The default is no option, or an option occurs twice.
        """
        ...

    def order(
        self, name: str, items: Sequence[str], default: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """A permutation of the items; without a default, that is the order they are given in.

        Raises:
            TuningError: An item occurs twice, or the default is no permutation of the items.
        """
        ...


class Chooser:
    """Checks and records what a program asks; `decide` answers. The base of every chooser."""

    def __init__(self) -> None:
        """Nothing has been asked yet."""
        self.decisions: dict[str, Decision] = {}

    @property
    def config(self) -> Config:
        """The answers so far."""
        return Config({name: each.answer for name, each in self.decisions.items()})

    def decide(self, question: Decision) -> Answer:
        """The answer to a question, which comes with its default as the answer."""
        raise NotImplementedError

    def tile(
        self,
        name: str,
        extent: int,
        default: int,
        *,
        at_most: int | None = None,
        multiple_of: int = 1,
    ) -> int:
        """See `Choose.tile`."""
        if not 1 <= default <= extent:
            raise TuningError(
                f"tile {name!r} of extent {extent}: the default {default} is not in 1..{extent}"
            )
        sizes = tile_sizes(extent, at_most=at_most, multiple_of=multiple_of)
        options = sizes if default in sizes else tuple(sorted({*sizes, default}))
        return cast("int", self._ask(Decision(name, "tile", options, default, default)))

    def one_of(self, name: str, options: Sequence[Picked], default: Picked) -> Picked:
        """See `Choose.one_of`."""
        question = Decision(name, "one_of", tuple(options), default, default)
        if not question.allows(default):
            raise TuningError(f"one of {name!r}: the default {default!r} is not in {options}")
        if len({(type(option), option) for option in options}) < len(options):
            raise TuningError(f"one of {name!r}: an option occurs twice in {options}")
        return cast("Picked", self._ask(question))

    def order(
        self, name: str, items: Sequence[str], default: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """See `Choose.order`."""
        start = tuple(items if default is None else default)
        question = Decision(name, "order", tuple(items), start, start)
        if len(set(items)) < len(items):
            raise TuningError(f"order {name!r}: an item occurs twice in {items}")
        if not question.allows(start):
            raise TuningError(f"order {name!r}: the default {start} does not permute {items}")
        return cast("tuple[str, ...]", self._ask(question))

    def _ask(self, question: Decision) -> Answer:
        if question.name in self.decisions:
            raise TuningError(f"{question.kind} {question.name!r}: the name is asked twice")
        answer = self.decide(question)
        decision = question if answer is question.answer else question.answered(answer)
        self.decisions[question.name] = decision
        return answer


class Default(Chooser):
    """Answers every question with its default."""

    def decide(self, question: Decision) -> Answer:
        """The default."""
        return question.default


class Given(Chooser):
    """Answers from a configuration; strictly, or with the nearest legal answers."""

    def __init__(self, config: Mapping[str, Answer], strict: bool = True) -> None:
        """With `strict`, a missing or illegal answer is an error; otherwise it is repaired."""
        super().__init__()
        self._config = config
        self._strict = strict

    def decide(self, question: Decision) -> Answer:
        """The given answer.

        Raises:
            TuningError: Strict only: there is no answer of this name, or it is not legal.
        """
        given = self._config.get(question.name)
        if given is not None and question.allows(given):
            return given
        if not self._strict:
            return question.default if given is None else nearest(question, given)
        trouble = (
            f"no answer for {question.name}"
            if given is None
            else f"{question.name} may not be {given!r}"
        )
        of = "a permutation of" if question.kind == "order" else "one of"
        raise TuningError(
            f"replay of {short(self._config)}: {trouble}; give {of} {question.options}"
        )

    def finish(self) -> None:
        """To be called after the program: all answers must have been asked for.

        Raises:
            TuningError: Strict only: answers that no decision asked for.
        """
        unused = [name for name in self._config if name not in self.decisions]
        if self._strict and unused:
            raise TuningError(
                f"replay of {short(self._config)}: no decision asks for {', '.join(unused)};"
                f" the decisions are {', '.join(self.decisions) or 'none'}"
            )


def replay(program: Callable[[Choose], Result], config: Mapping[str, Answer]) -> Result:
    """What the program gives with exactly these answers.

    Raises:
        TuningError: An answer is missing, not legal, or not asked for.
    """
    given = Given(config)
    result = program(given)
    given.finish()
    return result
