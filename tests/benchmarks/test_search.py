"""The benchmark of searches: its tables, its operators, and a tiny run of each kind."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.__main__ import main
from benchmarks.operators import Operator, operators_of
from benchmarks.protocol import Timing, relative_error
from benchmarks.search import WAYS, Duel, Found, duels_table, ways_table

POINTWISE = Operator((1, 16, 6, 6), (24, 16, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), count=2)
STRIDED = Operator((1, 16, 9, 9), (16, 8, 3, 3), (2, 2), ((1, 1), (0, 1)), (1, 1), groups=2)
LINE = Operator((2, 8, 20), (16, 8, 5), (1,), ((2, 2),), (1,))
VOLUME = Operator((1, 3, 5, 6, 7), (16, 3, 3, 3, 3), (1, 2, 2), ((1, 1),) * 3, (1, 1, 1))
PRODUCT = Operator((7, 32), (32, 40))
OPERATORS = [POINTWISE, STRIDED, LINE, VOLUME, PRODUCT]


def timed(way, *samples, **more):
    return Found(way, timing=Timing(samples), **more)


def test_ways_are_compared_with_the_first_round_by_round():
    results = [
        timed("joint", 1.0, 2.0, variant="joint", trials=64),
        timed("WP", 2.0, 4.0),
        Found("OL NCHW", problem="wrong: it is"),
    ]
    header, rows = ways_table(results)
    assert [row[header.index("gain")] for row in rows] == ["1.000", "0.500", "-"]
    assert rows[0][header.index("ms")] == "1500.000" and rows[0][header.index("trials")] == "64"
    assert rows[2][-1] == "wrong: it is" and all(len(row) == len(header) for row in rows)


def test_several_searches_of_a_way_have_a_row_each_and_a_mean():
    results = [
        timed("untuned", 4.0, 4.0),
        timed("joint", 1.0, 1.0),
        timed("WP", 2.0, 2.0),
        timed("WP", 8.0, 8.0, seed=1),
        timed("joint", 4.0, 4.0, seed=1),
        Found("joint", seed=2, problem="no"),
    ]
    header, rows = ways_table(results)
    gain = header.index("gain")
    assert [row[0] for row in rows[:6]] == [
        "untuned", "joint", "WP", "WP, seed 1", "joint, seed 1", "joint, seed 2",
    ]  # fmt: skip
    assert [(row[0], row[gain]) for row in rows[6:]] == [
        ("geomean of joint, 2 of 3", "2.000"), ("geomean of WP, 2 of 2", "1.000"),
    ]  # fmt: skip
    assert all(len(row) == len(header) for row in rows)


def test_duels_have_a_geometric_mean_over_those_that_were_fought():
    duels = [
        Duel("a", timed("MetaSchedule", 4.0), timed("trials", 1.0), timed("seconds", 2.0)),
        Duel("b", timed("MetaSchedule", 1.0), timed("trials", 1.0), Found("seconds", problem="no")),
        Duel("c", Found("MetaSchedule"), timed("trials", 1.0), timed("seconds", 2.0)),
    ]
    header, rows = duels_table(duels)
    assert [row[header.index("equal trials")] for row in rows] == ["4.00", "1.00", "-", "2.00", "-"]
    assert [row[header.index("equal seconds")] for row in rows] == ["2.00", "-", "-", "2.00", "-"]
    assert rows[1][-1] == "no" and rows[-2][0] == "geomean"


def test_the_sum_of_duels_counts_every_operator_as_often_as_it_occurs():
    duels = [
        Duel("twice", timed("them", 3.0), timed("t", 1.0), timed("s", 2.0), count=2),
        Duel("once", timed("them", 4.0), timed("t", 8.0), timed("s", 1.0)),
    ]
    header, rows = duels_table(duels)
    assert rows[-1][header.index("equal trials")] == "1.00"  # 2 * 3 + 4 by 2 * 1 + 8
    assert rows[-1][header.index("equal seconds")] == "2.00"


@pytest.mark.parametrize("arguments", [
    ["--network", "no such file"], ["--trials", "0"], ["--minutes", "-1"], ["--ways", "joint,wild"],
    ["--ways", ""], ["--against", "metaschedule", "--minutes", "1"], ["--against", "nobody"],
    ["--json", "/no/such/folder/x.json"], ["--searches", "0"], ["--operators", "1"],
    ["--against", "metaschedule", "--searches", "2"],
    ["--against", "metaschedule-network", "--ways", "joint"],
    ["--against", "metaschedule-network", "--operators", "1"],
])  # fmt: skip
def test_what_cannot_be_asked_is_refused_in_a_line(arguments, capsys):
    with pytest.raises(SystemExit) as refusal:
        main(["search", *arguments])
    assert refusal.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_ways_there_are_are_named(capsys):
    for names, unknown in (("joint,wild", "wild"), ("", "''")):
        with pytest.raises(SystemExit):
            main(["search", "--ways", names])
        assert f"unknown: {unknown}; choose from joint, " in capsys.readouterr().err


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_both_tuners_get_the_same_operator(operator):
    """The model is a valid one with these weights; the function is compared with it below."""
    model = operator.model(seed=1)
    onnx.checker.check_model(model, full_check=True)
    x, w, b = operator.arrays(seed=1)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": x})
    assert np.isfinite(found).all() and (found >= 0).all() and found.max() > 0
    names = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert (names["w"] == w).all() and (names["b"] == b).all()


@pytest.mark.llvm
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_the_function_computes_what_the_model_does(operator):
    import tvm

    x, w, b = operator.arrays(seed=1)
    session = onnxruntime.InferenceSession(operator.model(seed=1).SerializeToString())
    (wanted,) = session.run(None, {"x": x})
    tensors = [tvm.runtime.tensor(a) for a in (x, w, b, np.full_like(wanted, np.nan))]
    target = tvm.target.Target("llvm")
    tvm.compile(tvm.IRModule({"main": operator.function()}), target)["main"](*tensors)
    assert relative_error([tensors[-1].numpy()], [wanted]) < 1e-5


@pytest.mark.llvm
def test_operators_are_those_of_the_network_each_once(tmp_path):
    from alt.compiler import fused
    from alt.propagate import plan_layouts
    from alt.tasks import tasks_of

    for operator in (STRIDED, PRODUCT):
        network = fused(operator.model(seed=0), threads=1)
        plan = plan_layouts(network.graph, network.kernels, network.machine)
        constants = network.graph.constants
        tasks = tasks_of(network.kernels, constants, network.machine, plan)
        assert operators_of(tasks.values()) == [operator]


@pytest.mark.llvm
@pytest.mark.slow
def test_a_tiny_run_of_some_ways(tmp_path, capsys):
    onnx.save(POINTWISE.model(seed=0), tmp_path / "model.onnx")
    arguments = ["--network", str(tmp_path / "model.onnx"), "--trials", "6", "--threads", "1"]
    arguments += ["--ways", "joint,OL NCHW", "--searches", "2"]
    arguments += ["--repeats", "2", "--sample-ms", "1"]
    assert main(["search", *arguments, "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "OL NCHW, seed 1" in printed and "geomean of joint" in printed
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [r["way"] for r in results] == ["untuned", "joint", "OL NCHW", "OL NCHW", "joint"]
    assert [r["seed"] for r in results] == [0, 0, 0, 1, 1]
    assert [r["trials"] for r in results] == [0, 6, 6, 6, 6]
    assert all(len(r["timing"]["samples"]) == 2 and r["error"] < 1e-3 for r in results)


@pytest.mark.llvm
@pytest.mark.slow
def test_a_tiny_run_against_metaschedule(tmp_path, capsys):
    onnx.save(POINTWISE.model(seed=0), tmp_path / "model.onnx")
    arguments = ["--network", str(tmp_path / "model.onnx"), "--trials", "4", "--threads", "1"]
    arguments += ["--against", "metaschedule", "--repeats", "2", "--sample-ms", "1", "--markdown"]
    assert main(["search", *arguments]) == 0
    printed = capsys.readouterr().out
    assert POINTWISE.name in printed


@pytest.mark.llvm
@pytest.mark.slow
def test_a_tiny_network_against_metaschedule(tmp_path, capsys):
    """With a batch normalisation, and weights that it lays out anew."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y0"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["y0", "s", "b", "m", "v"], ["y1"]),
        helper.make_node("Relu", ["y1"], ["y2"]),
        helper.make_node("Flatten", ["y2"], ["y3"]),
        helper.make_node("MatMul", ["y3", "p"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": (8,), "p": (288, 10)}
    weights = [
        numpy_helper.from_array(rng.random(shape, dtype=np.float32), name)
        for name, shape in shapes.items()
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, 6, 6)), ("y", (1, 10)))
    ]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "tiny.onnx")
    arguments = ["--network", str(tmp_path / "tiny.onnx"), "--trials", "4", "--threads", "1"]
    arguments += ["--against", "metaschedule-network", "--repeats", "2", "--sample-ms", "1"]
    out = tmp_path / "out.json"
    assert main(["search", *arguments, "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())["results"]
    assert found["metaschedule"]["trials"] > 4 and found["metaschedule"]["error"] < 1e-5
    assert found["trials"]["timing"] and found["seconds"]["timing"]


def test_every_way_has_a_name_of_its_own():
    assert all(name == way.name for name, way in WAYS.items()) and "joint" in WAYS
