"""Whatever layouts, ways back, fills and joints are asked for: a function, or `LayoutError`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.lower import rewrite
from primitives.stages import shape_of_buffer, stages_of
from primitives.storage import Unpacked
from primitives.store_at import Joint, store_at
from tests.primitives.operators import BUILDERS, operator
from tests.primitives.random_layouts import random_layout

pytestmark = pytest.mark.llvm

Shapes = list[tuple[int, ...]]


def any_of(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def some_layout(rng: np.random.Generator, shapes: Shapes) -> Layout | Unpacked:
    layout = random_layout(rng, any_of(rng, shapes), 3)
    return any_of(rng, [layout, layout, Unpacked(layout.undo()), Unpacked(layout)])


def some_joint(rng: np.random.Generator, shapes: Shapes) -> Joint:
    """One slice more for one tensor, of which another is as large as a slice: or not."""
    host, guest = (Layout.identity(any_of(rng, shapes)) for _ in range(2))
    if len(host.shape) > 2:
        host = host.fuse(1, len(host.shape) - 1)
    return store_at(host, guest.fuse(0, len(guest.shape)), int(rng.integers(2)))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_for_is_done_or_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(100):
        func = operator(str(rng.choice(list(BUILDERS))))
        shapes = [shape_of_buffer(p) for p in func.params]
        keys = [-1, *range(len(shapes) + 1), "x0", "nothing", "pad_temp"]
        forms = {any_of(rng, keys): some_layout(rng, shapes) for _ in range(rng.integers(3))}
        fill = any_of(rng, [0, 1.5, np.inf, np.nan, {any_of(rng, keys): 2}])
        try:
            joints = {}
            if rng.integers(3) == 0:
                joints = {(any_of(rng, keys), any_of(rng, keys)): some_joint(rng, shapes)}
            made = rewrite(func, forms, fill=fill, joints=joints)
        except LayoutError as refusal:
            # What was asked, what is wrong; what to do.
            assert ": " in str(refusal) and "; " in str(refusal)
            outcomes["refused"] += 1
        else:
            assert stages_of(made)
            outcomes["done"] += 1
    assert min(outcomes["done"], outcomes["refused"]) >= 10
