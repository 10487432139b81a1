"""`Resize` against ONNX's own reference, over every mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from alt.frontend import import_model
from tests.tvm_patches.importing import call_names, model_of, run_imported

pytestmark = pytest.mark.llvm


def _check(x, constants, values):
    inputs = [n if n in constants else "" for n in ("roi", "scales", "sizes")]
    node = helper.make_node("Resize", ["x", *inputs], ["y"], **values)
    model = model_of([node], {"x": x}, ["y"], opset=19, constants=constants)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    imported = import_model(model)
    np.testing.assert_allclose(run_imported(imported, {"x": x})[0], expected, rtol=1e-3, atol=1e-4)
    return imported


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
    ),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.booleans(),
    st.data(),
)
def test_every_mode(mode, coordinates, rounding, by_scale, data):
    rank = data.draw(st.integers(2, 4))
    shape = [1, 2, *data.draw(st.lists(st.integers(2, 6), min_size=rank - 2, max_size=rank - 2))]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    if mode != "nearest" and coordinates in ("half_pixel", "pytorch_half_pixel"):
        values["antialias"] = int(data.draw(st.booleans()))
    if by_scale:
        # Powers of two and their like: the reference computes in float32, so that elsewhere a
        # sample that falls between two others may go either way.
        factors = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
        scales = [1.0, 1.0, *(data.draw(st.sampled_from(factors)) for _ in shape[2:])]
        constants = {"scales": np.array(scales, np.float32)}
    else:
        sizes = [*shape[:2], *(data.draw(st.sampled_from([n, 2 * n, 4 * n])) for n in shape[2:])]
        constants = {"sizes": np.array(sizes)}
    _check(x, constants, values)


def test_plain_upscaling_stays_one_operator():
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    for values in (
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ):
        imported = _check(x, {"scales": np.array([1, 1, 2, 2], np.float32)}, values)
        assert call_names(imported) == ["relax.image.resize2d"]


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_sizes_of_some_axes(policy):
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 6)).astype(np.float32)
    values = {"mode": "linear", "axes": [3, 2], "keep_aspect_ratio_policy": policy}
    _check(x, {"sizes": np.array([8, 9])}, values)
