"""Reading, preparing and importing ONNX models."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from alt.errors import AltError
from alt.frontend import (
    Imported,
    Value,
    import_model,
    prepare,
    read_model,
    to_relax,
    unsupported,
)
from benchmarks.networks import bert_tiny, light_graphs, mobilenet_v2

os.environ.setdefault("TVM_NUM_THREADS", "1")


def _array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _model(nodes, inputs, outputs, constants=None, opset=17, functions=(), domains=()):
    infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    results = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()]
    weights = [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", infos, results, weights)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def _flatten_by_arithmetic(batch="N"):
    """conv, relu, then torch's `x.view(x.size(0), -1)`, then a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["r", "target"], ["f"]),
        helper.make_node("Identity", ["f"], ["f2"]),
        helper.make_node("Dropout", ["f2"], ["f3"]),
        helper.make_node("Gemm", ["f3", "v", "b"], ["y"], transB=1),
        helper.make_node("Exp", ["r"], ["unused"]),
    ]
    constants = {
        "w": _array(4, 3, 3, 3), "v": _array(5, 64), "b": _array(5), "zero": np.array(0),
        "axes": np.array([0]), "minus": np.array([-1]), "nobody": _array(7),
    }  # fmt: skip
    kinds = {"x": (TensorProto.FLOAT, [batch, 3, 4, 4])}
    return _model(nodes, kinds, {"y": (TensorProto.FLOAT, [batch, 5])}, constants)


def _run(imported: Imported, inputs):
    machine = tvm.relax.VirtualMachine(tvm.compile(imported.module, "llvm"), tvm.cpu())
    arrays = [*(inputs[v.name] for v in imported.inputs), *imported.weights.values()]
    found = machine["main"](*[tvm.runtime.tensor(np.array(a, order="C")) for a in arrays])
    return [found.numpy()] if hasattr(found, "numpy") else [f.numpy() for f in found]


def _expected(model, inputs):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def test_shape_arithmetic_and_dead_code_disappear():
    prepared = prepare(_flatten_by_arithmetic(), shapes={"x": (2, 3, 4, 4)})
    assert [n.op_type for n in prepared.graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    assert "nobody" not in {t.name for t in prepared.graph.initializer}
    onnx.checker.check_model(prepared, full_check=True)


@pytest.mark.llvm
def test_import_is_right_and_keeps_weights_apart():
    model = _flatten_by_arithmetic()
    x = _array(2, 3, 4, 4, seed=1)
    imported = to_relax(prepare(model, shapes={"x": x.shape}))
    assert imported.inputs == (Value("x", (2, 3, 4, 4), "float32"),)
    assert imported.outputs == (Value("y", (2, 5), "float32"),)
    names = [p.name for p in imported.module["main"].params]
    assert names == ["x", *imported.weights]
    assert sorted(imported.weights) == ["b", "v", "w"]
    np.testing.assert_allclose(
        _run(imported, {"x": x})[0], _expected(model, {"x": x})[0], rtol=1e-4
    )


def test_preparing_leaves_the_model_alone():
    model = _flatten_by_arithmetic()
    before = model.SerializeToString()
    prepare(model, shapes={"x": (1, 3, 4, 4)})
    assert model.SerializeToString() == before


def test_importing_twice_is_importing_once():
    prepared = prepare(_flatten_by_arithmetic(2))
    again = prepare(prepared)
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in prepared.graph.node]


@pytest.mark.parametrize("network", ["bert_tiny", "mobilenet_v2"])
def test_networks_need_no_rewriting_of_their_operators(network):
    model = {"bert_tiny": bert_tiny, "mobilenet_v2": mobilenet_v2}[network]()
    imported = import_model(model)
    assert tuple(v.name for v in imported.inputs) == tuple(i.name for i in model.graph.input)
    calls = [b.value for block in imported.module["main"].body.blocks for b in block.bindings]
    assert not any(getattr(getattr(c, "op", None), "name", "") == "relax.call_tir" for c in calls)


def test_light_graphs_import():
    for _name, model in light_graphs(seed=0):
        imported = import_model(model)
        assert imported.outputs[0].shape[:2] == (1, 1000)


def test_constant_fills_take_no_memory():
    fill = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"], value=fill),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    size = 1 << 14
    model = _model(
        nodes, {"x": (1, [1, size])}, {"y": (1, [1, size])}, {"shape": np.array([size, size])}
    )
    weight = import_model(model).weights["w"]
    assert weight.shape == (size, size)
    assert weight.strides == (0, 0)
    assert weight[3, 4] == 0.5


def test_big_expansions_are_not_folded():
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("Add", ["x", "big"], ["y"]),
    ]
    constants = {"one": np.ones((1, 1), np.float32), "shape": np.array([1 << 13, 1 << 12])}
    kind = (1, [1 << 13, 1 << 12])
    prepared = prepare(_model(nodes, {"x": kind}, {"y": kind}, constants))
    assert [n.op_type for n in prepared.graph.node] == ["Expand", "Add"]


@pytest.mark.llvm
def test_inputs_bound_as_constants():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    kinds = {"x": (1, [2, 6]), "shape": (TensorProto.INT64, [2])}
    model = _model(nodes, kinds, {"y": (1, ["a", "b"])})
    with pytest.raises(AltError, match=r"Reshape .*shape is not constant.*constants=\{\}"):
        import_model(model)
    imported = import_model(model, constants={"shape": [3, 4]})
    assert imported.outputs == (Value("y", (3, 4), "float32"),)
    assert [v.name for v in imported.inputs] == ["x"]


