"""Convolutions and pooling: every geometry gives ONNX Runtime's numbers."""

from __future__ import annotations

from math import prod

import numpy as np
import onnxruntime
import pytest
from equivalence import WINOGRAD, array, check, node

pytestmark = pytest.mark.llvm

CONVOLUTIONS = {
    # name: x, w, attributes
    "plain": ((1, 32, 9, 9), (32, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    "unpadded": ((1, 16, 9, 9), (32, 16, 3, 3), {}),
    "asymmetric pads": ((1, 16, 9, 7), (16, 16, 3, 3), {"pads": [0, 1, 2, 3]}),
    "rows only padded": ((1, 16, 5, 11), (16, 16, 3, 1), {"pads": [1, 0, 1, 0]}),
    "columns only padded": ((1, 16, 5, 11), (16, 16, 1, 3), {"pads": [0, 1, 0, 1]}),
    "stem of 3": ((1, 3, 30, 30), (32, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "stem of 1": ((1, 1, 28, 28), (20, 1, 5, 5), {}),
    "from 1 channel to 1": ((1, 1, 8, 8), (1, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
    "from 32 channels to 1": ((1, 32, 8, 8), (1, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    "17 channels": ((1, 17, 7, 7), (17, 17, 3, 3), {"pads": [1, 1, 1, 1]}),
    "24 to 144 channels": ((1, 24, 6, 6), (144, 24, 1, 1), {}),
    "1000 channels": ((1, 8, 3, 3), (1000, 8, 1, 1), {}),
    "9 channels": ((1, 9, 7, 7), (40, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "8 channels": ((1, 8, 7, 7), (8, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "batch of 3": ((3, 20, 7, 7), (24, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
    "stride 2": ((1, 16, 9, 9), (16, 16, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "stride over kernel": ((1, 16, 11, 11), (16, 16, 2, 2), {"strides": [3, 4]}),
    "1x1 stride 2": ((1, 32, 8, 8), (48, 32, 1, 1), {"strides": [2, 2]}),
    "1x1 groups stride 2": ((2, 24, 9, 7), (36, 6, 1, 1), {"group": 4, "strides": [2, 3]}),
    "1x1 groups stride 2 to one row": ((1, 24, 2, 31), (36, 6, 1, 1), {"group": 4, "strides": [2, 2]}),
    "1x1 groups 1-D stride 4": ((3, 6, 50), (9, 2, 1), {"group": 3, "strides": [4]}),
    "1x1 groups padded": ((1, 6, 9, 9), (9, 2, 1, 1), {"group": 3, "strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "unequal strides": ((1, 16, 12, 9), (16, 16, 3, 3), {"strides": [1, 2], "pads": [1] * 4}),
    "dilated": ((1, 16, 12, 12), (16, 16, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "dilated and strided": ((1, 16, 15, 15), (16, 16, 3, 3), {"dilations": [2, 2], "strides": [2, 2]}),
    "one position": ((1, 32, 1, 1), (48, 32, 1, 1), {}),
    "kernel as large as the image": ((2, 20, 4, 4), (10, 20, 4, 4), {}),
    "pads beyond the kernel": ((1, 16, 3, 3), (16, 16, 2, 2), {"pads": [3, 3, 3, 3]}),
    "aligned groups": ((1, 64, 6, 6), (64, 16, 3, 3), {"group": 4, "pads": [1] * 4}),
    "unaligned groups": ((1, 24, 6, 6), (36, 6, 3, 3), {"group": 4, "pads": [1] * 4}),
    "groups of many to few": ((1, 32, 6, 6), (6, 16, 3, 3), {"group": 2}),
    "shuffled 1x1 groups": ((1, 24, 5, 5), (48, 8, 1, 1), {"group": 3}),
    "depthwise": ((1, 32, 9, 9), (32, 1, 3, 3), {"group": 32, "pads": [1] * 4}),
    "depthwise of 24": ((2, 24, 9, 9), (24, 1, 3, 3), {"group": 24, "pads": [1] * 4, "strides": [2, 2]}),
    "depthwise of 3": ((1, 3, 9, 9), (3, 1, 3, 3), {"group": 3, "pads": [1] * 4}),
    "depthwise 5x5 dilated": ((1, 17, 12, 12), (17, 1, 5, 5), {"group": 17, "dilations": [2, 2], "pads": [4] * 4}),
    "depthwise 7x7": ((1, 16, 10, 31), (16, 1, 7, 7), {"group": 16, "pads": [3] * 4}),
    "depth multiplier": ((1, 16, 7, 7), (48, 1, 3, 3), {"group": 16, "pads": [1] * 4}),
    "depth multiplier of 16": ((1, 2, 7, 7), (32, 1, 3, 3), {"group": 2}),
    "1-D": ((1, 20, 30), (33, 20, 5), {"pads": [2, 2], "strides": [2]}),
    "1-D one channel": ((2, 1, 40), (16, 1, 9), {"strides": [4]}),
    "1-D depthwise": ((1, 20, 30), (20, 1, 5), {"group": 20, "pads": [2, 2]}),
    "1-D groups": ((1, 12, 30), (8, 3, 5), {"group": 4, "pads": [4, 0]}),
    "3-D": ((1, 16, 4, 6, 5), (32, 16, 3, 3, 3), {"pads": [1] * 6}),
    "3-D stem": ((1, 3, 6, 12, 12), (16, 3, 3, 5, 5), {"pads": [1, 2, 2, 1, 2, 2], "strides": [1, 2, 2]}),
    "3-D depthwise": ((1, 17, 5, 6, 7), (17, 1, 3, 3, 3), {"group": 17, "pads": [1] * 6, "strides": [2, 1, 2]}),
    "3-D groups": ((1, 12, 4, 5, 5), (12, 4, 3, 3, 3), {"group": 3, "pads": [1] * 6}),
}  # fmt: skip

TRANSPOSED = {
    "stride 1": ((1, 16, 5, 5), (16, 24, 3, 3), {"pads": [1, 1, 1, 1]}),
    "stride 2": ((1, 32, 5, 5), (32, 16, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "kernel below stride": ((1, 17, 5, 5), (17, 16, 2, 2), {"strides": [3, 3]}),
    "kernel is stride": ((2, 16, 5, 5), (16, 20, 2, 2), {"strides": [2, 2]}),
    "output padding": (
        (1, 16, 5, 4), (16, 16, 3, 3),
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
    ),
    "dilated": ((1, 16, 6, 6), (16, 16, 3, 3), {"strides": [2, 2], "dilations": [2, 3]}),
    "dilated by the stride's multiple": ((1, 16, 6, 6), (16, 16, 3, 3), {"strides": [2, 2], "dilations": [4, 2]}),
    "aligned groups": ((1, 32, 5, 5), (32, 16, 3, 3), {"group": 2, "strides": [2, 2]}),
    "unaligned groups": ((1, 12, 5, 5), (12, 3, 3, 3), {"group": 4, "strides": [2, 2]}),
    "depthwise": ((1, 20, 5, 5), (20, 1, 4, 4), {"group": 20, "strides": [2, 2], "pads": [1] * 4}),
    "asymmetric pads": ((1, 3, 6, 6), (3, 5, 4, 4), {"strides": [2, 2], "pads": [0, 1, 2, 1]}),
    "1-D": ((1, 16, 9), (16, 8, 5), {"strides": [3], "pads": [1, 1]}),
    "3-D": ((1, 16, 3, 4, 5), (16, 16, 2, 3, 4), {"strides": [1, 2, 3]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case):
    x, w, attributes = CONVOLUTIONS[case]
    weights = {"w": array(*w, seed=1), "b": array(w[0], seed=2)}
    length = prod(w[1:]) * (WINOGRAD if w[-2:] == (3, 3) else 1)
    check(node("Conv", "x w b", **attributes), {"x": array(*x)}, weights, length=length)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(case):
    x, w, attributes = TRANSPOSED[case]
    out = w[1] * attributes.get("group", 1)
    weights = {"w": array(*w, seed=1), "b": array(out, seed=2)}
    length = w[0] * prod(w[2:])
    check(node("ConvTranspose", "x w b", **attributes), {"x": array(*x)}, weights, length=length)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_pooling_of_lines_and_volumes(rank, blocked):
    test_pooling(rank, blocked, {"ceil_mode": 1, "strides": 2, "pads": 1})


@pytest.mark.parametrize("rank", [2])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": 1},
        {"strides": 2, "pads": 1},
        {"strides": 3},
        {"ceil_mode": 1, "strides": 2},
        {"ceil_mode": 1, "strides": 2, "pads": 1},
        {"dilations": 2, "pads": 1},
        {"pads": "end", "strides": 2},
        {"auto_pad": "SAME_UPPER", "strides": 2},
        {"auto_pad": "SAME_LOWER", "strides": 2},
    ],
    ids=str,
)
def test_pooling(rank, blocked, attributes):
    """Maximum and both averages of one input, from rows and from channel blocks."""
    full = {
        k: [v] * rank if isinstance(v, int) and k != "ceil_mode" else v
        for k, v in attributes.items()
    }
    match attributes.get("pads"):
        case "end":
            full["pads"] = [0] * rank + [1] * rank
        case int():
            full["pads"] = [1] * rank * 2
    kernel = [3] * rank
    nodes = [
        node("Relu" if not blocked else "Conv", "x" if not blocked else "x w", "r"),
        node("MaxPool", "r", "m", kernel_shape=kernel, **full),
    ]
    outputs = ["m"]
    if "dilations" not in full:
        for name, count in (("a", 0), ("c", 1)):
            nodes.append(
                node("AveragePool", "r", name, kernel_shape=kernel, count_include_pad=count, **full)
            )
            outputs.append(name)
    x = array(2, 20, *(8, 9, 7)[:rank]) - 2
    check(nodes, {"x": x}, {"w": array(20, 20, *[1] * rank, seed=1)}, outputs, length=20)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("kernel", [(13, 13), (9, 9), (1, 70)])
def test_long_windows(kernel, blocked):
    pads = [k // 2 for k in kernel] * 2
    first = node("Conv", "x w", "r") if blocked else node("Relu", "x", "r")
    nodes = [
        first,
        node("MaxPool", "r", "m", kernel_shape=kernel, pads=pads),
        node("AveragePool", "r", "a", kernel_shape=kernel, pads=pads, strides=[2, 2]),
        node("AveragePool", "r", "c", kernel_shape=kernel, pads=pads, count_include_pad=1),
    ]
    x = array(1, 20, 15, 72) - 2
    check(nodes, {"x": x}, {"w": array(20, 20, 1, 1, seed=1)}, ["m", "a", "c"], length=200)


@pytest.mark.parametrize("shape", [(1, 17, 7, 7), (2, 32, 1, 1), (1, 5, 9), (1, 20, 3, 4, 5)])
@pytest.mark.parametrize("blocked", [False, True])
def test_global_pooling(shape, blocked):
    channels, rank = shape[1], len(shape) - 2
    first = node("Conv", "x w", "r") if blocked else node("Relu", "x", "r")
    nodes = [first, node("GlobalAveragePool", "r", "a"), node("GlobalMaxPool", "r", "m")]
    w = {"w": array(channels, channels, *[1] * rank, seed=1)}
    check(nodes, {"x": array(*shape)}, w, ["a", "m"], length=channels)


def test_two_borders_of_one_input():
    nodes = [
        node("Relu", "x", "r"),
        node("Conv", "r a", "p", pads=[1, 1, 1, 1]),
        node("Conv", "r b", "q", pads=[2, 0, 1, 3]),
        node("Conv", "r c", "s"),
        node("MaxPool", "r", "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    weights = {"a": array(16, 20, 3, 3), "b": array(16, 20, 4, 4, seed=1), "c": array(8, 20, 1, 1)}
    check(nodes, {"x": array(1, 20, 8, 8)}, weights, ["p", "q", "s", "m"], length=320)


def test_chain_of_different_borders_with_a_residual():
    nodes = [
        node("Conv", "x a", "p", pads=[1, 1, 1, 1]),
        node("Relu", "p", "r"),
        node("Conv", "r b", "q", pads=[2, 2, 2, 2]),
        node("Conv", "r c", "s", pads=[0, 1, 0, 1]),
        node("Add", "q r", "t"),
        node("Relu", "t", "u"),
        node("Conv", "u d", "y", group=20, pads=[1, 1, 1, 1]),
    ]
    weights = {
        "a": array(20, 3, 3, 3), "b": array(20, 20, 5, 5, seed=1), "c": array(24, 20, 1, 3, seed=2),
        "d": array(20, 1, 3, 3, seed=3),
    }  # fmt: skip
    check(nodes, {"x": array(1, 3, 8, 8)}, weights, ["y", "s", "q", "r"], length=27 * 500 * 9)


def test_weights_that_are_inputs():
    inputs = {"x": array(1, 16, 6, 6), "w": array(16, 16, 3, 3, seed=1)}
    check(node("Conv", "x w", pads=[1, 1, 1, 1]), inputs, length=144)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_many_convolutions(seed):
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[int(rng.integers(len(choices)))]

    rank, batch = pick(1, 2, 2, 2, 3), pick(1, 1, 2)
    groups = pick(1, 1, 1, 2, 4, 24)
    channels, outputs = (groups * pick(1, 2, 3, 8, 16, 17, 40) for _ in range(2))
    if groups == 24:
        channels = outputs = pick(24, 32, 100)
        groups = channels
    kernel, strides, dilations = (
        [pick(*c) for _ in range(rank)] for c in ((1, 2, 3, 5), (1, 1, 2, 3), (1, 1, 2))
    )
    pads = [pick(0, 1, 2) for _ in range(2 * rank)]
    size = [pick(1, 4, 9, 17, 30) if rank < 3 else pick(1, 4, 7) for _ in range(rank)]
    size = [max(s, (k - 1) * d + 1) for s, k, d in zip(size, kernel, dilations, strict=True)]
    common = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads}
    x = {"x": array(batch, channels, *size)}
    nodes = [
        node(pick("Relu", "Identity"), "x", "r"),
        node("Conv", "r w b", "c", **common),
        node(pick("Relu", "Sigmoid", "Neg"), "c", "y"),
    ]
    weights = {"w": array(outputs, channels // groups, *kernel), "b": array(outputs)}
    outs = pick(["y"], ["y", "c"], ["r", "y"])
    check(nodes, x, weights, outs, length=channels // groups * prod(kernel))
    if all(d == 1 for d in dilations):
        turned = {"w": array(channels, outputs // groups, *kernel), "b": array(outputs)}
        common["pads"] = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
        nodes[1] = node("ConvTranspose", "r w b", "c", **common)
        try:
            check(nodes, x, turned, outs, length=channels * prod(kernel))
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            pytest.skip("nothing is left of the output")


def test_no_row_is_copied_that_needs_too_much_memory(monkeypatch):
    monkeypatch.setattr("alt.sketches.direct.PANEL_BYTES", 6 * 20 * 4)
    for length, copied in ((40, True), (42, False)):
        weights = {"w": array(36, 6, 1, seed=1), "b": array(36, seed=2)}
        graph = node("Conv", "x w b", group=4, strides=[2])
        module = check(graph, {"x": array(1, 24, length)}, weights, length=6)
        schedule = module.explain().kernels[0].schedule
        assert ("panel" in str(schedule)) is copied, schedule
