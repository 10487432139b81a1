"""Tiny ONNX models, compiled and compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

import alt

WINOGRAD = 12
"""How much more rounding Winograd's transforms (coefficients up to 8, both ways) may add."""


def array(*shape: int, seed: int = 0, low: float | None = None, high: float = 1.0) -> np.ndarray:
    """Seeded normal floats, or uniform ones from [low, high)."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape) if low is None else rng.uniform(low, high, shape)
    return np.asarray(values, np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model whose inputs have the shapes and types of these arrays."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    blank = [helper.make_empty_tensor_value_info(n) for n in outputs]
    graph = helper.make_graph(list(nodes), "g", infos, blank, weights)
    opsets = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    inferred = shape_inference.infer_shapes(made, data_prop=True).graph
    known = {v.name: v for v in (*inferred.output, *inferred.input)}
    for position, name in enumerate(outputs):
        made.graph.output[position].CopyFrom(known[name])
    return made


def run_reference(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's results, without its optimisations; where it is not there, ONNX's own."""
    try:
        import onnxruntime
    except ImportError:  # a GPU is often on a machine that has little else
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(proto).run(None, dict(inputs)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(inputs))


def assert_same(found: Any, expected: Sequence[np.ndarray], length: int = 1) -> None:
    """Compare results.

    Integers and truth values must be equal. A float is the sum of `length` terms of about size 1:
    partial sums grow like sqrt(length) and there are `length` roundings of them, so that two orders
    of summation differ by about 0.6 * epsilon * length (one sigma). We allow 7 sigma, and beside it
    32 roundings of the result itself for the elementary functions in between.
    """
    results = found if isinstance(found, tuple) else (found,)
    assert len(results) == len(expected)
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        if theirs.dtype.kind == "f":
            epsilon = float(np.finfo(theirs.dtype).eps) / 2
            atol = epsilon * (12 + 4 * length)
            np.testing.assert_allclose(ours, theirs, rtol=32 * epsilon, atol=atol)
        else:
            np.testing.assert_array_equal(ours, theirs)


def check(
    nodes: Sequence[onnx.NodeProto] | onnx.NodeProto,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    length: int = 1,
    opset: int = 18,
    target: Any = "llvm",
) -> alt.module.Module:
    """Compile a model, run it twice, and compare both results with ONNX Runtime's."""
    many = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
    proto = model(many, inputs, outputs, constants, opset)
    compiled = alt.compile(proto, target)
    expected = run_reference(proto, inputs)
    for _ in range(2):
        assert_same(compiled(**inputs), expected, length)
    return compiled


def node(op: str, inputs: Sequence[str] | str = "x", outputs: Any = "y", **attrs: Any) -> Any:
    """A node; names are separated by blanks, `-` stands for an input left out."""
    named = [inputs.split() if isinstance(inputs, str) else list(inputs)]
    names = ["" if n == "-" else n for n in named[0]]
    made = outputs.split() if isinstance(outputs, str) else list(outputs)
    return helper.make_node(op, names, made, **attrs)
