"""Indexing and movement, resizing and padding, and operators that are seldom seen."""

from __future__ import annotations

import numpy as np
import pytest
from equivalence import WINOGRAD, array, check, model, node
from onnx import TensorProto, helper

import alt
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


@pytest.mark.parametrize("shape", [(9, 17), (2, 1031, 3)])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sums(shape, reverse, exclusive):
    ways = {"reverse": reverse, "exclusive": exclusive}
    nodes = [
        node("CumSum", "x one", "y", **ways),
        node("CumSum", "x last", "z", **ways),
        node("CumSum", "i one", "j", **ways),
    ]
    inputs = {"x": array(*shape), "i": np.arange(np.prod(shape)).reshape(shape) % 7}
    constants = {"one": np.array(1), "last": np.array(-1)}
    check(nodes, inputs, constants, ["y", "z", "j"], length=shape[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_with_ties(axis, largest):
    nodes = [
        node("TopK", "x k", "y i", axis=axis, largest=largest),
        node("TopK", "n k", "z j", axis=axis, largest=largest),
    ]
    inputs = {"x": array(5, 17, 7), "n": np.arange(5 * 17 * 7).reshape(5, 17, 7) % 11}
    inputs["x"][:, 3:9] = inputs["x"][:, 4:5]
    check(nodes, inputs, {"k": np.array([4])}, ["y", "i", "z", "j"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_top_k_of_other_types(dtype):
    inputs = {"x": np.random.default_rng(0).permutation(60).reshape(4, 15).astype(dtype)}
    for outputs in (["y", "i"], ["y"], ["i"]):
        check(node("TopK", "x k", "y i"), inputs, {"k": np.array([15])}, outputs)


@pytest.mark.parametrize(("shape", "most", "axis", "why"), [
    ((5000,), 3, 0, "5000 elements"),
    ((100_000, 300), 3, 1, "takes too long"),
    ((3, 4), 6, 1, "requested k"),
    ((3, 4), 2, 2, "axis"),
    ((), 1, 0, "axis"),
])  # fmt: skip
def test_top_k_that_cannot_be_had_is_refused(shape, most, axis, why):
    inputs = {"x": np.zeros(shape, np.float32)}
    with pytest.raises(AltError, match=why):
        check(node("TopK", "x k", "y i", axis=axis), inputs, {"k": np.array([most])})


@pytest.mark.parametrize("operator", [
    node("CumSum", "x two", "y"),
    node("ScatterElements", "x i u", axis=2),
    node("ScatterElements", "x i u", axis=-3),
    node("ScatterElements", "x one u"),
    node("ScatterND", "x deep u"),
    node("ScatterND", "x rows u", reduction="wild"),
    node("LSTM", "x w r", hidden_size=5),
    node("MaxPool", "x"),
    node("AveragePool", "x"),
], ids=lambda n: n.op_type)  # fmt: skip
def test_what_is_no_valid_onnx_is_refused(operator):
    constants = {
        "two": np.array(2), "one": np.array([0]), "deep": np.zeros((3, 3), np.int64),
        "rows": np.array([[1]]), "w": array(1, 20, 4), "r": array(1, 20, 5),
    }  # fmt: skip
    inputs = {"x": array(3, 4), "i": np.zeros((3, 4), np.int64), "u": array(1, 4)}
    used = {name: value for name, value in inputs.items() if name in operator.input}
    known = {name: value for name, value in constants.items() if name in operator.input}
    with pytest.raises(AltError):
        check(operator, used, known)


def test_the_last_update_wins():
    inputs = {"x": array(6, 5), "u": array(3, 5, seed=1)}
    there = {"n": np.array([[2], [4], [2]]), "i": np.array([[2], [4], [2]]) + np.zeros((3, 5), int)}
    wanted = inputs["x"].copy()
    wanted[4], wanted[2] = inputs["u"][1:]
    nodes = [node("ScatterND", "x n u", "y"), node("ScatterElements", "x i u", "z")]
    for constants in (there, {}):
        fed = inputs | ({} if constants else there)
        compiled = alt.compile(model(nodes, fed, ["y", "z"], constants))
        for found in compiled(**fed):
            np.testing.assert_array_equal(found, wanted)


def test_updates_out_of_range_go_nowhere():
    """ONNX leaves it open; another place is not written."""
    inputs = {"x": array(6, 5), "u": array(3, seed=1), "i": np.array([[0, 7], [-9, 1], [1, 1]])}
    wanted = inputs["x"].copy()
    wanted[1, 1] = inputs["u"][2]
    compiled = alt.compile(model([node("ScatterND", "x i u")], inputs, ["y"]))
    np.testing.assert_array_equal(compiled(**inputs), wanted)


def test_scatter_of_truths():
    inputs = {
        "x": array(4, 5) > 0.5,
        "i": np.array([[3, 0, 1]]),
        "u": np.array([[True, False, True]]),
    }
    nodes = [node("ScatterElements", "x i u", "y"), node("ScatterElements", "x i u", "z", axis=1)]
    check(nodes, inputs, None, ["y", "z"])


def test_scatter_at_constant_indices():
    constants = {
        "n": np.array([[[1], [-1]], [[0], [1]]]),
        "p": np.array([[0, 1], [5, -2], [2, 2]]),
    }
    inputs = {"x": array(6, 5, 3), "u": array(2, 2, 5, 3, seed=1), "v": array(3, 3, seed=2)}
    nodes = [
        node("ScatterND", "x n u", "y"),
        node("ScatterND", "x p v", "z"),
        node("ScatterND", "x p v", "s", reduction="add"),
        node("ScatterND", "x p v", "t", reduction="max"),
    ]
    check(nodes, inputs, constants, ["y", "z", "s", "t"])


def test_scatter_at_indices_of_the_input():
    inputs = {"x": array(6, 5, 3), "u": array(2, 5, 3), "v": array(3, 3, seed=1)}
    inputs |= {"i": np.array([[1], [-2]]), "p": np.array([[0, 1], [5, -2], [2, 2]])}
    nodes = [node("ScatterND", "x i u", "y"), node("ScatterND", "x p v", "z")]
    check(nodes, inputs, None, ["y", "z"])
    with pytest.raises(AltError, match="reduction=add"):
        check(node("ScatterND", "x i u", reduction="add"), inputs)


def test_scatters_that_cannot_be_right_or_quick_are_refused():
    small, large = (
        {"x": array(6, 5), "u": array(1, 5)},
        {"x": array(20000, 1), "u": array(20000, 1)},
    )
    for place in (6, -7):
        with pytest.raises(AltError, match="out of range"):
            check(node("ScatterND", "x n u"), small, {"n": np.array([[place]])})
    anywhere = {"i": np.zeros((20000, 1), np.int64)}
    for operator in ("ScatterND", "ScatterElements"):
        with pytest.raises(AltError, match="20000 elements with 20000 others"):
            check(node(operator, "x i u"), {**large, **anywhere})


def test_recurrent_without_steps_is_refused():
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    last = node("LSTM", "x w r", ["", "h"], hidden_size=5)
    with pytest.raises(AltError, match="without elements"):
        check(last, {"x": np.zeros((0, 1, 7), "f4")}, constants, ["h"])


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("others", [(3, 20, 5), (2, 11, 1)])
def test_scatter_elements(others, axis, reduction):
    shape = list(others)
    shape[axis] = 7
    indices = np.random.default_rng(0).integers(-3, 3, shape)
    inputs = {"x": array(3, 20, 5), "i": indices, "u": array(*shape, seed=1)}
    scatter = node("ScatterElements", "x i u", axis=axis, reduction=reduction)
    if reduction == "none":
        # Where two indices name one place, either may be the last to write: both write the same.
        kept = tuple(slice(20 if d == axis % 3 else n) for d, n in enumerate(others))
        inputs["u"] = np.take_along_axis(array(3, 20, 5, seed=1)[kept], indices, axis)
    check(scatter, inputs, length=9)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(kind, gates, state, direction):
    both = 1 + (direction == "bidirectional")
    constants = {
        "w": array(both, gates * 5, 7) / 3,
        "r": array(both, gates * 5, 5) / 3,
        "b": array(both, 2 * gates * 5),
    }
    inputs, outputs = {"x": array(6, 3, 7)}, ["y", "h"] + ["c"] * (kind == "LSTM")
    if state:
        inputs |= {f"{n}0": array(both, 3, 5, seed=k) for k, n in enumerate(outputs[1:])}
    named = ["x", "w", "r", "b" if state else "", "", *list(inputs)[1:]]
    ways = {"hidden_size": 5, "direction": direction}
    check(node(kind, named, outputs, **ways), inputs, constants, outputs, length=60)
    if kind == "GRU":
        made = node(kind, named, outputs, linear_before_reset=1, **ways)
        check(made, inputs, constants, outputs, length=60)


@pytest.mark.parametrize("outputs", ["y", "- h", "- - c", "y - c"])
def test_some_outputs_of_a_recurrent_operator(outputs):
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    names = ["" if name == "-" else name for name in outputs.split()]
    usual = ["Sigmoid", "tanh", "Tanh"]
    for more in ({}, {"activations": usual}):
        operator = node("LSTM", ["x", "w", "r", "", "", "h0"], names, hidden_size=5, **more)
        inputs = {"x": array(4, 2, 7), "h0": array(1, 2, 5, seed=1)}
        check(operator, inputs, constants, [n for n in names if n], length=60)


@pytest.mark.parametrize("unusual", [
    {"activations": ["Relu", "Tanh", "Tanh"]}, {"clip": 0.5}, {"input_forget": 1}, {"layout": 1},
    "lengths", "peepholes",
], ids=str)  # fmt: skip
@pytest.mark.parametrize("known", [False, True])
def test_unusual_recurrent_operators_are_refused(unusual, known):
    """Folded they are not, either: ONNX's reference takes no notice of most of this."""
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    named, inputs = ["x", "w", "r"], {"x": array(4, 2, 7)}
    if unusual == "lengths":
        named, constants = [*named, "", "l"], constants | {"l": np.array([4, 3], np.int32)}
    elif unusual == "peepholes":
        named, constants = [*named, "", "", "", "", "p"], constants | {"p": array(1, 15)}
    ways = unusual if isinstance(unusual, dict) else {}
    operator = node("LSTM", named, hidden_size=5, **ways)
    if known:
        inputs, constants = {}, constants | inputs
    with pytest.raises(AltError, match="not supported"):
        check(operator, inputs, constants)


def test_recurrent_of_many_steps_is_refused():
    constants = {"w": array(1, 20, 7), "r": array(1, 20, 5)}
    with pytest.raises(AltError, match="500 steps"):
        check(node("LSTM", "x w r", hidden_size=5), {"x": array(500, 1, 7)}, constants)


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
