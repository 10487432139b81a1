"""Random networks of many kinds of operators: whatever is fused, stored or reused, same results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from equivalence import array, assert_same, model, node, run_reference

import alt
from alt.policies import POLICIES

pytestmark = pytest.mark.llvm


class Drawing:
    """A network under construction; every value has a known shape and elements of about 1."""

    def __init__(self, seed: int, large: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}
        sizes = ([3, 8, 40, 64], [16, 23, 28]) if large else ([3, 16, 20, 33], [1, 4, 7])
        batch, channels, size = (int(self.pick(c)) for c in ([1, 2], *sizes))
        self.shapes = {"x": (batch, channels, size, size + 1), "z": (batch, channels * size)}
        self.inputs = {n: array(*s, seed=seed) for n, s in self.shapes.items()}

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def value(self, rank: int | None = None) -> str | None:
        found = [n for n, s in self.shapes.items() if rank is None or len(s) == rank]
        # Late values are more likely, so that graphs get deep.
        return found[int(len(found) * self.rng.random() ** 0.5)] if found else None

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = values
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(array(*shape, seed=len(self.constants)))

    def add(self, op: str, operands: str, shape: tuple[int, ...], **attributes) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(op, operands, name, **attributes))
        self.shapes[name] = shape


def convolution(d: Drawing) -> None:
    x = d.value(4)
    n, c, h, w = d.shapes[x]
    k, pad = d.pick([1, 3]), d.pick([0, 1])
    groups = d.pick([1, 1, c])
    out = c if groups > 1 else d.pick([c, 16, 24])
    if min(h, w) + 2 * pad < k:
        return
    scale = np.float32((c // groups * k * k) ** -0.5)
    d.constants[name] = d.constants[name := d.weights(out, c // groups, k, k)] * scale
    spatial = (h + 2 * pad - k + 1, w + 2 * pad - k + 1)
    d.add("Conv", f"{x} {name}", (n, out, *spatial), pads=[pad] * 4, group=groups)


def pooling(d: Drawing) -> None:
    x = d.value(4)
    n, c, h, w = d.shapes[x]
    if d.pick([0, 1]):
        d.add("GlobalAveragePool", x, (n, c, 1, 1))
    elif min(h, w) > 1:
        shape = (n, c, (h - 1) // 2 + 1, (w - 1) // 2 + 1)
        op = d.pick(["MaxPool", "AveragePool"])
        d.add(op, x, shape, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)


def unary(d: Drawing) -> None:
    x = d.value()
    d.add(d.pick(["Relu", "Sigmoid", "Tanh", "Neg", "Sin", "Erf", "Atan"]), x, d.shapes[x])


def binary(d: Drawing) -> None:
    a = d.value()
    op = d.pick(["Add", "Sub", "Mul", "Max"])
    shape = d.shapes[a]
    match d.pick(["same", "channel", "scalar", "broadcast"]):
        case "same":
            b = d.pick([n for n, s in d.shapes.items() if s == shape])
        case "channel":
            b = d.weights(*(e if k == 1 else 1 for k, e in enumerate(shape)))
        case "scalar":
            b = d.constant(np.asarray(d.rng.uniform(0.5, 1), np.float32))
        case _:
            like = [n for n, s in d.shapes.items() if len(s) == len(shape)]
            b = d.pick(like)
            pairs = list(zip(shape, d.shapes[b], strict=True))
            if any(p != q and 1 not in (p, q) for p, q in pairs):
                return
            shape = tuple(max(p) for p in pairs)
    d.add(op, d.pick([f"{a} {b}", f"{b} {a}"]), shape)


def movement(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    rank = len(shape)
    match d.pick(["transpose", "flatten", "pad", "slice", "gather", "split"]):
        case "transpose":
            perm = [int(p) for p in d.rng.permutation(rank)]
            d.add("Transpose", x, tuple(shape[p] for p in perm), perm=perm)
        case "flatten":
            d.add("Flatten", x, (shape[0], int(np.prod(shape[1:]))))
        case "pad":
            before, after = ([int(v) for v in d.rng.integers(0, 2, rank)] for _ in range(2))
            pads = d.constant(np.array([*before, *after]))
            d.add("Pad", f"{x} {pads}", tuple(map(sum, zip(before, shape, after, strict=True))))
        case "slice":
            axis = int(d.rng.integers(rank))
            parts = [d.constant(np.array([v])) for v in (-1, -(2**40), axis, -1)]
            d.add("Slice", " ".join([x, *parts]), shape)
        case "gather":
            axis = int(d.rng.integers(rank))
            picked = d.rng.integers(-shape[axis], shape[axis], 3)
            i = d.constant(picked)
            d.add("Gather", f"{x} {i}", (*shape[:axis], 3, *shape[axis + 1 :]), axis=axis)
        case _:
            if shape[-1] > 1:
                sizes = d.constant(np.array([1, shape[-1] - 1]))
                name = f"t{len(d.nodes)}"
                d.nodes.append(node("Split", f"{x} {sizes}", f"{name} {name}b", axis=-1))
                d.shapes |= {name: (*shape[:-1], 1), f"{name}b": (*shape[:-1], shape[-1] - 1)}


def concatenation(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    axis = int(d.rng.integers(len(shape)))
    fits = [
        n
        for n, s in d.shapes.items()
        if len(s) == len(shape)
        and all(p == q for k, (p, q) in enumerate(zip(s, shape, strict=True)) if k != axis)
    ]
    others = [d.pick(fits) for _ in range(d.pick([1, 2]))]
    total = shape[axis] + sum(d.shapes[o][axis] for o in others)
    d.add("Concat", " ".join([x, *others]), (*shape[:axis], total, *shape[axis + 1 :]), axis=axis)


def rows(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    axis = int(d.rng.integers(len(shape)))
    match d.pick(["softmax", "norm", "reduce"]):
        case "softmax":
            d.add("Softmax", x, shape, axis=axis)
        case "norm":
            scale = d.weights(shape[-1])
            d.add("LayerNormalization", f"{x} {scale}", shape, axis=-1, epsilon=0.1)
        case _:
            kept = tuple(1 if k == axis else e for k, e in enumerate(shape))
            op = d.pick(["ReduceMean", "ReduceMax", "ReduceMin"])
            d.add(op, f"{x} {d.constant(np.array([axis]))}", kept, keepdims=1)


def product(d: Drawing) -> None:
    x = d.value()
    *batch, depth = d.shapes[x]
    if d.pick([0, 1]) and len(batch) > 1:
        name = f"t{len(d.nodes)}u"
        perm = [*range(len(batch) - 1), len(batch), len(batch) - 1]
        d.nodes.append(node("Transpose", x, name, perm=perm))
        d.nodes.append(node("MatMul", f"{x} {name}", f"{name}v"))
        scaled = d.constant(np.asarray(1 / depth, np.float32))
        d.add("Mul", f"{name}v {scaled}", (*batch, batch[-1]))
    else:
        width = d.pick([1, 16, 21])
        d.constants[w] = d.constants[w := d.weights(depth, width)] * np.float32(depth**-0.5)
        d.add("MatMul", f"{x} {w}", (*batch, width))


KINDS: list[Callable[[Drawing], None]] = [
    convolution, convolution, pooling, unary, unary, binary, binary, binary, movement, movement,
    concatenation, rows, product,
]  # fmt: skip


def compare(seed: int, large: bool, layouts: str = "joint") -> None:
    """Large values are worth several cores and have more than one tile along every axis."""
    d = Drawing(seed, large)
    for _ in range(int(d.rng.integers(3, 16))):
        d.pick(KINDS)(d)
        last = list(d.shapes)[-1]
        if np.prod(d.shapes[last]) > 1 << (19 if large else 14):
            d.shapes.pop(last)
    computed = [n for n in d.shapes if n not in d.inputs]
    wanted = [n for n in d.shapes if d.rng.random() < 0.2]
    outputs = list(dict.fromkeys([*wanted, *computed[-1:]])) or ["x"]
    proto = model(d.nodes, d.inputs, outputs, d.constants)
    try:
        expected = run_reference(proto, d.inputs)
    except Exception as fault:  # noqa: BLE001 - the runtime's own limits
        pytest.skip(f"ONNX Runtime cannot run it: {fault}")
    assert_same(alt.compile(proto, layouts=layouts)(**d.inputs), expected, length=2000)


@pytest.mark.parametrize("seed", range(24))
def test_small_random_graph(seed):
    compare(seed, large=False)


@pytest.mark.parametrize("seed", range(6))
def test_large_random_graph(seed):
    compare(seed, large=True)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", range(100, 500))
def test_many_random_graphs(seed, large):
    compare(seed, large)


@pytest.mark.parametrize("layouts", [p for p in POLICIES if p != "joint"])
@pytest.mark.parametrize("seed", range(3))
def test_random_graph_in_other_layouts(seed, layouts):
    compare(1000 + seed, False, layouts)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", [p for p in POLICIES if p != "joint"])
@pytest.mark.parametrize("seed", range(2000, 2100))
def test_many_random_graphs_in_other_layouts(seed, layouts):
    compare(seed, seed % 4 == 0, layouts)
