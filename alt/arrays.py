"""The arrays that a compiled network takes and gives: what they must be, and whose they are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm

from alt.errors import AltError
from alt.memory import ALIGNMENT, aligned_empty


@dataclass(frozen=True)
class Signature:
    """One input or output: its name in the ONNX model, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Signature:
        """What `to_dict` gave.

        Example:
            >>> Signature.parse({"name": "x", "shape": [1, 3], "dtype": "float32"})
            Signature(name='x', shape=(1, 3), dtype='float32')
        """
        return cls(str(data["name"]), tuple(map(int, data["shape"])), str(data["dtype"]))


def as_input(given: Any, signature: Signature) -> np.ndarray:
    """The input as a contiguous array, checked; copied only where it must be."""
    try:
        array = given if isinstance(given, np.ndarray) else np.from_dlpack(given)
    except (AttributeError, TypeError, BufferError, RuntimeError) as cause:
        if isinstance(given, int | float | list | tuple | np.generic):
            array = np.asarray(given, signature.dtype)
        else:
            raise AltError(
                f"input {signature.name!r}: {type(given).__name__} is neither a NumPy array nor a "
                f"CPU tensor with DLPack ({cause})"
            ) from cause
    require_match(signature, str(array.dtype), array.shape)
    flat = array.reshape(-1)
    if (
        flat.ctypes.data % ALIGNMENT == 0
        and flat.flags.c_contiguous
        and flat.flags.writeable
        and flat.size
    ):
        return flat
    copy = empty(signature)
    copy[: flat.size] = flat
    return copy


def require_match(signature: Signature, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse an input that is not what the model was compiled for.

    Raises:
        AltError: saying what differs.
    """
    if dtype != signature.dtype:
        raise AltError(
            f"input {signature.name!r} has dtype {dtype}, but the model takes "
            f"{signature.dtype}; convert it first"
        )
    if shape != signature.shape:
        raise AltError(
            f"input {signature.name!r} has shape {shape}, but the model was compiled for "
            f"{signature.shape}; compile it with shapes={{{signature.name!r}: {shape}}}"
        )


def empty(signature: Signature) -> np.ndarray:
    """Room for an input or output, of one dimension and never without elements."""
    size = max(prod(signature.shape), 1)
    dtype = np.dtype(signature.dtype)
    return aligned_empty(size * dtype.itemsize).view(dtype)[: prod(signature.shape) or 1]


def tensor_of(array: np.ndarray) -> Any:
    """An array as TVM takes it, without a copy."""
    return tvm.runtime.from_dlpack(array)


def like_example(example: Any, array: np.ndarray) -> Any:
    """The array as a tensor of the same library as `example`, without a copy."""
    library = type(example).__module__.partition(".")[0]
    home = tvm.runtime if library == "tvm" else sys.modules[library]
    convert = getattr(home, "from_dlpack", None)
    return array if convert is None else convert(array)
