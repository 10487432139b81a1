"""What the tests of the compiler share serves these, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "alt"))


@pytest.fixture(scope="session")
def module():
    """A small network on the GPU that is here."""
    from small_models import network

    import alt

    return alt.compile(network(), "cuda")


@pytest.fixture(scope="session")
def saved(module, tmp_path_factory):
    """Loading is a faster way to another module than compiling."""
    path = tmp_path_factory.mktemp("saved") / "m.alt"
    module.save(path)
    return path
