"""Convolution and pooling nodes: windows whose padding the importer gets wrong or may.

Delete a rule when its test in `tests/tvm_patches` passes with the rule taken out.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, without


def explicit_pads(node: NodeProto, view: View) -> Repair:
    """Write `auto_pad` out as `pads`.

    Problem: the importer has three different readings of `SAME_*`: `autopad` for Conv emits a
    separate pad operator, AveragePool forgets dilations, MaxPool rounds SAME_LOWER down.
    Evidence: `tests/tvm_patches/test_onnx_windows.py::test_same_padding`.
    """
    values = attributes(node)
    mode = values.get("auto_pad", "NOTSET")
    if mode == "NOTSET" or node.op_type == "ConvTranspose":
        return None
    if mode == "VALID":
        return [without(node, "auto_pad", "pads")]
    shape = view.shape(node.input[0])
    kernel = values.get("kernel_shape")
    if kernel is None:
        weight = view.shape(node.input[1])
        kernel = None if weight is None else weight[2:]
    if shape is None or kernel is None:
        return None
    rank = len(shape) - 2
    strides, dilations = (values.get(k, [1] * rank) for k in ("strides", "dilations"))
    begin, end = [], []
    for extent, k, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        outputs = -(-extent // stride)
        total = max((outputs - 1) * stride + (k - 1) * dilation + 1 - extent, 0)
        half = total // 2
        begin.append(half if mode == "SAME_UPPER" else total - half)
        end.append(total - begin[-1])
    return [without(node, "auto_pad", pads=begin + end)]


def clamped_window(node: NodeProto, view: View) -> Repair:
    """Make a window that is applied once no larger than what it can see.

    Problem: exporters write "all of it" as a window of thousands (Hugging Face's EfficientNet), and
    every place outside is visited.
    """
    values, shape = attributes(node), view.shape(node.input[0])
    out = view.shape(node.output[0])
    if shape is None or out is None or values.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = values["kernel_shape"]
    rank = len(kernel)
    pads = values.get("pads", [0] * 2 * rank)
    seen = [n + a + b for n, a, b in zip(shape[2:], pads[:rank], pads[rank:], strict=True)]
    dilations = values.get("dilations", [1] * rank)
    clamped = [
        min(k, n) if once == 1 and dilation == 1 else k
        for k, n, once, dilation in zip(kernel, seen, out[2:], dilations, strict=True)
    ]
    return [without(node, kernel_shape=clamped)] if clamped != kernel else None


def convolution(node: NodeProto, view: View) -> Repair:
    """Refuse ranks that Relax has no convolution for, and pads that crop.

    Problem: negative pads are accepted and read out of bounds.
    """
    shape = view.shape(node.input[0])
    if shape is not None and len(shape) not in (3, 4, 5):
        return f"{node.op_type} over {len(shape) - 2} spatial dimensions is not supported"
    if min(attributes(node).get("pads", [0])) < 0:
        return "negative pads are not supported"
    return None


def transposed_convolution(node: NodeProto, view: View) -> Repair:
    """Write `output_shape` and `auto_pad` out as `pads` and `output_padding`.

    Problem: the importer ignores `output_shape`.
    Evidence: onnx's `test_convtranspose_output_shape` came out as (1, 2, 9, 7).
    """
    values = attributes(node)
    mode = values.get("auto_pad", "NOTSET")
    if mode == "NOTSET" and "output_shape" not in values:
        return None
    shape, weight = view.shape(node.input[0]), view.shape(node.input[1])
    if shape is None or weight is None:
        return None
    rank = len(shape) - 2
    strides, dilations = (values.get(k, [1] * rank) for k in ("strides", "dilations"))
    extra = list(values.get("output_padding", [0] * rank))
    if mode == "VALID" and "output_shape" not in values:
        return [without(node, "auto_pad", pads=[0] * 2 * rank)]
    wanted = values.get("output_shape", [s * t for s, t in zip(shape[2:], strides, strict=True)])
    begin, end = [], []
    for axis, out in enumerate(wanted[-rank:]):
        reach = strides[axis] * (shape[2 + axis] - 1) + (weight[2 + axis] - 1) * dilations[axis] + 1
        total = reach + extra[axis] - out
        if total < 0:
            extra[axis], total = extra[axis] - total, 0
        half = total // 2
        begin.append(half if mode == "SAME_UPPER" else total - half)
        end.append(total - begin[-1])
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        return f"output_shape {list(wanted)} needs more output padding than its stride allows"
    made = without(node, "auto_pad", "output_shape", pads=begin + end, output_padding=extra)
    return [made]


def max_pool(node: NodeProto, view: View) -> Repair:
    """Refuse the output `Indices`, which Relax's pooling does not make."""
    if len(node.output) > 1:
        return "its output Indices is not supported"
    return None


def pad(node: NodeProto, view: View) -> Repair:
    """Turn negative pads into a slice and spread `axes` over all dimensions.

    Problem: TOPI's pad takes negative widths and reads out of bounds.
    """
    x, shape = node.input[0], view.shape(node.input[0])
    pads = view.constant(node.input[1])
    if pads is None:
        return "its pads are not constant; bind the inputs they depend on with constants={}"
    if shape is None:
        return None
    rank = len(shape)
    axes = range(rank)
    if len(node.input) > 3 and node.input[3]:
        given = view.constant(node.input[3])
        if given is None:
            return "its axes are not constant; bind the inputs they depend on with constants={}"
        axes = [int(a) % rank for a in given]
    elif pads.min(initial=0) >= 0:
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, list(axes)] = pads.reshape(2, -1)
    write = Rewrite(node, view)
    if full.min(initial=0) < 0:
        crop = np.minimum(full, 0)
        ends = np.array(shape) + crop[1]
        x = write("Slice", x, write.constant(-crop[0]), write.constant(ends))
    value = [node.input[2]] if len(node.input) > 2 else []
    widths = write.constant(np.maximum(full, 0).reshape(-1))
    mode = attributes(node).get("mode", "constant")
    write("Pad", x, widths, *value, out=node.output[0], mode=mode)
    return write.nodes
