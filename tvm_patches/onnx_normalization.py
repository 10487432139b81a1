"""Normalisations that the importer reads wrongly, or computes as in training."""

from __future__ import annotations

from onnx import NodeProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes


def batch_normalization(node: NodeProto, view: View) -> Repair:
    """Training statistics are computed wrongly, and are not for deployment."""
    if attributes(node).get("training_mode", 0):
        return "training_mode=1 is not supported; export the model for inference"
    return None


def dropout(node: NodeProto, view: View) -> Repair:
    """Only training is left of it here; the importer takes it for the identity."""
    return "training_mode=1 is not supported; export the model for inference"


def layer_normalization(node: NodeProto, view: View) -> Repair:
    """The importer returns scalars 0 for `Mean` and `InvStdDev`."""
    return "its outputs after the first are not supported" if len(node.output) > 1 else None


def lp_normalization(node: NodeProto, view: View) -> Repair:
    """The importer does not have it. Where the norm is 0, so is the result."""
    values, write = attributes(node), Rewrite(node, view)
    axes = write.constant([values.get("axis", -1)])
    norm = write(f"ReduceL{values.get('p', 2)}", node.input[0], axes, keepdims=1)
    dtype = view.dtype(node.input[0]) or "float32"
    zero, one = write.constant(0, dtype), write.constant(1, dtype)
    write(
        "Div",
        node.input[0],
        write("Where", write("Equal", norm, zero), one, norm),
        out=node.output[0],
    )
    return write.nodes


def rms_normalization(node: NodeProto, view: View) -> Repair:
    """Over all axes, the function that the operator is lowered to does not compile."""
    shape = view.shape(node.input[0])
    axis = attributes(node).get("axis", -1)
    whole = shape is not None and axis % len(shape) == 0
    return "normalising over all axes is not supported" if whole else None
