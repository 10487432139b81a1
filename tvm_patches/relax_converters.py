"""Our own conversions from ONNX to Relax, for operators that the importer spells badly.

TVM 0.27's importer emits opaque TensorIR calls (`emit_te`) for these, or stacks operands only to
reduce them again. The converters here emit plain Relax operators, which later passes can read.
Evidence: `tests/tvm_patches/test_relax_converters.py`. Delete one when the importer's own
spelling has no `call_tir` and no `stack` any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from tvm import relax

Converter = Callable[[relax.BlockBuilder, Sequence[Any], dict[str, Any]], Any]


def clip(bb: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """`maximum` and `minimum`; the importer calls TOPI."""
    low, high = ([*inputs, None, None])[1:3]
    result = inputs[0]
    if low is not None:
        result = bb.normalize(relax.op.maximum(result, low))
    if high is not None:
        result = relax.op.minimum(result, high)
    return result


def pad(bb: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """`nn.pad`; the importer calls TOPI. Pads are constant and not negative by now."""
    mode = attributes.get("mode", b"constant").decode()
    pads = inputs[1].value.numpy().tolist()
    fill: Any = ([*inputs, None])[2]
    value = 0.0
    if fill is not None:
        if not hasattr(fill, "value"):
            raise ValueError("the padding value is not constant")
        value = float(fill.value.numpy().item())
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    half = len(pads) // 2
    widths = [w for pair in zip(pads[:half], pads[half:], strict=True) for w in pair]
    return relax.op.nn.pad(inputs[0], widths, names[mode], value)


def _chain(op: Callable[[Any, Any], Any]) -> Converter:
    """A variadic operator as a chain of a binary one; the importer stacks and reduces."""

    def convert(bb: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        return reduce(lambda a, b: bb.normalize(op(a, b)), inputs)

    return convert


def mean(bb: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """Sum, then divide; the importer stacks and reduces."""
    total = _chain(relax.op.add)(bb, inputs, attributes)
    return relax.op.divide(total, relax.const(len(inputs), inputs[0].ty.dtype))


def tile(bb: relax.BlockBuilder, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """`tile`; the importer calls TOPI."""
    return relax.op.tile(inputs[0], inputs[1].value.numpy().tolist())


CONVERTERS: dict[str, Converter] = {
    "Clip": clip,
    "Max": _chain(relax.op.maximum),
    "Mean": mean,
    "Min": _chain(relax.op.minimum),
    "Pad": pad,
    "Sum": _chain(relax.op.add),
    "Tile": tile,
}
