"""The networks are the published ones, valid, reproducible, and compute something comparable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from benchmarks.networks import (
    NETWORKS,
    bert_base,
    bert_tiny,
    inputs_for,
    light_graph,
    light_names,
    mobilenet_v2,
    resnet3d18,
    resnet18,
)

# Hundreds of megabytes of weights in their fully connected layers.
HEAVY = ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512")

SMALL = {
    "resnet18": resnet18(batch=2, size=64),
    "mobilenet_v2": mobilenet_v2(size=64),
    "bert_tiny": bert_tiny(tokens=24),
    "resnet3d18": resnet3d18(frames=4, size=32),
}


def run(model: onnx.ModelProto, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(output) for output in session.run(None, inputs)]


def parameters(model: onnx.ModelProto) -> int:
    """Trainable values: all float weights but scalars and batch-norm statistics."""
    statistics = {
        name
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    }
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and tensor.dims
        and tensor.name not in statistics
    )


def multiplications(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of the convolutions and fully connected layers."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    return sum(
        math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    )


# As published with torchvision's weights (`num_params`, `_ops`) and by the BERT authors.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("mobilenet_v2", 3_504_872),
        ("resnet3d18", 33_371_472),
        ("bert_tiny", 4_385_920),
    ],
)
def test_parameter_count_is_the_published_one(name: str, count: int) -> None:
    assert parameters(NETWORKS[name]()) == count


@pytest.mark.slow
def test_bert_base_is_valid_and_has_the_published_parameter_count() -> None:
    model = bert_base(tokens=16)
    assert parameters(model) == 109_482_240
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("name", "giga"), [("resnet18", 1.814), ("mobilenet_v2", 0.301), ("resnet3d18", 40.697)]
)
def test_multiplications_are_the_published_ones(name: str, giga: float) -> None:
    assert round(multiplications(NETWORKS[name]()) / 1e9, 3) == giga


@pytest.mark.parametrize("name", SMALL)
def test_network_is_valid_and_its_activations_are_of_order_one(name: str) -> None:
    model = SMALL[name]
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, inputs_for(model, seed=3))
    for declared, actual in zip(model.graph.output, outputs, strict=True):
        dims = declared.type.tensor_type.shape.dim
        assert actual.shape == tuple(dim.dim_value for dim in dims)
        assert np.isfinite(actual).all()
        assert 0.1 < actual.std() < 10


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", [(2, 1000)]),
        ("mobilenet_v2", [(1, 1000)]),
        ("bert_tiny", [(1, 24, 128), (1, 128)]),
        ("resnet3d18", [(1, 400)]),
    ],
)
def test_output_shapes(name: str, shapes: list[tuple[int, ...]]) -> None:
    model = SMALL[name]
    outputs = run(model, inputs_for(model))
    assert [output.shape for output in outputs] == shapes


@pytest.mark.parametrize("name", ["mobilenet_v2", "bert_tiny"])
def test_seed_decides_the_weights(name: str) -> None:
    first, again, other = (NETWORKS[name](seed=s).SerializeToString() for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_batch_norm_is_kept_with_statistics_that_matter() -> None:
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in SMALL["resnet18"].graph.initializer}
    norms = [n for n in SMALL["resnet18"].graph.node if n.op_type == "BatchNormalization"]
    assert len(norms) == 20
    for node in norms:
        scale, bias, mean, variance = (weights[name] for name in node.input[1:])
        assert (variance > 0).all()
        assert all(values.std() > 0.01 for values in (scale, bias, mean, variance))


def test_decomposed_layer_norm_computes_the_same() -> None:
    fused, decomposed = bert_tiny(tokens=12), bert_tiny(tokens=12, layer_norm="decomposed")
    assert "LayerNormalization" in {node.op_type for node in fused.graph.node}
    assert "LayerNormalization" not in {node.op_type for node in decomposed.graph.node}
    inputs = inputs_for(fused)
    for a, b in zip(run(fused, inputs), run(decomposed, inputs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_masked_tokens_are_not_attended() -> None:
    model = SMALL["bert_tiny"]
    inputs = inputs_for(model)
    seen = inputs["attention_mask"][0].astype(bool)
    assert 0 < (~seen).sum() < seen.size
    changed = inputs | {"input_ids": np.where(seen, inputs["input_ids"], 7)}
    unmasked = changed | {"attention_mask": np.ones_like(inputs["attention_mask"])}
    before, after, attended = (run(model, i)[0][0, seen] for i in (inputs, changed, unmasked))
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert np.abs(before - attended).max() > 1e-2


def test_inputs_stay_within_their_tables_and_follow_the_seed() -> None:
    model = bert_tiny(batch=3, tokens=40)
    first, other = inputs_for(model, seed=1), inputs_for(model, seed=2)
    assert {name: array.shape for name, array in first.items()} == {
        "input_ids": (3, 40),
        "attention_mask": (3, 40),
        "token_type_ids": (3, 40),
    }
    assert first["input_ids"].min() >= 0 and 2 < first["input_ids"].max() < 30522
    assert set(np.unique(first["token_type_ids"])) == {0, 1}
    assert (first["input_ids"] != other["input_ids"]).any()


def test_there_are_nine_light_graphs() -> None:
    assert len(light_names()) == 9


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in light_names()]
)
def test_light_graph_computes_something_comparable(name: str) -> None:
    model = light_graph(name, seed=1)
    if name not in HEAVY:  # a full check copies the model
        onnx.checker.check_model(model, full_check=True)
    assert [
        tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input
    ] == [(1, 3, 224, 224)]
    assert "ConstantOfShape" not in {node.op_type for node in model.graph.node}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.ptp(onnx.numpy_helper.to_array(tensor)) > 0, tensor.name
    (output,) = run(model, inputs_for(model, seed=1))
    assert output.size == 1000 and np.isfinite(output).all()
    is_softmax = model.graph.node[-1].op_type == "Softmax"
    assert output.max() < (0.9 if is_softmax else 50)
    assert output.std() > 0.1 * np.abs(output).mean()
