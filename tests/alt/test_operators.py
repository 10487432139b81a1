"""Indexing and movement, resizing and padding, and operators that are seldom seen."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import WINOGRAD, array, check, node
from onnx import TensorProto, helper

from alt.errors import AltError

pytestmark = pytest.mark.llvm


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_gather(axis):
    constants = {"i": np.array([[0, -1, 1], [1, 1, -2]]), "j": np.array(-1), "k": np.array([1])}
    nodes = [node("Gather", f"x {i}", f"y{i}", axis=axis) for i in "ijk"]
    check(nodes, {"x": array(3, 20, 5)}, constants, ["yi", "yj", "yk"])
    inputs = {"x": array(3, 20, 5), "i": constants["i"]}
    check(node("Gather", "x i", axis=axis), inputs)


def test_gathers_along_elements():
    i = np.random.default_rng(0).integers(-3, 3, (3, 20, 5))
    nodes = [node("GatherElements", "x i", f"y{a}", axis=a) for a in range(3)]
    check(nodes, {"x": array(3, 20, 5), "i": i}, None, ["y0", "y1", "y2"])
    indices = {"i": np.array([[0, 1], [-1, 3]])}
    check(node("GatherND", "x i"), {"x": array(3, 20, 5)}, indices)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_concat_and_split(axis):
    shapes = [[2, 3, 4, 5] for _ in range(3)]
    for k, shape in enumerate(shapes):
        shape[axis] = (1, 17, 6)[k]
    inputs = {f"x{k}": array(*s) for k, s in enumerate(shapes)}
    nodes = [
        node("Concat", "x0 x1 x2", "c", axis=axis),
        node("Split", "c sizes", "p q r", axis=axis),
        node("Relu", "q", "s"),
    ]
    check(nodes, inputs, {"sizes": np.array([5, 16, 3])}, ["c", "p", "s", "r"])


@pytest.mark.parametrize("channels", [(16, 32), (16, 20), (20, 16), (3, 5)])
def test_concat_of_blocked_channels(channels):
    a, b = channels
    nodes = [
        node("Conv", "x v", "p"),
        node("Conv", "x w", "q"),
        node("Concat", "p q", "c", axis=1),
        node("Relu", "c", "r"),
        node("Conv", "r u", "y", pads=[1, 1, 1, 1]),
        node("MaxPool", "c", "m", kernel_shape=[2, 2]),
    ]
    weights = {"v": array(a, 8, 1, 1), "w": array(b, 8, 1, 1), "u": array(20, a + b, 3, 3) / 8}
    check(nodes, {"x": array(1, 8, 5, 6)}, weights, ["y", "c", "m"], length=300)


RESIZES = [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest"},
    {"mode": "linear"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    {"mode": "cubic", "cubic_coeff_a": -0.75},
]


@pytest.mark.parametrize("attributes", RESIZES, ids=lambda a: "-".join(map(str, a.values())))
@pytest.mark.parametrize(("scale", "blocked"), [((2.0, 2.0), True), ((0.5, 1.5), False)])
def test_resize(attributes, scale, blocked):
    nodes = [
        node("Conv", "x w", "c") if blocked else node("Relu", "x", "c"),
        node("Resize", "c - s", "y", **attributes),
    ]
    constants = {"w": array(20, 20, 1, 1), "s": np.array([1, 1, *scale], np.float32)}
    check(nodes, {"x": array(1, 20, 6, 8)}, constants, length=40)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode):
    constants = {"p": np.array([0, 1, 2, 0, 0, 2, 1, 3]), "v": np.array(1.5, np.float32)}
    pad = node("Pad", "x p v" if mode == "constant" else "x p", mode=mode)
    check(pad, {"x": array(2, 17, 5, 6)}, constants, opset=19)


def test_negative_pad_and_pad_before_convolution():
    constants = {"p": np.array([0, 0, 1, 2, 0, 0, 1, 0]), "w": array(16, 8, 3, 3)}
    nodes = [node("Pad", "x p", "q"), node("Conv", "q w", "y", pads=[1, 1, 1, 1])]
    check(nodes, {"x": array(1, 8, 5, 6)}, constants, ["y", "q"], length=72 * WINOGRAD)
    check(
        node("Pad", "x p"), {"x": array(1, 8, 5, 6)}, {"p": np.array([0, -1, -2, 0, 0, 1, 0, -1])}
    )


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [4], [1], [1]),
        ([-1], [-(2**63)], [1], [-1]),
        ([0, 3], [2**31, -1], [1, 2], [3, 1]),
        ([-2, 5], [0, 0], [1, 2], [-3, -2]),
    ],
)
def test_slice(starts, ends, axes, steps):
    named = {"s": starts, "e": ends, "a": axes, "t": steps}
    constants = {n: np.array(v, np.int64) for n, v in named.items()}
    check(node("Slice", "x s e a t"), {"x": array(2, 20, 7)}, constants)


def test_movement():
    constants = {"e": np.array([4, 3, 20, 5]), "t": np.array([2, 1, 3]), "r": np.array([0, -1, 10])}
    nodes = [
        node("Transpose", "x", "a", perm=[2, 0, 1]),
        node("Expand", "x e", "b"),
        node("Tile", "x t", "c"),
        node("Reshape", "x r", "d"),
        node("Flatten", "x", "f", axis=2),
        node("Transpose", "d", "g", perm=[2, 1, 0]),
        node("Squeeze", "z", "h"),
    ]
    inputs = {"x": array(3, 20, 5), "z": array(1, 5, 1)}
    check(nodes, inputs, constants, list("abcdfgh"))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    nodes = [
        node("DepthToSpace", "x", "d", blocksize=2, mode=mode),
        node("SpaceToDepth", "d", "s", blocksize=2),
    ]
    check(nodes, {"x": array(2, 24, 3, 5)}, None, ["d", "s"])


def test_triangles_and_one_hot():
    constants = {"one": np.array(1), "depth": np.array(6), "v": np.array([-1, 3], np.float32)}
    nodes = [
        node("Trilu", "x", "u"),
        node("Trilu", "x one", "l", upper=0),
        node("OneHot", "i depth v", "o"),
        node("EyeLike", "x", "e"),
    ]
    inputs = {"x": array(9, 17), "i": np.array([0, 5, -1, 2])}
    check(nodes, inputs, constants, ["u", "l", "o", "e"])


def test_einsum():
    inputs = {"a": array(3, 5, 7), "b": array(3, 7, 4)}
    nodes = [
        node("Einsum", "a b", "y", equation="bij,bjk->bik"),
        node("Einsum", "a b", "z", equation="bij,bjk->kb"),
        node("Einsum", "a", "t", equation="bij->jb"),
    ]
    check(nodes, inputs, None, ["y", "z", "t"], length=35)


def test_scalars_and_single_elements():
    inputs = {"x": array(), "z": array(1, 1, 1), "v": array(1)}
    nodes = [
        node("Add", "x x", "a"), node("Mul", "x z", "b"), node("ReduceSum", "z", "c", keepdims=0),
        node("Exp", "v", "d"), node("Softmax", "v", "e", axis=0), node("Transpose", "z", "f"),
        node("Concat", "v v", "g", axis=0), node("MatMul", "v v", "h"), node("Unsqueeze", "x i", "j"),
    ]  # fmt: skip
    check(nodes, inputs, {"i": np.array([0, 1])}, list("abcdefghj"), length=2)


def test_empty_tensors():
    """A concatenation may have empty parts; what comes out has elements."""
    empty = np.zeros((2, 0, 5), np.float32)
    check(node("Concat", "x e", axis=1), {"x": array(2, 3, 5)}, {"e": empty})
    check(node("Concat", "x z", axis=1), {"x": array(2, 3, 5), "z": empty})
    with pytest.raises(AltError, match="no elements"):
        check(node("Relu", "z"), {"z": empty})


RIGHT_OR_REFUSED = {
    "QuantizeLinear": (node("QuantizeLinear", "x s z"), (3, 20)),
    "NonZero": (node("NonZero"), (3, 5)),
    "Unique": (node("Unique"), (5,)),
    "Det": (node("Det"), (4, 4)),
    "GridSample": (node("GridSample", "x g"), (1, 2, 4, 5)),
    "RoiAlign": (node("RoiAlign", "x boxes first", output_height=3, output_width=3), (1, 2, 8, 8)),
    "MaxUnpool": (node("MaxUnpool", "x where", kernel_shape=[2, 2]), (1, 1, 2, 2)),
    "STFT": (node("STFT", "x step - length"), (1, 64, 1)),
}
"""Operators that TVM cannot always express in a form we can take apart."""


@pytest.mark.parametrize("case", RIGHT_OR_REFUSED)
def test_rare_operator_is_right_or_refused(case):
    operator, shape = RIGHT_OR_REFUSED[case]
    constants = {
        "s": np.float32(0.1), "z": np.uint8(128), "g": array(1, 3, 3, 2, low=-1.0), "step": np.array(8),
        "boxes": np.array([[1, 1, 5, 6]], np.float32), "first": np.array([0]),
        "where": np.array([[[[0, 3], [8, 15]]]]), "length": np.array(16),
    }  # fmt: skip
    used = {n: v for n, v in constants.items() if n in operator.input}
    try:
        check(operator, {"x": array(*shape)}, used, operator.output[:1], length=60)
    except AltError as refusal:
        assert "support" in str(refusal) or "cannot" in str(refusal)


def test_two_nodes_without_a_kernel_of_their_own():
    """Views of views, straight to the caller."""
    nodes = [
        node("Identity", "x", "y"),
        node("Transpose", "x", "t", perm=[1, 0]),
        node("Transpose", "t", "z", perm=[1, 0]),
    ]
    check(nodes, {"x": array(3, 5)}, None, ["y", "z", "t"])
    proto = helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0])
    check([node("Constant", [], "c", value=proto)], {"x": array(2)}, None, ["c"])
