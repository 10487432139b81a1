"""Import an ONNX model, compile it with plain TVM, and compare with ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper

from alt.frontend import Imported, import_model

Arrays = dict[str, np.ndarray]
os.environ.setdefault("TVM_NUM_THREADS", "1")


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    outputs: Sequence[str],
    *,
    opset: int = 17,
    constants: Arrays | None = None,
) -> onnx.ModelProto:
    """A model whose inputs have the shapes of `inputs`; output types are left to inference."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in inputs.items()
    ]
    weights = [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(list(nodes), "test", infos, results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    # Types of the outputs: ONNX Runtime wants them.
    return onnx.shape_inference.infer_shapes(model)


def run_imported(imported: Imported, inputs: Arrays) -> list[np.ndarray]:
    """The outputs of a network compiled without any of our passes."""
    machine = tvm.relax.VirtualMachine(tvm.compile(imported.module, "llvm"), tvm.cpu())
    given = [inputs[value.name] for value in imported.inputs]
    arrays = [np.array(v, order="C") for v in [*given, *imported.weights.values()]]
    result: Any = machine["main"](*[tvm.runtime.tensor(v) for v in arrays])
    results = [result] if hasattr(result, "numpy") else list(result)
    return [r.numpy() for r in results]


def run_onnxruntime(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def assert_same_as_onnxruntime(model: onnx.ModelProto, inputs: Arrays) -> Imported:
    """Import, run and compare: relative 1e-4, the tolerance that `alt` promises for float32."""
    expected = run_onnxruntime(model, inputs)
    imported = import_model(model)
    found = run_imported(imported, inputs)
    assert len(found) == len(expected)
    for value, ours, theirs in zip(imported.outputs, found, expected, strict=True):
        assert value.shape == theirs.shape
        scale = np.abs(theirs).max(initial=0) if theirs.dtype.kind == "f" else 0
        scale = scale if np.isfinite(scale) else 1.0
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(scale, 1e-2))
    return imported


def call_names(imported: Imported) -> list[str]:
    """The operators that `main` calls, in order."""
    names = []
    for block in imported.module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, tvm.relax.Call):
                names.append(getattr(value.op, "name", str(value.op)))
    return names
