"""The `onnx` package's own node tests: whatever is imported must be right."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alt.errors import AltError
from alt.frontend import import_model
from tests.tvm_patches.importing import run_imported

pytestmark = pytest.mark.llvm

#: Inputs that decide shapes, by operator; bound as constants.
_CONSTANT = {
    "CenterCropPad": [1], "Clip": [1, 2], "ConstantOfShape": [0], "CumSum": [1], "Dropout": [1, 2],
    "Expand": [1], "OneHot": [1, 2], "Pad": [1, 2, 3], "Range": [0, 1, 2], "Reshape": [1],
    "Resize": [1, 2, 3], "Slice": [1, 2, 3, 4], "Split": [1], "Squeeze": [1], "Tile": [1],
    "TopK": [1], "Trilu": [1], "Unsqueeze": [1], "Upsample": [1], "AffineGrid": [1],
    "BitShift": [1], "BlackmanWindow": [0],
    "HammingWindow": [0], "HannWindow": [0],
    "MelWeightMatrix": [0, 1, 2, 3, 4],
}  # fmt: skip

#: Operators of inference on float32 that we know we cannot compile. Shorten it.
_REFUSED = {
    "Bernoulli", "BitCast", "Col2Im", "Compress", "CumProd", "DFT", "DeformConv", "Det",
    "If", "LinearAttention", "Loop", "NonMaxSuppression", "NonZero", "OptionalGetElement",
    "OptionalHasElement", "ReverseSequence", "STFT", "Scan", "TensorScatter",
    "TfIdfVectorizer", "Unique",
}  # fmt: skip


@lru_cache
def _cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = {}
        for case in collect_testcases(None):
            dtypes = {getattr(v, "dtype", None) for data in case.data_sets[0] for v in data}
            domains = {node.domain for node in case.model.graph.node}
            plain = {np.dtype(d) for d in ("float32", "int64", "int32", "bool")}
            if dtypes <= plain and domains <= {""}:
                cases[case.name] = case
        return cases


def _one_each() -> list[str]:
    """The first case of every operator."""
    names: dict[str, str] = {}
    for name, case in _cases().items():
        if len(case.model.graph.node) == 1 and "empty" not in name:
            names.setdefault(case.model.graph.node[0].op_type, name)
    return list(names.values())


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _check(case: Any) -> None:
    graph = case.model.graph
    given, expected = ([_array(v) for v in values] for values in case.data_sets[0])
    inputs = dict(zip([info.name for info in graph.input], given, strict=True))
    constants = {}
    for node in graph.node:
        places = _CONSTANT.get(node.op_type, [1] if node.op_type.startswith("Reduce") else [])
        names = [node.input[p] for p in places if p < len(node.input)]
        constants.update({n: inputs[n] for n in names if n in inputs})
    shapes = {n: v.shape for n, v in inputs.items() if n not in constants}
    imported = import_model(case.model, shapes=shapes, constants=constants)
    for found, wanted in zip(run_imported(imported, inputs), expected, strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", _one_each())
def test_operator(name):
    case = _cases()[name]
    operator = case.model.graph.node[0].op_type
    if operator in _REFUSED:
        with pytest.raises(AltError):
            _check(case)
    else:
        _check(case)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_cases()))
def test_never_wrong(name):
    """Refusing is allowed here, a wrong number or a crash is not."""
    try:
        _check(_cases()[name])
    except AltError as refusal:
        pytest.skip(str(refusal)[:120])
