"""Decisions as an actor sees them: a state of fixed length, actions that become legal answers.

A number is one action x; sigmoid(x) in (0, 1) times the largest option, D, is near a legal answer.
Other options have an action each, and the largest wins; an order sorts its items by their actions.
All actions are relative to the default, so that an actor that knows nothing proposes what is near
the default, and what it learns for one extent says something about another.

>>> tile = Decision("oh", "tile", (1, 2, 4, 7, 14, 28), 7, 7)
>>> [answer_of(tile, np.array([x])) for x in (-9.0, 0.0, 1.5, 9.0)]
[1, 7, 14, 28]
>>> answer_of(tile, action_of(tile, 4))
4

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout tuning: a factor near D*a.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, log2
from typing import cast

import numpy as np
import numpy.typing as npt

from tuner.choices import Answer, Decision, nearest
from tuner.config import same

Floats = npt.NDArray[np.float64]

HISTORY = 4
STATE = 9 + HISTORY
"""The length of `state_of`."""

_APART = 0.75
"""How far actions of options or items that follow each other are apart, in standard deviations."""


def is_number(decision: Decision) -> bool:
    """Whether the options are numbers, which D*a makes sense for."""
    return decision.kind == "tile" or all(
        type(option) is int and option >= 0 for option in decision.options
    )


def width(decision: Decision) -> int:
    """How many actions make an answer."""
    return 1 if is_number(decision) else len(decision.options)


def answer_of(decision: Decision, action: Floats) -> Answer:
    """The legal answer that an action stands for."""
    absolute = _start(decision) + action
    if is_number(decision):
        largest = max(cast("tuple[int, ...]", decision.options))
        return nearest(decision, round(largest / (1 + exp(-float(absolute[0])))))
    if decision.kind == "order":
        places: list[int] = np.argsort(absolute, kind="stable").tolist()
        return tuple(cast("str", decision.options[place]) for place in places)
    return decision.options[int(np.argmax(absolute))]


def action_of(decision: Decision, answer: Answer) -> Floats:
    """An action that stands for a legal answer, in the middle of all that do."""
    return _absolute(decision, answer) - _start(decision)


def state_of(decision: Decision, past: Sequence[float]) -> Floats:
    """What an actor and the critic know when a decision is made.

    Args:
        decision: The question.
        past: What the decisions before it were answered; see `summary`.

    Shape:
        (STATE,)
    """
    number = is_number(decision)
    largest = max(cast("tuple[int, ...]", decision.options)) if number else 0
    return np.array(
        [
            1.0,
            decision.kind == "tile",
            decision.kind == "order",
            number,
            log2(1 + largest) / 8,
            log2(1 + len(decision.options)) / 4,
            float(_start(decision)[0]) / 4,
            len(past) / 8,
            (largest & -largest).bit_length() / 8,  # how often two divides it
            *([0.0] * HISTORY + list(past))[-HISTORY:],
        ]
    )


def summary(decision: Decision) -> float:
    """An answer as one number, for the state of the decisions after it."""
    return float(_absolute(decision, decision.answer)[0]) / 4


def _start(decision: Decision) -> Floats:
    return _absolute(decision, decision.default)


def _absolute(decision: Decision, answer: Answer) -> Floats:
    if is_number(decision):
        largest = max(cast("tuple[int, ...]", decision.options))
        part = cast("int", answer) / largest if largest else 0.5
        part = min(max(part, 0.25 / max(1, largest)), 0.9)
        return np.array([log(part / (1 - part))])
    if decision.kind == "order":
        order = cast("tuple[str, ...]", answer)
        return _APART * np.array([float(order.index(cast("str", o))) for o in decision.options])
    return 2 * _APART * np.array([float(same(option, answer)) for option in decision.options])
