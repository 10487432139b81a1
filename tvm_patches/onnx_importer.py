"""ONNX nodes that TVM 0.27's importer reads wrongly or not at all, in spellings it gets right.

Each repair looks at one node and answers with other nodes, with the reason why there are none, or
with None when the importer can have the node as it is. Repairs are plain functions from ONNX to
ONNX, and their order does not matter.

Delete a repair when its test passes without it: `pytest tests/tvm_patches`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from onnx import NodeProto

from tvm_patches import (
    onnx_arithmetic,
    onnx_indexing,
    onnx_normalization,
    onnx_recurrent,
    onnx_resize,
    onnx_windows,
)
from tvm_patches.onnx_einsum import einsum
from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, optional, without

_DTYPES = frozenset(
    (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
)

#: The importer has these, but their outputs' shapes depend on data, or their results are wrong.
_REFUSED = {
    "Compress": "the shape of its output depends on data",
    "NonMaxSuppression": "the shape of its output depends on data",
    "NonZero": "the shape of its output depends on data",
    "Unique": "the shape of its output depends on data",
    "Optional": "optional values are not supported",
    "OptionalGetElement": "optional values are not supported",
    "OptionalHasElement": "optional values are not supported",
    "If": "its condition is not a constant; bind the inputs it depends on with constants={}",
}


@lru_cache
def importable() -> frozenset[str]:
    """Operators of the default domain that the importer has a converter for."""
    from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

    ours = {"AllClassNMS", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "MatMulInteger16"}
    return frozenset(_get_convert_map()) - ours - {"SkipLayerNormalization"}


def repair(node: NodeProto, view: View) -> Repair:
    """Nodes to use instead; None if the importer gets this one right; or why it cannot be had."""
    if node.domain not in ("", "ai.onnx"):
        return f"operators of the domain {node.domain} are not supported"
    if node.op_type in _REFUSED:
        return _REFUSED[node.op_type]
    known = node.op_type in importable() and not node.op_type.startswith("Sequence")
    if not known and node.op_type not in _REPAIRS:
        return "the operator is not supported"
    for name in [*node.input, *node.output]:
        dtype = view.dtype(name) if name else None
        if dtype is not None and dtype.name not in _DTYPES:
            return f"elements of type {dtype.name} are not supported"
    if any(0 in (view.shape(name) or ()) for name in [*node.input, *node.output] if name):
        return without_empty(node, view)
    for rule in _REPAIRS.get(node.op_type, ()):
        answer = rule(node, view)
        if answer is not None:
            return answer
    return None


def without_empty(node: NodeProto, view: View) -> Repair:
    """Tensors without elements: reductions read past their end. Some nodes can do without them.

    Shapes (`Resize` has empty inputs for "left out") are no concern: they are constants.
    """
    empty = [name for name in node.input if name and 0 in (view.shape(name) or ())]
    if node.op_type == "Resize":
        kept = ["" if name in empty else name for name in node.input]
    elif node.op_type == "Concat" and 0 not in (view.shape(node.output[0]) or ()):
        kept = [name for name in node.input if name not in empty]
    elif node.op_type == "Split" and not empty:
        return _split_without_empty(node, view)
    else:
        return "tensors without elements are not supported"
    made = without(node)
    made.input[:] = kept
    return [made]


def _split_without_empty(node: NodeProto, view: View) -> Repair:
    axis = attributes(node).get("axis", 0)
    made = without(node, "num_outputs")
    kept = [name for name in node.output if 0 not in (view.shape(name) or ())]
    sizes = [(view.shape(name) or ())[axis] for name in kept]
    made.output[:] = kept
    made.input[:] = [node.input[0], Rewrite(node, view).constant(sizes)]
    return [made]


def attention(node: NodeProto, view: View) -> Repair:
    """The importer takes ONNX's Attention for the operator of that name in com.microsoft."""
    return "the operator is not supported"


def max_unpool(node: NodeProto, view: View) -> Repair:
    """The importer fails on `output_shape`."""
    return "the input output_shape is not supported" if len(node.input) > 2 else None


def quantize(node: NodeProto, view: View) -> Repair:
    """Blocked quantisation is refused by the importer only when it gets there."""
    return "block_size is not supported" if attributes(node).get("block_size", 0) else None


def roi_align(node: NodeProto, view: View) -> Repair:
    """The maximum is taken over other samples than ONNX's."""
    return "mode=max is not supported" if attributes(node).get("mode", "avg") == "max" else None


