"""BERT encoders as torch exports them: attention, GELU and the mask spelled out node by node."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.onnx_builder import GraphBuilder

VOCABULARY = 30522
POSITIONS = 512
SEGMENTS = 2
EPSILON = 1e-12

LayerNorm = Literal["fused", "decomposed"]


def _layer_norm(
    b: GraphBuilder, x: str, hidden: int, spelling: LayerNorm, output: str | None
) -> str:
    scale = b.weight(b.rng.uniform(0.8, 1.2, hidden).astype(np.float32))
    bias = b.normal((hidden,), 0.1)
    if spelling == "fused":
        return b.op("LayerNormalization", x, scale, bias, output=output, axis=-1, epsilon=EPSILON)
    centred = b.op("Sub", x, b.op("ReduceMean", x, axes=[-1], keepdims=1))
    square = b.op("Pow", centred, b.scalar(2.0))
    variance = b.op("ReduceMean", square, axes=[-1], keepdims=1)
    deviation = b.op("Sqrt", b.op("Add", variance, b.scalar(EPSILON)))
    normal = b.op("Div", centred, deviation)
    return b.op("Add", b.op("Mul", normal, scale), bias, output=output)


def _gelu(b: GraphBuilder, x: str) -> str:
    erf = b.op("Erf", b.op("Div", x, b.scalar(math.sqrt(2.0))))
    product = b.op("Mul", x, b.op("Add", erf, b.scalar(1.0)))
    return b.op("Mul", product, b.scalar(0.5))


def _additive_mask(b: GraphBuilder, mask: str) -> str:
    """`(batch, tokens)` of ones and zeros to `(batch, 1, 1, tokens)` of zeros and -max."""
    mask = b.op("Unsqueeze", mask, b.constant(np.array([1], np.int64)))
    mask = b.op("Unsqueeze", mask, b.constant(np.array([2], np.int64)))
    hidden = b.op("Sub", b.scalar(1.0), b.op("Cast", mask, to=TensorProto.FLOAT))
    return b.op("Mul", hidden, b.scalar(float(np.finfo(np.float32).min)))


def _attention(b: GraphBuilder, x: str, mask: str, shape: tuple[int, int, int], heads: int) -> str:
    batch, tokens, hidden = shape
    size = hidden // heads
    split = b.constant(np.array([batch, tokens, heads, size], np.int64))

    def project(perm: list[int]) -> str:
        return b.op("Transpose", b.op("Reshape", b.linear(x, hidden, hidden), split), perm=perm)

    query, key = project([0, 2, 1, 3]), project([0, 2, 3, 1])
    value = project([0, 2, 1, 3])
    scores = b.op("Div", b.op("MatMul", query, key), b.scalar(math.sqrt(size)))
    weights = b.op("Softmax", b.op("Add", scores, mask), axis=-1)
    context = b.op("Transpose", b.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    joined = b.op("Reshape", context, b.constant(np.array(shape, np.int64)))
    return b.linear(joined, hidden, hidden)


def bert(
    *,
    layers: int,
    hidden: int,
    heads: int,
    intermediate: int,
    batch: int = 1,
    tokens: int = 128,
    layer_norm: LayerNorm = "fused",
    name: str = "bert",
    seed: int = 0,
) -> onnx.ModelProto:
    """A BERT encoder with embeddings and pooler, inputs int64 `(batch, tokens)`.

    Weights have the shapes of Hugging Face's `BertModel`, drawn so that attention is
    neither uniform nor saturated.

    Args:
        layer_norm: one `LayerNormalization` node, or the nine nodes of exports before opset 17.

    Source: Devlin et al., arXiv:1810.04805; `transformers` `BertModel`.
    """
    b = GraphBuilder(name, seed)
    shape = (batch, tokens, hidden)
    ids = b.input("input_ids", (batch, tokens), TensorProto.INT64)
    mask = b.input("attention_mask", (batch, tokens), TensorProto.INT64)
    segments = b.input("token_type_ids", (batch, tokens), TensorProto.INT64)
    additive_mask = _additive_mask(b, mask)

    std = 1.0 / math.sqrt(3.0)  # three embeddings are summed
    words = b.op("Gather", b.normal((VOCABULARY, hidden), std, "word_embeddings"), ids)
    kinds = b.op("Gather", b.normal((SEGMENTS, hidden), std, "segment_embeddings"), segments)
    places = b.constant(np.arange(tokens, dtype=np.int64)[None])
    places = b.op("Gather", b.normal((POSITIONS, hidden), std, "position_embeddings"), places)
    x = b.op("Add", b.op("Add", words, kinds), places)
    x = _layer_norm(b, x, hidden, layer_norm, None)

    for layer in range(layers):
        attended = b.op("Add", _attention(b, x, additive_mask, shape, heads), x)
        x = _layer_norm(b, attended, hidden, layer_norm, None)
        inner = _gelu(b, b.linear(x, hidden, intermediate))
        grown = b.op("Add", b.linear(inner, intermediate, hidden, gain=2.0), x)
        output = "last_hidden_state" if layer == layers - 1 else None
        x = _layer_norm(b, grown, hidden, layer_norm, output)

    first = b.op("Gather", x, b.constant(np.array(0, np.int64)), axis=1)
    pooled = b.op("Tanh", b.gemm(first, hidden, hidden), output="pooler_output")
    return b.model({x: shape, pooled: (batch, hidden)})


def bert_base(
    batch: int = 1, tokens: int = 128, layer_norm: LayerNorm = "fused", seed: int = 0
) -> onnx.ModelProto:
    """BERT-base (uncased): 12 layers of width 768 with 12 heads."""
    return bert(
        layers=12,
        hidden=768,
        heads=12,
        intermediate=3072,
        batch=batch,
        tokens=tokens,
        layer_norm=layer_norm,
        name="bert_base",
        seed=seed,
    )


def bert_tiny(
    batch: int = 1, tokens: int = 128, layer_norm: LayerNorm = "fused", seed: int = 0
) -> onnx.ModelProto:
    """BERT-tiny: 2 layers of width 128 with 2 heads."""
    return bert(
        layers=2,
        hidden=128,
        heads=2,
        intermediate=512,
        batch=batch,
        tokens=tokens,
        layer_norm=layer_norm,
        name="bert_tiny",
        seed=seed,
    )
