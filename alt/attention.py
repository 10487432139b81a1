"""Attention: the score product, the softmax and the value product become one kernel."""

from __future__ import annotations

from alt.graph import Graph, Node, Value
from alt.kernels import Kernel


def fuse_attention(graph: Graph, kernels: list[Kernel]) -> list[Kernel]:
    """Merge `softmax(q @ k) @ v` wherever nobody else looks at the scores.

    The scores of a few queries then never leave the cache. Whatever is fused around the products
    (scales, masks, transposed views) stays as it is.
    """
    readers: dict[Value, list[Kernel]] = {}
    maker = {k.output: k for k in kernels}
    for kernel in kernels:
        for value in kernel.inputs:
            readers.setdefault(value, []).append(kernel)
    gone: set[Kernel] = set()
    merged: dict[Kernel, Kernel] = {}

    def private(value: Value, reader: Kernel) -> bool:
        return readers.get(value) == [reader] and value not in graph.outputs

    for last in kernels:
        weighted = last.anchor
        if weighted is None or weighted.op != "matmul" or weighted.inputs[1] in graph.constants:
            continue
        weights = maker.get(weighted.inputs[0])
        if weights is None or not _is_plain_softmax(weights) or not private(weights.output, last):
            continue
        scores = maker.get(weights.inputs[0])
        if scores is None or scores.anchor is None or not private(scores.output, weights):
            continue
        product = scores.anchor
        if (
            product.op != "matmul"
            or any(v in graph.constants for v in product.inputs)
            or product.output.dtype != "float32"
            or len(product.output.shape) < 2
            or product.output.shape != scores.output.shape
            or weighted.output.shape[:-1] != scores.output.shape[:-1]
            or any(len(v.shape) < 2 for v in (*product.inputs, weighted.inputs[1]))
            or any(weights.output in n.inputs for n in last.nodes if n is not weighted)
        ):
            continue
        attrs = {**weighted.attrs, "depth": product.inputs[0].shape[-1]}
        anchor = Node("attention", "attention", weighted.inputs, weighted.output, attrs)
        nodes = tuple(anchor if n is weighted else n for n in last.nodes)
        inputs = dict.fromkeys((*scores.inputs, *last.inputs))
        inputs.pop(weights.output)
        merged[last] = Kernel(
            anchor, (*scores.nodes, *weights.nodes, *nodes), tuple(inputs), last.output
        )
        gone.update((scores, weights))
    return [merged.get(k, k) for k in kernels if k not in gone]


def _is_plain_softmax(kernel: Kernel) -> bool:
    node = kernel.anchor
    return (
        node is not None
        and kernel.nodes == (node,)
        and node.name == "softmax"
        and node.attrs["axis"] == len(node.output.shape) - 1
    )
