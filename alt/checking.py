"""`alt.check`: can this model be compiled, and if not, what exactly stands in the way?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from alt.errors import AltError
from alt.frontend import Model, Unsupported, bind, import_model, prepare, read_model, unsupported
from alt.onnx_graph import from_proto
from alt.relax_graph import to_graph


@dataclass(frozen=True)
class Input:
    """An input as the ONNX file declares it; dimensions that are not numbers are names or `?`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Report:
    """What `check` found; as text, what to tell a person.

    Attributes:
        inputs: the model's inputs, weights left out.
        operators: how many nodes of each operator the file has, most frequent first.
        unsupported: operators that cannot be compiled, each with its nodes and the reason.
        problems: whatever else is in the way, one line each.

    Example:
        >>> report = Report((Input("x", (1, 3), "float32"),), {"Relu": 2}, (), ())
        >>> print(report)
        supported: 2 nodes of 1 operator
          inputs     x: float32[1, 3]
          operators  2 Relu
    """

    inputs: tuple[Input, ...]
    operators: Mapping[str, int]
    unsupported: tuple[Unsupported, ...]
    problems: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether nothing stands in the way of compiling."""
        return not self.unsupported and not self.problems

    def __str__(self) -> str:
        nodes, kinds = sum(self.operators.values()), len(self.operators)
        verdict = "supported" if self.supported else "not supported"
        lines = [f"{verdict}: {_count(nodes, 'node')} of {_count(kinds, 'operator')}"]
        for position, value in enumerate(self.inputs):
            lines.append(f"  {'' if position else 'inputs':9}  {value}")
        counted = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        lines.append(f"  operators  {counted}")
        for item in self.unsupported:
            operator = _qualified(item.domain, item.op_type)
            lines.append(f"  cannot be compiled: {operator} ({item.reason}) at")
            lines += [f"    {name}" for name in item.nodes]
        lines += [f"  problem: {problem}" for problem in self.problems]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "supported": self.supported,
            "inputs": [
                {"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in self.inputs
            ],
            "operators": dict(self.operators),
            "unsupported": [
                {
                    "operator": item.op_type,
                    "domain": item.domain,
                    "nodes": list(item.nodes),
                    "reason": item.reason,
                }
                for item in self.unsupported
            ],
            "problems": list(self.problems),
        }


def check(
    model: Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Report:
    """Say whether `compile` would accept a model, without compiling it.

    Args:
        model: a path, the bytes of a model, or a loaded one.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed (axes, shapes, pads).

    Raises:
        AltError: if the model cannot be read at all.
    """
    shapes, constants = shapes or {}, constants or {}
    proto = read_model(model)
    counts = Counter(_qualified(node.domain, node.op_type) for node in proto.graph.node)
    refused: list[Unsupported] = []
    problems: list[str] = []
    try:
        bind(from_proto(proto), shapes, constants)
    except AltError as error:
        problems.append(str(error))
        refused = _refused(proto)
    else:
        try:
            imported = import_model(proto, shapes=shapes, constants=constants)
            to_graph(imported.module, imported.weights, len(imported.inputs))
        except AltError as error:
            refused = _refused(proto, shapes, constants)
            problems += [] if refused else [str(error)]
    return Report(_inputs(proto), dict(counts.most_common()), tuple(refused), tuple(problems))


def _refused(
    proto: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, object] | None = None,
) -> list[Unsupported]:
    """Unsupported operators, as far as they can be told while something else is wrong too."""
    try:
        if shapes is not None:
            proto = prepare(proto, shapes=shapes, constants=constants)
        return unsupported(proto)
    except AltError:
        return []  # the caller holds the error that matters


def _inputs(proto: onnx.ModelProto) -> tuple[Input, ...]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    found: list[Input] = []
    for value in proto.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim
        )
        known = kind.elem_type in helper.get_all_tensor_dtypes()
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if known else "not a tensor"
        found.append(Input(value.name, shape, dtype))
    return tuple(found)


def _qualified(domain: str, operator: str) -> str:
    return operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
