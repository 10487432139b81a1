"""ONNX in, Relax out: read a model, make it static and simple, hand it to TVM's importer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from alt.errors import AltError
from alt.onnx_graph import Graph, from_proto, static_shape, tensor_type, to_proto
from alt.onnx_read import Model, read_model
from alt.onnx_simplify import Refusal, simplify
from tvm_patches.relax_converters import CONVERTERS


class Value(NamedTuple):
    """Name, shape and element type of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Unsupported(NamedTuple):
    """An operator that cannot be compiled, all nodes that use it, and why."""

    op_type: str
    domain: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Imported:
    """A network in Relax, its weights apart.

    Attributes:
        module: `main` takes the inputs, then the weights; its bindings are plain operator calls.
        weights: Value of every parameter after the inputs, in order, by parameter name.
            Arrays may be read-only and may have zero strides.
        inputs: The model's inputs, under the names that they have in the ONNX file.
        outputs: The model's outputs, in order.
    """

    module: tvm.IRModule
    weights: dict[str, np.ndarray]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def prepare(
    proto: onnx.ModelProto,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, object] | None = None,
) -> onnx.ModelProto:
    """Bind what is dynamic and simplify: the model that `to_relax` imports.

    Args:
        proto: Left as it is.
        shapes: Shape of inputs whose dimensions are not all numbers.
        constants: Values of inputs that become part of the model.

    Raises:
        AltError: A dimension stays dynamic, or a binding does not fit the model.
    """
    graph = from_proto(proto)
    bind(graph, shapes or {}, constants or {})
    simplify(graph)
    return to_proto(graph)


def unsupported(proto: onnx.ModelProto) -> list[Unsupported]:
    """Every operator that can be compiled neither directly nor through a rewrite."""
    return _grouped(simplify(from_proto(proto)))


def to_relax(proto: onnx.ModelProto) -> Imported:
    """Import a prepared model.

    Raises:
        AltError: Unsupported operators (all are listed), or shapes that depend on data.
    """
    graph = from_proto(proto)
    return _import(graph, simplify(graph))