@pytest.mark.llvm
def test_local_functions_and_branches_are_inlined():
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Elu", ["s"], ["o"])]
    body[1].attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    )
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "F", ["a"], ["o"], body, opsets, attributes=["alpha"])
    kind = helper.make_tensor_value_info("t", 1, [3])
    branch = helper.make_graph([helper.make_node("Neg", ["f"], ["t"])], "b", [], [kind])
    other = helper.make_graph([helper.make_node("Abs", ["f"], ["t"])], "c", [], [kind])
    nodes = [
        helper.make_node("F", ["x"], ["f"], domain="mine", alpha=0.5),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=other),
    ]
    model = _model(
        nodes, {"x": (1, [3])}, {"y": (1, [3])}, {"flag": np.array(True)},
        functions=[function], domains=["mine"],
    )  # fmt: skip
    x = _array(3)
    imported = import_model(model)
    np.testing.assert_allclose(_run(imported, {"x": x})[0], -(x * x), rtol=1e-5)


@pytest.mark.llvm
def test_odd_names_and_outputs_that_are_inputs():
    nodes = [
        helper.make_node("Relu", ["gpu_0/data.1"], ["1"]),
        helper.make_node("Identity", ["gpu_0/data.1"], ["same"]),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
    ]
    kind = (1, [2])
    model = _model(nodes, {"gpu_0/data.1": kind}, {"1": kind, "same": kind, "c": kind})
    imported = import_model(model)
    x = _array(2)
    assert [v.name for v in imported.inputs] == ["gpu_0/data.1"]
    assert [v.name for v in imported.outputs] == ["1", "same", "c"]
    found = _run(imported, {"gpu_0/data.1": x})
    for ours, wanted in zip(found, (np.maximum(x, 0), x, [1, 2]), strict=True):
        np.testing.assert_allclose(ours, wanted)


def test_all_unsupported_operators_are_listed_even_with_dynamic_dimensions():
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="one"),
        helper.make_node("Celu", ["x"], ["b"], name="function"),
        helper.make_node("Mine", ["b"], ["c"], name="two", domain="mine"),
        helper.make_node("Det", ["c"], ["d"], name="three"),
    ]
    model = _model(
        nodes, {"x": (1, ["n", "n"])}, {"a": (1, None), "d": (1, None)}, domains=["mine"]
    )
    found = [(u.op_type, u.domain, u.nodes) for u in unsupported(model)]
    assert found == [("Det", "", ("one", "three")), ("Mine", "mine", ("two",))]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"input x .*\(N, 3, 4, 4\): dimension 0 \(N\) .*shapes=\{'x': \(1, 3, 4, 4\)\}"),
        (
            {"x": (1, 3, 4)},
            r"bind input x to shape \(1, 3, 4\): the model declares \('N', 3, 4, 4\)",
        ),
        ({"x": (1, 3, 5, 4)}, r"bind input x to shape \(1, 3, 5, 4\): the model declares"),
        ({"z": (1,)}, r"bind input z: the model has no such input, only x"),
    ],
)
def test_bindings_that_do_not_fit(shapes, message):
    with pytest.raises(AltError, match=message):
        prepare(_flatten_by_arithmetic(), shapes=shapes)


def test_files_that_are_not_models(tmp_path):
    with pytest.raises(AltError, match="no such file"):
        read_model(tmp_path / "missing.onnx")
    with pytest.raises(AltError, match="cannot read"):
        read_model(tmp_path)
    content = _flatten_by_arithmetic().SerializeToString()
    for wrong in (b"", b"not a model at all", content[: len(content) // 2], b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "wrong.onnx").write_bytes(wrong)
        with pytest.raises(AltError, match=r"wrong.onnx: it is not an ONNX model") as error:
            read_model(tmp_path / "wrong.onnx")
        assert "\n" not in str(error.value)


def test_invalid_models_are_one_clear_line():
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")]
    with pytest.raises(AltError, match=r"sum .Add. reads ghost, which nothing makes"):
        import_model(_model(nodes, {"x": (1, [2])}, {"y": (1, [2])}))
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], name="product")]
    with pytest.raises(AltError, match=r"node product .MatMul.*[Ii]ncompatible"):
        import_model(_model(nodes, {"x": (1, [2, 3])}, {"y": (1, None)}))


def _with_external_data(folder, location):
    model = _flatten_by_arithmetic()
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(data))}.items():
        tensor.external_data.add(key=key, value=value)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx", data


def test_external_data_inside_the_folder(tmp_path):
    path, data = _with_external_data(tmp_path / "m", "weights.bin")
    with pytest.raises(AltError, match=r"weights.bin: No such file"):
        read_model(path)
    (tmp_path / "m" / "weights.bin").write_bytes(data[:-1])
    with pytest.raises(AltError, match=r"cut short: tensor w has 431 of 432 bytes"):
        read_model(path)
    (tmp_path / "m" / "weights.bin").write_bytes(data)
    assert read_model(path).graph.initializer[0].raw_data == data


@pytest.mark.parametrize("where", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder(tmp_path, where):
    outside = tmp_path / "secret.bin"
    location = {"parent": "../secret.bin", "absolute": str(outside), "link": "link.bin"}[where]
    path, data = _with_external_data(tmp_path / "m", location)
    outside.write_bytes(data)
    if where == "link":
        (tmp_path / "m" / "link.bin").symlink_to(outside)
    with pytest.raises(AltError, match=r"tensor w lies in .*outside the model's folder"):
        read_model(path)
