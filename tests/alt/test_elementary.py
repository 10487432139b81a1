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


def _ulps(found, expected):
    """Distance in units in the last place of the expected float32; denormals count as absolute."""
    rounded = expected.astype(np.float32)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(rounded), np.float32(1.17549435e-38)))
        distance = np.abs(found.astype(np.float64) - expected) / unit.astype(np.float64)
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


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
    "Sinh": (np.sinh, 2),
    "Cosh": (np.cosh, 2),
    "Asinh": (np.arcsinh, 2),
    "Acosh": (np.arccosh, 2),
    "Atanh": (np.arctanh, 2),
    "Softplus": (lambda x: np.logaddexp(x, 0), 3),
    "Softsign": (lambda x: x / (1 + np.abs(x)), 2),
    "Ceil": (np.ceil, 0),
    "Floor": (np.floor, 0),
    "Round": (np.rint, 0),
    "Sign": (np.sign, 0),
    "Abs": (np.abs, 0),
    "Neg": (np.negative, 0),
    "Relu": (lambda x: np.maximum(x, 0), 0),
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
