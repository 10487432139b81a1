"""What a program was answered: `Config`, an immutable dict of answers that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import cast

from tuner.errors import TuningError

Answer = int | str | bool | tuple[int, ...] | tuple[str, ...]
"""What a decision may be answered with: everything that JSON can hold without loss."""


class Config(Mapping[str, Answer]):
    """Answers by name: immutable, hashable, ordered by name.

    >>> config = Config({"unroll": 16, "order": ("n", "c"), "pack": True})
    >>> config
    Config(order=('n', 'c'), pack=True, unroll=16)
    >>> Config.from_json(config.to_json()) == config
    True
    >>> config == Config({"unroll": 16, "order": ("n", "c"), "pack": 1})  # 1 is not True
    False
    """

    __slots__ = ("_answers", "_hash")

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        """The answers are copied."""
        given = answers or {}
        self._answers = {name: given[name] for name in sorted(given)}
        self._hash = hash(tuple(self._answers.items()))

    def __getitem__(self, name: str) -> Answer:
        return self._answers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return self._answers.keys() == other._answers.keys() and all(
            same(answer, other._answers[name]) for name, answer in self._answers.items()
        )

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={answer!r}' for name, answer in self.items())})"

    def to_json(self) -> dict[str, object]:
        """A value for `json.dumps`; tuples become lists."""
        return {
            name: list(answer) if isinstance(answer, tuple) else answer
            for name, answer in self.items()
        }

    @staticmethod
    def from_json(value: object) -> Config:
        """What `to_json` gave, after a round trip through JSON or without.

        Raises:
            TuningError: The value is no object of answers.
        """
        answers: dict[str, Answer] = {}
        if type(value) is not dict:
            raise TuningError(f"configuration from JSON: {short(value)} is not an object")
        for name, entry in cast("dict[object, object]", value).items():
            answer = tuple(cast("list[object]", entry)) if type(entry) is list else entry
            if not isinstance(name, str) or not is_answer(answer):
                raise TuningError(
                    f"configuration from JSON: {name!r} is {short(answer)}; an answer is an int,"
                    " a string, true or false, or a list of ints or of strings"
                )
            answers[name] = cast("Answer", answer)
        return Config(answers)


def same(one: Answer, other: Answer) -> bool:
    """Equal, and of one type: to Python, 1 and True are equal."""
    return type(one) is type(other) and one == other


def is_answer(value: object) -> bool:
    """Whether the value is of the type `Answer`."""
    if not isinstance(value, tuple):
        return isinstance(value, int | str)
    entries = cast("tuple[object, ...]", value)
    return all(type(entry) is int for entry in entries) or all(
        isinstance(entry, str) for entry in entries
    )


def short(value: object) -> str:
    """The value as text, cut off where it is long: for messages."""
    text = repr(value) if not isinstance(value, dict | list) else json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:297]}..."
