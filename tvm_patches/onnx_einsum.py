"""`Einsum` of one or two operands as transposes, reshapes and one matrix product."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes


def einsum(node: NodeProto, view: View) -> Repair:
    """Write the common einsums as `MatMul`.

    Problem: the importer emits an opaque TensorIR function, which no schedule for matrix
    products recognises. Three operands or a repeated index are left to it.
    Evidence: `tests/tvm_patches/test_onnx_importer.py::test_einsum_is_a_matmul`.
    """
    equation = str(attributes(node)["equation"]).replace(" ", "")
    shapes = [view.shape(name) for name in node.input]
    if len(shapes) != 2 or "." in equation or "->" not in equation:
        return None
    terms, out = equation.split("->")
    left, right = terms.split(",")
    if any(shape is None for shape in shapes) or any(
        len(set(t)) != len(t) for t in (left, right, out)
    ):
        return None
    size = dict(zip(left, shapes[0] or (), strict=True))
    if any(size.get(k, n) != n for k, n in zip(right, shapes[1] or (), strict=True)):
        return None
    size.update(zip(right, shapes[1] or (), strict=True))
    batch = [k for k in left if k in right and k in out]
    summed = [k for k in left if k in right and k not in out]
    rows = [k for k in left if k not in right]
    columns = [k for k in right if k not in left]
    if set(rows + columns) - set(out):
        return None
    write = Rewrite(node, view)

    def arranged(name: str, have: str, groups: list[list[str]]) -> str:
        order = [have.index(k) for group in groups for k in group]
        if order != sorted(order):
            name = write("Transpose", name, perm=order)
        shape = [size[k] for k in groups[0]]
        shape += [int(np.prod([size[k] for k in g], dtype=np.int64)) for g in groups[1:]]
        return write("Reshape", name, write.constant(shape))

    x = arranged(node.input[0], left, [batch, rows, summed])
    y = arranged(node.input[1], right, [batch, summed, columns])
    made = batch + rows + columns
    product = write("MatMul", x, y)
    wide = write("Reshape", product, write.constant([size[k] for k in made]))
    write("Transpose", wide, out=node.output[0], perm=[made.index(k) for k in out])
    return write.nodes