def import_model(
    model: Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Imported:
    """`read_model`, `prepare` and `to_relax` in one, without going through protobuf in between.

    Peak memory is about twice the weights, and they are held once afterwards.
    """
    graph = from_proto(read_model(model))
    bind(graph, shapes or {}, constants or {})
    return _import(graph, simplify(graph))


def bind(
    graph: Graph, shapes: Mapping[str, Sequence[int]], constants: Mapping[str, object]
) -> None:
    """Fill in the inputs' dynamic dimensions and turn inputs into constants, in place."""
    known = ", ".join(graph.inputs)
    for name in [*shapes, *constants]:
        if name not in graph.inputs:
            raise AltError(f"bind input {name}: the model has no such input, only {known}")
    for name, value in constants.items():
        kind = graph.types.pop(name)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
        try:
            graph.constants[name] = np.asarray(value, dtype)
        except (TypeError, ValueError) as error:
            raise AltError(f"bind input {name} to {value!r}: it should be {dtype}") from error
        _check_shape(name, graph.constants[name].shape, kind)
        graph.inputs.remove(name)
    for name in graph.inputs:
        kind = graph.types[name]
        if not kind.HasField("tensor_type"):
            raise AltError(f"input {name} is not a tensor but a {kind.WhichOneof('value')}")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
        if name in shapes:
            _check_shape(name, tuple(shapes[name]), kind)
            graph.types[name] = tensor_type(dtype, shapes[name])
        elif static_shape(kind) is None:
            raise AltError(_unbound(name, kind))


def _check_shape(name: str, shape: tuple[int, ...], kind: onnx.TypeProto) -> None:
    if not kind.tensor_type.HasField("shape"):
        return
    dims = kind.tensor_type.shape.dim
    declared = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    fits = len(shape) == len(declared) and all(
        isinstance(want, str) or want == have for want, have in zip(declared, shape, strict=True)
    )
    if not fits or any(int(extent) < 0 for extent in shape):
        raise AltError(f"bind input {name} to shape {shape}: the model declares {declared}")


def _unbound(name: str, kind: onnx.TypeProto) -> str:
    if not kind.tensor_type.HasField("shape"):
        return f"input {name} has no shape; give all of it: shapes={{{name!r}: (1, ...)}}"
    dims = kind.tensor_type.shape.dim
    shown = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
    free = [i for i, d in enumerate(dims) if not d.HasField("dim_value")]
    which = ", ".join(f"{i} ({shown[i]})" for i in free)
    example = ", ".join("1" if i in free else shown[i] for i in range(len(shown)))
    example += "," if len(shown) == 1 else ""
    return (
        f"input {name} has shape ({', '.join(shown)}): dimension {which} is not a number; "
        f"bind it with shapes={{{name!r}: ({example})}}"
    )


def _grouped(refused: list[Refusal]) -> list[Unsupported]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for node, reason in refused:
        groups.setdefault((node.op_type, node.domain, reason), []).append(node.name)
    return [Unsupported(op, dom, tuple(names), why) for (op, dom, why), names in groups.items()]


class _Importer(ONNXGraphImporter):
    """TVM's importer with our converters, which says which node it failed on."""

    def _convert_operator(self, op_name, inputs, attrs, opset):  # noqa: ANN001, ANN202
        try:
            ours = CONVERTERS.get(op_name)
            if ours is None:
                return super()._convert_operator(op_name, inputs, attrs, opset)
            return self.bb.normalize(ours(self.bb, inputs, attrs))
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise AltError(
                f"TVM cannot import node {attrs['tvm_custom']['name']} ({op_name}): {lines[-1]}"
            ) from error


def _import(graph: Graph, refused: list[Refusal]) -> Imported:
    if refused:
        listed = "; ".join(
            f"{op}{f' of {dom}' if dom else ''} at {', '.join(nodes)} ({why})"
            for op, dom, nodes, why in _grouped(refused)
        )
        raise AltError(f"the model uses what cannot be compiled: {listed}")
    for public, value in graph.outputs:
        shape = graph.shape(value)
        if shape is not None and 0 in shape:
            raise AltError(f"output {public} has no elements: its shape is {shape}; bind others")
    weights = {n: v for n, v in graph.constants.items() if _is_weight(n, v, graph)}
    small = Graph(
        graph.opset,
        nodes=graph.nodes,
        constants={n: v for n, v in graph.constants.items() if n not in weights},
        types={**graph.types, **{n: tensor_type(v.dtype, v.shape) for n, v in weights.items()}},
        inputs=[*graph.inputs, *weights],
        outputs=[(value, value) for _, value in graph.outputs],
    )
    shapes = {name: list(small.shape(name) or ()) for name in small.inputs}
    importer = _Importer(shapes, {}, sanitize=False)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body: Any = to_proto(small).graph  # annotated as a model in TVM, and used as a graph
        try:
            module = importer.from_onnx(body, graph.opset)
        except AltError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise AltError(f"TVM cannot import the model: {reason}") from error
    _compare_types(importer, small)
    main = module["main"].with_attr("num_input", len(graph.inputs))
    module.update_func(module.get_global_var("main"), main)
    inputs = tuple(_value(n, p.ty) for n, p in zip(graph.inputs, main.params, strict=False))
    kind = main.ret_ty if hasattr(main, "ret_ty") else main.ret_struct_info
    kinds = kind.fields if len(graph.outputs) > 1 else [kind]
    outputs = tuple(_value(n, k) for (n, _), k in zip(graph.outputs, kinds, strict=True))
    return Imported(module, weights, inputs, outputs)


def _compare_types(importer: _Importer, graph: Graph) -> None:
    """Refuse an import whose shapes are not those that ONNX infers: a wrong import shows here."""
    for node in graph.nodes:
        for name in filter(None, node.output):
            shape, dtype, value = graph.shape(name), graph.dtype(name), importer._nodes.get(name)
            kind = getattr(value, "ty", None)
            if shape is None or dtype is None or not isinstance(kind, relax.TensorType):
                continue
            found = _value(name, kind)
            if found.shape != shape or found.dtype != str(dtype):
                raise AltError(
                    f"TVM imports node {node.name} ({node.op_type}) wrongly: {name} should be "
                    f"{dtype} {shape}, not {found.dtype} {found.shape}; please report this model"
                )


def _is_weight(name: str, value: np.ndarray, graph: Graph) -> bool:
    return (value.dtype.kind == "f" and value.size > 1) or value.nbytes > 1 << 16


def _value(name: str, kind: Any) -> Value:
    try:
        shape = tuple(int(extent) for extent in kind.shape)
    except (AttributeError, TypeError) as error:
        raise AltError(f"{name} has a shape that depends on data: {kind}") from error
    return Value(name, shape, str(kind.dtype))
