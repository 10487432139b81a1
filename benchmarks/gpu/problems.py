"""What is measured on a GPU: networks in two batch sizes, and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import onnx

from benchmarks.networks import bert_base, bert_tiny, mobilenet_v2, resnet3d18, resnet18
from benchmarks.onnx_builder import GraphBuilder

BATCHES = (1, 16)


@dataclass(frozen=True)
class Problem:
    """A network or an operator.

    Attributes:
        name: for tables and the command line.
        batch: images or sentences at once; 0 for an operator.
        build: makes it, from a seed.
    """

    name: str
    batch: int
    build: Callable[[int], onnx.ModelProto]

    @property
    def title(self) -> str:
        """Name and batch."""
        return f"{self.name} b{self.batch}" if self.batch else self.name


def product(rows: int, depth: int, columns: int, seed: int = 0) -> onnx.ModelProto:
    """`x @ w` with constant `w`."""
    b = GraphBuilder("product", seed)
    x = b.input("x", (rows, depth))
    y = b.op("MatMul", x, b.normal((depth, columns), depth**-0.5), output="y")
    return b.model({y: (rows, columns)})


PRODUCTS: Sequence[tuple[int, int, int]] = (
    (4096, 4096, 4096),
    (2048, 768, 3072),  # BERT-base, batch 16: the first product of a feed-forward layer
    (2048, 3072, 768),
    (2048, 768, 768),
    (128, 768, 3072),  # the same for batch 1
    (128, 768, 768),
    (1024, 1024, 1024),
    (8192, 8192, 8192),
    (1, 4096, 4096),
)
"""Rows, depth and columns, the most telling first."""

_NETWORKS: dict[str, Callable[..., onnx.ModelProto]] = {
    "resnet18": resnet18,
    "bert_base": bert_base,
    "mobilenet_v2": mobilenet_v2,
    "resnet3d18": resnet3d18,
    "bert_tiny": bert_tiny,
}
_SMALL: dict[str, Callable[..., onnx.ModelProto]] = {
    "resnet18": partial(resnet18, size=32),
    "bert_base": partial(bert_tiny, tokens=9),
    "mobilenet_v2": partial(mobilenet_v2, size=32),
    "resnet3d18": partial(resnet3d18, frames=2, size=16),
    "bert_tiny": partial(bert_tiny, tokens=9),
}
NAMES = tuple(_NETWORKS)


def networks(names: Sequence[str], batches: Sequence[int], small: bool = False) -> list[Problem]:
    """Networks by name, each with every batch size; `small` ones only try the benchmark."""
    builders = _SMALL if small else _NETWORKS
    return [
        Problem(name, batch, partial(_network, builders[name], batch))
        for name in names
        for batch in batches
    ]


def operators(shapes: Sequence[tuple[int, int, int]] = PRODUCTS) -> list[Problem]:
    """Matrix products."""
    return [Problem(f"matmul {m}x{k}x{n}", 0, partial(_product, (m, k, n))) for m, k, n in shapes]


def _network(build: Callable[..., onnx.ModelProto], batch: int, seed: int) -> onnx.ModelProto:
    return build(batch=batch, seed=seed)


def _product(shape: tuple[int, int, int], seed: int) -> onnx.ModelProto:
    return product(*shape, seed=seed)


def work_of(name: str) -> float:
    """Floating-point operations of a matrix product, by its name; 0 for networks.

    >>> work_of("matmul 2x3x4"), work_of("resnet18")
    (48.0, 0.0)
    """
    kind, _, shape = name.partition(" ")
    return 2.0 * prod(map(int, shape.split("x"))) if kind == "matmul" else 0.0
