"""Values of command-line arguments: text in, what it means out, or what is wrong with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alt.errors import AltError
from alt.picture import SUFFIXES


class ArrayFile(NamedTuple):
    """A NumPy file that was named on the command line and is read when its turn comes."""

    path: Path

    def read(self) -> np.ndarray:
        """The array.

        Raises:
            AltError: no such file, or not one array of numbers.
        """
        try:
            array = np.load(self.path, allow_pickle=False)
        except FileNotFoundError as error:
            raise AltError(f"cannot read {self.path}: there is no such file") from error
        except (ValueError, EOFError) as error:
            raise AltError(
                f"cannot read {self.path}: it is not a .npy file of numbers, or it was cut short; "
                "write it with numpy.save"
            ) from error
        except OSError as error:
            raise AltError(f"cannot read {self.path}: {error.strerror or error}") from error
        if not isinstance(array, np.ndarray):
            raise AltError(
                f"cannot read {self.path}: it holds several arrays; save the one you want as .npy"
            )
        return array


def _named(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text} is not of the form {what}")
    return name, value


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`x=1,3` as a name and a shape.

    Example:
        >>> shape("x=1,3,224,224")
        ('x', (1, 3, 224, 224))
    """
    name, value = _named(text, "NAME=1,3,224,224")
    extents = value.strip("()[]").rstrip(",").split(",")
    if not all(extent.strip().isdecimal() for extent in extents):
        raise argparse.ArgumentTypeError(f"{text}: {value} is not a list of whole numbers")
    return name, tuple(map(int, extents))


def constant(text: str) -> tuple[str, np.ndarray | ArrayFile]:
    """`axes=[1,2]` or `axes=@axes.npy` as a name and an array, or the file that holds it."""
    name, value = _named(text, "NAME=[1,2] or NAME=@FILE.npy")
    if value.startswith("@"):
        return name, ArrayFile(Path(value[1:]))
    try:
        array = np.asarray(json.loads(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {value} is not JSON such as [1,2]") from error
    if array.dtype.kind not in "biuf":
        raise argparse.ArgumentTypeError(f"{text}: {value} is not an array of numbers")
    return name, array


def input_file(text: str) -> tuple[str, ArrayFile | None]:
    """`x=x.npy` or `x=random` as a name and a file, or None for random numbers."""
    name, value = _named(text, "NAME=FILE.npy or NAME=random")
    return name, None if value == "random" else ArrayFile(Path(value))


def target(text: str) -> str | dict[str, object]:
    """The name of a target, or its options as JSON."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not JSON: {error}") from error


def device(text: str) -> int | str:
    """A GPU by number or name."""
    return int(text) if text.isdecimal() else text


def picture(text: str) -> Path:
    """The name of a picture, whose suffix says what kind."""
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text} must end in {', '.join(SUFFIXES)}")
    return path


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def minutes(text: str) -> float:
    """A time above zero, in minutes.

    Example:
        >>> minutes("0.5")
        0.5
    """
    return _number(text, "a number of minutes above 0", lambda value: 0 < value < inf)


def milliseconds(text: str) -> float:
    """A time above zero, in milliseconds."""
    return _number(text, "a number of milliseconds above 0", lambda value: 0 < value < inf)


def share(text: str) -> float:
    """A part of a whole, from 0 to 1."""
    return _number(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _number(text: str, what: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text} is not {what}")
    return value
