"""A function rewritten for layouts must compute what the untouched one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import tvm

from primitives.layout import Layout
from primitives.lower import rewrite
from primitives.reference import pack, pack_joint, unpack
from primitives.stages import dtype_of_buffer, shape_of_buffer, stages_of
from primitives.storage import Unpacked
from primitives.store_at import Joint

# Code as TVM made it, without LLVM's passes: compiles in half the time.
TARGET = {"kind": "llvm", "opt-level": 0}
TOGETHER = 8  # functions in one module; more gain nothing

Call = Callable[[list[np.ndarray]], list[np.ndarray]]


def tolerance(dtype: str, length: int) -> float:
    """How far two orders of summing `length` terms may differ, relative to the sum of magnitudes.

    A sum of n rounded terms is off by at most about n times the machine epsilon; eight more for
    the functions around it. Integers and booleans must agree exactly.
    """
    return float(np.finfo(dtype).eps) * (8 + length) if dtype.startswith("float") else 0.0


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Contents for an input: floats around 0, integers that serve as indices and shift counts."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        return rng.integers(0, 3, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def spoiled(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What an output holds before it is written."""
    return np.full(shape, np.nan if dtype.startswith("float") else 1, dtype)


def compiled(funcs: Sequence[Any]) -> list[Call]:
    """Functions for the CPU that take all parameters and return what these then hold."""
    calls: list[Call] = []
    for start in range(0, len(funcs), TOGETHER):
        named = {f"f{k}": f for k, f in enumerate(funcs[start : start + TOGETHER])}
        module = tvm.IRModule({n: f.with_attr("global_symbol", n) for n, f in named.items()})
        executable = tvm.compile(module, TARGET)
        calls.extend(_call(executable[name]) for name in named)
    return calls


def _call(function: Any) -> Call:
    def call(arrays: list[np.ndarray]) -> list[np.ndarray]:
        tensors = [tvm.runtime.tensor(a) for a in arrays]
        function(*tensors)
        return [t.numpy() for t in tensors]

    return call


def run(func: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Compile for the CPU, run, return what all parameters then hold."""
    return compiled([func])[0](arrays)


@dataclass(frozen=True, eq=False)
class Case:
    """A function and how to store its tensors; inputs are random but for those given."""

    func: Any
    layouts: Mapping[str | int, Layout]
    fill: float | Mapping[str | int, float] = 0
    absorb: bool = True
    back: bool = False
    """Whether the rewritten function is rewritten back; that must compute the same again."""
    inputs: Mapping[int, np.ndarray] | None = None
    joints: Mapping[tuple[int, int], Joint] = field(default_factory=dict)

    def rewritten(self) -> Any:
        return rewrite(
            self.func, self.layouts, fill=self.fill, absorb=self.absorb, joints=self.joints
        )

    def restored(self, rewritten: Any) -> Any:
        """The rewritten function over logical tensors again."""
        left = {str(b.name) for stage in stages_of(rewritten) for b in stage.outputs}
        left |= {str(p.name) for p in rewritten.params}
        kept = {k: v for k, v in self.layouts.items() if isinstance(k, int) or k in left}
        fill = self.fill
        if isinstance(fill, Mapping):
            fill = {k: v for k, v in fill.items() if isinstance(k, int) or k in left}
        return rewrite(rewritten, {k: Unpacked(v) for k, v in kept.items()}, fill=fill)

    def of(self, values: Mapping[str | int, Any], position: int, otherwise: Any) -> Any:
        """What a mapping of layouts or fills says of a parameter."""
        return values.get(position, values.get(str(self.func.params[position].name), otherwise))

    def fill_of(self, position: int) -> float:
        fill = self.fill
        return self.of(fill, position, 0) if isinstance(fill, Mapping) else fill


_ORIGINALS: dict[int, tuple[Any, Call]] = {}


def _originals(cases: Sequence[Case]) -> None:
    """Compile the untouched functions, each once in all tests."""
    new = {id(c.func): c.func for c in cases if id(c.func) not in _ORIGINALS}
    for func, call in zip(new.values(), compiled(list(new.values())), strict=True):
        _ORIGINALS[id(func)] = func, call


def check_all(cases: Sequence[Case], rng: np.random.Generator) -> list[Any]:
    """Rewrite, run all on the same inputs as the originals, compare; returns what was rewritten."""
    _originals(cases)
    rewritten = [case.rewritten() for case in cases]
    restored = {
        k: c.restored(f) for k, (c, f) in enumerate(zip(cases, rewritten, strict=True)) if c.back
    }
    calls = compiled([*rewritten, *restored.values()])
    back = dict(zip(restored, calls[len(cases) :], strict=True))
    for k, case in enumerate(cases):
        _compare(case, calls[k], back.get(k), rng)
    return rewritten


def check(func: Any, layouts: Mapping[str | int, Layout], rng: Any, **options: Any) -> Any:
    """`check_all` for one case; options are fields of `Case`."""
    return check_all([Case(func, layouts, **options)], rng)[0]


def _compare(case: Case, call: Call, back: Call | None, rng: np.random.Generator) -> None:
    func, given = case.func, case.inputs or {}
    stages = stages_of(func)
    written = {b for stage in stages for b in stage.outputs}
    length = max((prod(a.extent for a in stage.reduce) for stage in stages), default=1)
    plain: list[np.ndarray] = []
    stored: list[np.ndarray] = []
    layouts: list[Layout] = []
    for position, param in enumerate(func.params):
        shape, dtype = shape_of_buffer(param), dtype_of_buffer(param)
        layout = case.of(case.layouts, position, Layout.identity(shape))
        layouts.append(layout)
        if param in written:
            plain.append(spoiled(shape, dtype))
            stored.append(spoiled(layout.shape, dtype))
        else:
            plain.append(given.get(position, random_array(rng, shape, dtype)))
            stored.append(pack(plain[-1], layout, case.fill_of(position)))
    kept = list(range(len(plain)))
    for (host, guest), joint in case.joints.items():
        stored[host] = pack_joint(plain[host], plain[guest], joint, case.fill_of(host))
        kept.remove(guest)
    expected = _ORIGINALS[id(func)][1](plain)
    found = dict(zip(kept, call([stored[k] for k in kept]), strict=True))
    again = back(plain) if back is not None else None
    for position, (param, layout) in enumerate(zip(func.params, layouts, strict=True)):
        if param not in written:
            continue
        what = f"{param.name}, fill {case.fill}, layouts " + "; ".join(
            f"{key}: {value}" for key, value in case.layouts.items()
        )
        logical = unpack(found[position], layout)
        _agree(logical, expected[position], length, what)
        if again is not None:
            _agree(again[position], expected[position], length, f"restored {what}")
        np.testing.assert_array_equal(
            found[position],
            pack(logical, layout, case.fill_of(position)),
            err_msg=f"copies or fill of {what}",
        )


def _agree(found: np.ndarray, expected: np.ndarray, length: int, what: str) -> None:
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, err_msg=what)
        return
    error = tolerance(str(expected.dtype), length)
    size = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=1e-30))
    np.testing.assert_allclose(found, expected, rtol=error, atol=error * size, err_msg=what)
