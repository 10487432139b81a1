"""Matrix products on a GPU, emulated, against NumPy.

Planted, and caught here: a tail of the depth that is not cleared; a tail of the rows that is
written (which may end the process); rounding to tf32 left out; halves swapped; the columns of a
run in the wrong order; a lane too few in a sum of lanes; an epilogue whose vectors are read
elsewhere.
"""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
from emulated import needs_gxx, planned
from matrix_products import (
    PRECISIONS,
    SHAPES,
    THIN,
    as_multiplied,
    check,
    check_all,
    network,
    products,
    random,
    results,
)
from onnx import helper

pytestmark = [pytest.mark.cuda_build, needs_gxx]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_of_many_shapes(precision):
    check_all(*products(SHAPES, precision), precision)


@pytest.mark.parametrize("constant", ["a", "b"])
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_products_with_a_constant_factor(precision, constant):
    check_all(*products(SHAPES, precision, constant=constant), precision)


def test_constant_factors_take_half_the_memory_in_half_precision():
    for shapes, constant in (((64, 256), (256, 128)), "b"), (((256, 64), (3, 64, 128)), "a"):
        made, _ = products([shapes], "fp16", constant=constant)
        least = np.prod(shapes["ab".index(constant)]) * 2
        assert least <= planned(made).weights.nbytes <= least + 1024


def test_products_with_few_rows_or_columns():
    made, inputs = products(THIN, "fp16")
    # These are bound by memory: multiplying with less precision would gain nothing.
    check_all(made, inputs, "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_in_other_orders(precision):
    a, b, c, d = random(2, 20, 36), random(2, 28, 36, seed=1), random(9, 2, 14), random(14, 2, 21)
    nodes = [
        helper.make_node("Transpose", ["b"], ["bt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "bt"], ["right"]),
        helper.make_node("Transpose", ["a"], ["at"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["b", "first", "end", "axis"], ["cut"]),
        helper.make_node("MatMul", ["at", "cut"], ["left"]),
        helper.make_node("Transpose", ["c"], ["ct"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["d"], ["dt"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["dt"], ["dm"], perm=[1, 2, 0]),
        helper.make_node("Transpose", ["dm"], ["db"], perm=[2, 0, 1]),
        helper.make_node("MatMul", ["ct", "db"], ["both"]),
    ]
    inputs = {"a": a, "b": b, "c": c, "d": d}
    transposed, cut = np.swapaxes(a, 1, 2), b[:, 4:24]
    left, right = np.swapaxes(c, 0, 1), np.transpose(np.swapaxes(d, 0, 1), (0, 1, 2))
    outputs = {"right": (2, 20, 28), "left": (2, 36, 36), "both": (2, 9, 21)}
    weights = {"first": np.array([4]), "end": np.array([24]), "axis": np.array([1])}
    made = network(nodes, inputs, outputs, precision, weights)
    found = results(made, [inputs[name] for name, *_ in made.imported.inputs])
    check(found[0], a, np.swapaxes(b, 1, 2), precision)
    check(found[1], transposed.copy(), cut.copy(), precision)
    check(found[2], left.copy(), right.copy(), precision)


@pytest.mark.parametrize(("precision", "rows"), [(p, 44) for p in PRECISIONS] + [("fp32", 3)])
def test_epilogues(precision, rows):
    x, w, v = random(rows, 36), random(52, 36, seed=1), random(36, 51, seed=2)
    bias, other = random(52, seed=3), random(rows, 52, seed=4)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "bias"], ["sum"], transB=1),
        helper.make_node("Add", ["sum", "other"], ["more"]),
        helper.make_node("Relu", ["more"], ["first"]),
        helper.make_node("MatMul", ["x", "v"], ["plain"]),
        helper.make_node("Gelu", ["plain"], ["second"]),
    ]
    inputs, weights = {"x": x, "other": other}, {"w": w, "v": v, "bias": bias}
    outputs = {"first": (rows, 52), "second": (rows, 51)}
    made = network(nodes, inputs, outputs, precision, weights)
    assert len(made.kernels) == 2
    first, second = results(made, [inputs[name] for name, *_ in made.imported.inputs])
    factor = as_multiplied(x, precision if rows > 8 else "fp32")
    of_w, of_v = (as_multiplied(m, precision if rows > 8 else "fp32") for m in (w, v))
    want = np.maximum(factor @ of_w.T + bias + other, 0)
    np.testing.assert_allclose(first, want, rtol=1e-4, atol=1e-4)
    plain = factor @ of_v
    normal = np.vectorize(erf)
    want = 0.5 * plain * (1 + normal(plain / np.sqrt(2)))
    np.testing.assert_allclose(second, want, rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_stays_so():
    made, inputs = products([((40, 20), (20, 36)), ((2, 20), (20, 36))], "tf32")
    for left in inputs[::2]:
        left[1, 3], left[0, 5] = np.nan, np.inf
    for found in results(made, inputs):
        assert np.isnan(found[1]).all()
        assert np.isinf(found[0]).all()
        assert np.isfinite(found[2:]).all()