def space_to_depth(node: NodeProto, view: View) -> Repair:
    """The importer ignores `mode`."""
    shape, values = view.shape(node.input[0]), attributes(node)
    if values.get("mode", "DCR") == "DCR" or shape is None:
        return None
    b, (n, c, h, w) = values["blocksize"], shape
    write = Rewrite(node, view)
    split = write("Reshape", node.input[0], write.constant([n, c, h // b, b, w // b, b]))
    moved = write("Transpose", split, perm=[0, 1, 3, 5, 2, 4])
    sizes = write.constant([n, c * b * b, h // b, w // b])
    write("Reshape", moved, sizes, out=node.output[0])
    return write.nodes


def axes_as_list(node: NodeProto, view: View) -> Repair:
    """The importer cannot iterate over axes given as a scalar."""
    axes = view.constant(optional(node, 1))
    if axes is None:
        if optional(node, 1):
            return "its axes are not constant; bind the inputs they depend on with constants={}"
        return None
    if axes.ndim:
        return None
    made = without(node)
    made.input[1] = Rewrite(node, view).constant(axes.reshape(1))
    return [made]


def constant_input(*positions: int) -> Callable[[NodeProto, View], Repair]:
    """Inputs that decide shapes: lowered with data-dependent shapes unless constant."""

    def rule(node: NodeProto, view: View) -> Repair:
        for name in (optional(node, p) for p in positions):
            if name and view.constant(name) is None:
                why = "bind what it depends on with constants={}"
                return f"its input {name} is not constant; {why}"
        return None

    return rule


_REPAIRS: dict[str, tuple[Callable[[NodeProto, View], Repair], ...]] = {
    "Attention": (attention,),
    "AveragePool": (onnx_windows.explicit_pads, onnx_windows.clamped_window),
    "BatchNormalization": (onnx_normalization.batch_normalization,),
    "BitShift": (onnx_arithmetic.bit_shift,),
    "Conv": (onnx_windows.explicit_pads, onnx_windows.convolution),
    "ConvTranspose": (onnx_windows.transposed_convolution, onnx_windows.convolution),
    "ConstantOfShape": (constant_input(0),),
    "CumSum": (constant_input(1), onnx_arithmetic.cum_sum),
    "Dropout": (onnx_normalization.dropout,),
    "Einsum": (einsum,),
    "Equal": (onnx_arithmetic.equal_to_minus_infinity,),
    "Expand": (constant_input(1),),
    "DequantizeLinear": (quantize,),
    "QuantizeLinear": (quantize,),
    "EyeLike": (onnx_arithmetic.eye_like,),
    "IsInf": (onnx_arithmetic.is_inf,),
    "GRU": (onnx_recurrent.recurrent,),
    "LSTM": (onnx_recurrent.recurrent,),
    "LayerNormalization": (onnx_normalization.layer_normalization,),
    "LpNormalization": (onnx_normalization.lp_normalization,),
    "LpPool": (onnx_windows.explicit_pads,),
    "MaxPool": (
        onnx_windows.max_pool,
        onnx_windows.explicit_pads,
        onnx_windows.clamped_window,
    ),
    "MaxUnpool": (max_unpool,),
    "Mod": (onnx_arithmetic.mod,),
    "OneHot": (onnx_arithmetic.one_hot,),
    "Pad": (onnx_windows.pad,),
    "Pow": (onnx_arithmetic.power,),
    "RMSNormalization": (onnx_normalization.rms_normalization,),
    "RNN": (onnx_recurrent.recurrent,),
    "Range": (constant_input(0, 1, 2),),
    "ReduceMax": (onnx_arithmetic.reduce_of_bool,),
    "ReduceMin": (onnx_arithmetic.reduce_of_bool,),
    "Reshape": (constant_input(1),),
    "Resize": (onnx_resize.resize,),
    "RoiAlign": (roi_align,),
    "ScatterElements": (onnx_indexing.scatter_elements,),
    "ScatterND": (onnx_indexing.scatter_nd,),
    "Slice": (constant_input(1, 2, 3, 4),),
    "SpaceToDepth": (space_to_depth,),
    "Split": (constant_input(1),),
    "Squeeze": (axes_as_list,),
    "Tile": (constant_input(1),),
    "TopK": (constant_input(1), onnx_indexing.top_k),
    "Unsqueeze": (axes_as_list,),
    **{
        f"Reduce{kind}": (constant_input(1),)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum", "SumSquare")
    },
}
