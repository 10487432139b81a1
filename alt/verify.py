"""Are the numbers right? A compiled network beside ONNX Runtime, or ONNX's own reference."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alt.errors import AltError
from alt.module import Module, random_inputs
from alt.onnx_read import Model, read_model

TOLERANCES = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-4}
"""Largest difference allowed, relative to the largest magnitude of an output; 0 for other types.

A float32 network of a hundred layers, each a sum of a few thousand terms in an order of its own,
stays below 1e-5 in our experience; 1e-4 leaves room for deep and badly scaled ones.
"""

PRECISION_TOLERANCES = {"fp32": 0.0, "tf32": 1e-2, "fp16": 1e-2}
"""Largest difference allowed where floats are multiplied with less than float32; see `alt.compile`.

Both have ten bits of mantissa: a factor is off by 5e-4 at most, a sum of many much less.
"""


@dataclass(frozen=True)
class Difference:
    """How far one output is from the reference.

    Attributes:
        name: the output.
        error: the largest difference by the largest magnitude of the reference; infinite where
            one has a NaN or infinity and the other does not.
        tolerance: what is allowed.
    """

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """A comparison with a reference.

    Attributes:
        reference: what the outputs were compared with.
        differences: one for each output, in the model's order.

    Example:
        >>> print(Verification("ONNX Runtime", (Difference("y", 3e-3, 1e-4),)))
        output 'y' differs from ONNX Runtime by 3.0e-03 of its largest value, more than 1.0e-04
    """

    reference: str
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is close enough."""
        return all(d.ok for d in self.differences)

    @property
    def error(self) -> float:
        """The largest error of any output."""
        return max((d.error for d in self.differences), default=0.0)

    def __str__(self) -> str:
        wrong = [d for d in self.differences if not d.ok]
        if not wrong:
            return f"agrees with {self.reference}: largest relative error {self.error:.1e}"
        worst = max(wrong, key=lambda d: d.error)
        others = f" ({len(wrong) - 1} more differ too)" if len(wrong) > 1 else ""
        return (
            f"output {worst.name!r} differs from {self.reference} by {worst.error:.1e} of its "
            f"largest value, more than {worst.tolerance:.1e}{others}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "ok": self.ok,
            "reference": self.reference,
            "outputs": [
                {"name": d.name, "error": d.error, "tolerance": d.tolerance}
                for d in self.differences
            ],
        }


def verify(
    model: Model,
    module: Module,
    seed: int = 0,
    *,
    constants: Mapping[str, object] | None = None,
) -> Verification:
    """Run a model and what was compiled from it on the same random inputs, and compare.

    Args:
        model: what was compiled.
        module: the result.
        seed: of the inputs: normal floats, zeros and ones for whole numbers.
        constants: as given to `compile`.

    Raises:
        AltError: if the module cannot run here, or no reference can run the model.
    """
    inputs = random_inputs(module.inputs, seed)
    found = module(**inputs)
    ours = found if isinstance(found, tuple) else (found,)
    reference, theirs = run_reference(model, {**inputs, **(constants or {})})
    precision = module.header["target"].get("precision", "fp32")  # CPUs have only one
    return Verification(
        reference,
        tuple(
            Difference(s.name, relative_error(a, b), tolerance_of(s.dtype, precision))
            for s, a, b in zip(module.outputs, ours, theirs, strict=True)
        ),
    )


def tolerance_of(dtype: str, precision: str = "fp32") -> float:
    """The largest difference of outputs that is allowed, by the largest magnitude.

    Args:
        dtype: of the output.
        precision: what was multiplied on the way.

    Example:
        >>> tolerance_of("float32"), tolerance_of("float32", "tf32"), tolerance_of("int64", "tf32")
        (0.0001, 0.01, 0.0)
    """
    least = TOLERANCES.get(dtype, 0.0)
    return max(least, PRECISION_TOLERANCES[precision]) if least else 0.0


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference by the largest magnitude of what was expected.

    Example:
        >>> relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
        0.25
        >>> relative_error(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
        0.0
        >>> relative_error(np.array([1.0, np.inf]), np.array([1.0, 5.0]))
        inf
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    if not np.isfinite(a).all():
        return float("inf")
    largest = float(np.abs(b).max(initial=0.0))
    return float(np.abs(a - b).max(initial=0.0)) / (largest or 1.0)


def run_reference(model: Model, inputs: Mapping[str, Any]) -> tuple[str, list[np.ndarray]]:
    """Outputs of a model by ONNX Runtime if it is installed and can, else by ONNX's reference.

    Returns:
        The name of what ran the model, and the outputs.

    Raises:
        AltError: if neither can.
    """
    proto = read_model(model)
    typed = _as_declared(proto, inputs)
    reasons: list[str] = []
    for name, run in (
        ("ONNX Runtime", _onnx_runtime),
        ("ONNX's reference implementation", _onnx_reference),
    ):
        try:
            return name, [np.asarray(output) for output in run(proto, typed)]
        except ImportError:
            reasons.append(f"{name} is not installed")
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one may do
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{name} says: {lines[0]}")
    raise AltError(f"cannot verify the model, no reference can run it: {'; '.join(reasons)}")


def _as_declared(proto: onnx.ModelProto, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    kinds = {i.name: i.type.tensor_type.elem_type for i in proto.graph.input}
    return {
        name: np.asarray(value, onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
        for name, value in inputs.items()
    }


def _onnx_runtime(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # As the model is written, so that its fusions cannot err in the way ours do.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def run(model: str | bytes) -> Any:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(model, options, providers=providers)
        return session.run(None, dict(inputs))

    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        return run(proto.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="alt-verify-") as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save_model(copy, path, save_as_external_data=True, location="weights")
        return run(str(path))


def _onnx_reference(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(proto).run(None, dict(inputs))
