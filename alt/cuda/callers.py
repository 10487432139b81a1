"""What those who call a network on a GPU bring with them, and what they are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alt.cuda.driver import DriverError
from alt.errors import AltError

_DLPACK_CUDA, _DLPACK_MANAGED = 2, 13


def is_on_device(tensor: Any) -> bool:
    """Whether a tensor is not on the host, as far as it says where it is."""
    ask = getattr(tensor, "__dlpack_device__", None)
    return ask is not None and int(ask()[0]) in (_DLPACK_CUDA, _DLPACK_MANAGED)


def torch_of(tensor: Any) -> Any:
    """The module `torch` if this is a tensor of it."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(tensor, torch.Tensor) else None


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Translate what TVM and the driver say when something fails on the device."""
    try:
        yield
    except AltError:
        raise
    except Exception as error:
        told = [line.strip() for line in str(error).splitlines() if "CUDA" in line]
        foreign = type(error).__module__.partition(".")[0] == "torch"
        if foreign or not (told or isinstance(error, DriverError)):
            raise
        raise AltError(
            f"{where} failed: {told[0] if told else error}; if other programs run on it, start "
            "this one again, and report the model if that does not help"
        ) from error
