"""Elementary functions against NumPy's float64, over the whole range of float32."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from equivalence import check, model, node

import alt

pytestmark = pytest.mark.llvm

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1.4e-45, -1.4e-45, 1.1754942e-38]
LIMITS = [3.4028235e38, -3.4028235e38, 1.17549435e-38, 88.72283, 88.7229, -87.3365, -103.98]


def _everything(count=20000):
    """Floats of every exponent and sign, a fine grid around 0, and the special ones."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    grid = np.linspace(-20, 20, 20011, dtype=np.float32)
    wide = np.linspace(-110, 110, 20011, dtype=np.float32)
    near = (rng.uniform(0.5, 2, 4000)).astype(np.float32)
    return np.concatenate([bits, grid, wide, near, np.array(SPECIAL + LIMITS, np.float32)])


SMALLEST = 1.17549435e-38
"""The smallest normal number: what is below may become 0, or lose its last digits."""


def _ulps(found, expected):
    """Distance in units in the last place of the expected float32, beyond the smallest normal."""
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float32)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(rounded), np.float32(SMALLEST))).astype(np.float64)
        distance = (np.abs(found.astype(np.float64) - expected) - SMALLEST) / unit
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, np.maximum(distance, 0)))


FUNCTIONS = {
    # ONNX operator: (the truth, units in the last place that we allow)
    "Exp": (np.exp, 2),
    "Log": (np.log, 2),
    "Tanh": (np.tanh, 6),
    "Erf": (scipy.special.erf, 6),
    "Sigmoid": (scipy.special.expit, 4),
    "Sqrt": (np.sqrt, 1),
    "Reciprocal": (np.reciprocal, 1),
    "Sin": (np.sin, 1),
    "Cos": (np.cos, 1),
    "Tan": (np.tan, 2),
    "Atan": (np.arctan, 1),
    "Asin": (np.arcsin, 2),
    "Acos": (np.arccos, 2),
    "Sinh": (np.sinh, 4),
    "Cosh": (np.cosh, 4),
    "Asinh": (np.arcsinh, 2),
    "Acosh": (np.arccosh, 2),
    "Softsign": (lambda x: x / (1 + np.abs(x)), 2),
    "Ceil": (np.ceil, 0),
    "Floor": (np.floor, 0),
    "Round": (np.rint, 0),
    "Abs": (np.abs, 0),
    "Neg": (np.negative, 0),
    "Relu": (lambda x: np.maximum(x, 0), 0),
}


ABSOLUTE = {
    # These go through a logarithm of about 1, so that small results have an absolute error.
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Atanh": np.arctanh,
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Gelu": lambda x: x * scipy.special.ndtr(x),
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_function(op):
    truth, allowed = FUNCTIONS[op]
    x = _everything()
    found = alt.compile(model([node(op)], {"x": x}, ["y"]))(x)
    with np.errstate(all="ignore"):
        expected = truth(x.astype(np.float64))
    wrong = _ulps(found, expected)
    worst = int(np.argmax(wrong))
    assert wrong[worst] <= allowed + 0.51, (
        f"{op}({x[worst]!r}) = {found[worst]!r}, not {expected[worst]!r}; "
        f"{int((wrong > allowed + 0.51).sum())} of {x.size} differ"
    )


@pytest.mark.parametrize("op", ABSOLUTE)
def test_function_within_an_absolute_error(op):
    x = np.linspace(-90, 90, 30011, dtype=np.float32)
    found = alt.compile(model([node(op)], {"x": x}, ["y"], opset=20))(x)
    with np.errstate(all="ignore"):
        expected = ABSOLUTE[op](x.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 0.5, 0.25, 0.75, -0.5, -1, -2, 5, 1.5, -3.25])
def test_power_of_a_constant(exponent):
    x = np.linspace(-4, 4, 999, dtype=np.float32)
    y = np.array(exponent, np.float32)
    found = alt.compile(model([node("Pow", "x p")], {"x": x}, ["y"], {"p": y}))(x)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), exponent)
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=SMALLEST)


def test_power_of_a_tensor():
    rng = np.random.default_rng(0)
    x, p = (rng.uniform(-3, 3, 3000).astype(np.float32) for _ in range(2))
    p[::2] = np.round(p[::2])
    x[:4], p[:4] = [0, 0, -0.0, 1], [0, 2, 3, np.nan]
    found = alt.compile(model([node("Pow", "x p")], {"x": x, "p": p}, ["y"]))(x, p)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), p)
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=SMALLEST)


def test_bounds_keep_nan():
    x = np.array([np.nan, 1, -1, np.inf, -np.inf, 0.25] * 5, np.float32)
    bounds = {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32)}
    check([node("Clip", "x low high", "y"), node("Relu", "x", "r")], {"x": x}, bounds, ["y", "r"])


@pytest.mark.parametrize("op", ["Exp", "Log", "Tanh", "Erf", "Sigmoid", "Sinh", "Softplus"])
def test_float64_goes_to_the_c_library(op):
    x = np.linspace(0.01, 5, 100)
    proto = model([node(op)], {"x": x}, ["y"])
    assert_same = np.testing.assert_allclose
    truth = (FUNCTIONS.get(op) or (ABSOLUTE.get(op), 0))[0]
    assert_same(alt.compile(proto)(x), truth(x), rtol=1e-12)
