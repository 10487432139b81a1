"""Pictures of networks: every kernel, layout and conversion is in them, whoever draws."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import networkx as nx
import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import arithmetic, model_of, network, random

import alt
from alt import picture as drawing
from alt.cli import main
from alt.picture import CONVERSION, Picture, dot_text, draw, picture_of, short_layout
from alt.storage import channels_blocked
from primitives import Layout

pytestmark = pytest.mark.llvm

DRAWERS = (
    "matplotlib",
    pytest.param(
        "graphviz", marks=pytest.mark.skipif(not shutil.which("dot"), reason="needs Graphviz")
    ),
)


def joined():
    """Two convolutions whose outputs are written side by side, and one that reads them."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "left", pads=[1] * 4),
        helper.make_node("Conv", ["x", "w1"], ["b"], "right", pads=[1] * 4),
        helper.make_node("Concat", ["a", "b"], ["c"], "concat", axis=1),
        helper.make_node("Conv", ["c", "w2"], ["y"], "last"),
    ]
    weights = {"w0": random(32, 32, 3, 3), "w1": random(32, 32, 3, 3), "w2": random(8, 64, 1, 1)}
    return model_of(
        nodes,
        {"x": (TensorProto.FLOAT, [1, 32, 9, 9])},
        {"y": (TensorProto.FLOAT, [1, 8, 9, 9])},
        weights,
    )


MODELS = {"network": network, "arithmetic": arithmetic, "joined": joined}


@pytest.fixture(scope="module", params=MODELS)
def header(request):
    module = alt.compile(MODELS[request.param](), winograd=False)
    return json.loads(json.dumps(module.header))


def texts(path):
    """How often each text stands in an SVG file."""
    root = ET.parse(path).getroot()
    found = ("".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("}text"))
    return Counter(re.sub(r"\s+", " ", text) for text in found)


def expected(picture):
    lines = [line for box in picture.boxes for line in box.lines]
    return Counter(re.sub(r"\s+", " ", t) for t in (*lines, *(e.layout for e in picture.edges)))


def by(monkeypatch, drawer):
    if drawer == "matplotlib":
        monkeypatch.setattr(drawing.shutil, "which", lambda name: None)


def test_boxes_and_edges_are_those_of_the_module(header):
    seconds = [1e-6 * (n + 1) for n in range(len(header["kernels"]))]
    picture = picture_of(header, seconds)
    kernels = [b for b in picture.boxes if b.kind in ("kernel", "conversion")]
    for box, kernel, spent in zip(kernels, header["kernels"], seconds, strict=True):
        assert (box.kind == "conversion") == (kernel["conversion"] is not None)
        name = "conversion" if kernel["conversion"] else kernel["name"]
        assert "".join(box.lines[:-1]) == name
        shape = "x".join(map(str, kernel["output"]["shape"])) or "scalar"
        assert box.lines[-1] == f"{shape}   {spent * 1e6:.1f} us"
    assert max(b.heat for b in kernels) == 1.0
    for kind in ("input", "output"):
        names = [b.lines[0] for b in picture.boxes if b.kind == kind]
        assert sorted(names) == sorted(s["name"] for s in header[kind + "s"])
    graph = nx.DiGraph((e.source, e.target) for e in picture.edges)
    assert nx.is_directed_acyclic_graph(graph)
    for number, box in enumerate(picture.boxes):
        assert bool(graph.in_degree(number)) == (box.kind != "input")
        assert bool(graph.out_degree(number)) == (box.kind != "output")


def test_every_edge_says_how_the_tensor_is_stored(header):
    picture = picture_of(header)
    kernels = [n for n, b in enumerate(picture.boxes) if b.kind in ("kernel", "conversion")]
    for box, kernel in zip(kernels, header["kernels"], strict=True):
        read = [
            short_layout(Layout.parse(t["layout"])) for t in kernel["inputs"] if not t["constant"]
        ]
        assert [e.layout for e in picture.edges if e.target == box] == read
        written = short_layout(Layout.parse(kernel["output"]["layout"]))
        sources = [e.layout for e in picture.edges if e.source == box]
        # Who gets a tensor reads it as it was written.
        assert set(sources) == {written}


def test_tensors_written_side_by_side_meet():
    module = alt.compile(joined(), winograd=False)
    picture = picture_of(module.header)
    (meeting,) = [n for n, b in enumerate(picture.boxes) if b.kind == "joined"]
    before = [picture.boxes[e.source].lines[0] for e in picture.edges if e.target == meeting]
    after = [picture.boxes[e.target].lines[0] for e in picture.edges if e.source == meeting]
    assert (before, len(after)) == (["conv2d", "conv2d"], 1)


@pytest.mark.parametrize("drawer", DRAWERS)
def test_everything_is_in_the_svg(header, drawer, tmp_path, monkeypatch):
    by(monkeypatch, drawer)
    picture = picture_of(header, [1e-6] * len(header["kernels"]))
    path = tmp_path / "network.svg"
    draw(picture, path)
    missing = expected(picture) - texts(path)
    assert not missing
    conversions = sum(b.kind == "conversion" for b in picture.boxes)
    assert path.read_text().count(CONVERSION) == conversions


@pytest.mark.parametrize("drawer", DRAWERS)
def test_png(drawer, tmp_path, monkeypatch):
    by(monkeypatch, drawer)
    path = tmp_path / "network.png"
    draw(Picture((drawing.Box("input", ("x",)),), ()), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_dot_has_every_box_and_edge(header, tmp_path):
    picture = picture_of(header)
    path = tmp_path / "network.dot"
    draw(picture, path)
    text = path.read_text()
    assert text == dot_text(picture)
    assert len(re.findall(r"^  b\d+ \[", text, re.M)) == len(picture.boxes)
    found = re.findall(r'^  b(\d+) -> b(\d+) \[label=" (.*?) "', text, re.M)
    assert found == [(str(e.source), str(e.target), e.layout) for e in picture.edges]


def test_names_cannot_break_the_dot_text():
    text = dot_text(Picture((drawing.Box("input", ('a"b\\c\nd',)),), ()))
    assert r'label="a\"b\\c d"' in text


def test_short_layouts():
    shape = (1, 20, 8, 8)
    none, one = ((0, 0), (0, 0)), ((1, 0), (0, 1))
    found = [short_layout(channels_blocked(shape, b, p)) for b in (1, 8) for p in (none, one)]
    assert found == ["rows", "rows +border", "8c", "8c +border"]
    assert short_layout(Layout.identity((4, 6)).split(0, (2, 2))) == "split(0,2,2)"


def test_boxes_of_a_layer_do_not_overlap():
    pytest.importorskip("matplotlib")
    from alt.picture_plot import _GAP, layered

    rng = np.random.default_rng(0)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(60))
    graph.add_edges_from(
        (p, n) for n in range(1, 60) for p in {int(i) for i in rng.integers(0, n, 2)}
    )
    sizes = {n: (float(rng.uniform(0.5, 3)), float(rng.uniform(0.2, 1))) for n in graph}
    places = layered(graph, sizes)
    assert all(places[a][1] < places[b][1] for a, b in graph.edges)
    for layer in nx.topological_generations(graph):
        row = sorted(layer, key=lambda n: places[n][0])
        for a, b in pairwise(row):
            apart = places[b][0] - places[a][0]
            assert apart >= (sizes[a][0] + sizes[b][0]) / 2 + _GAP - 1e-9


def test_older_artifacts_are_refused_with_a_reason(header):
    for kernel in header["kernels"]:
        del kernel["output"]["value"]
    with pytest.raises(alt.AltError, match="compile the model again"):
        picture_of(header)


def test_without_anything_to_draw_with(tmp_path, monkeypatch):
    by(monkeypatch, "matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(alt.AltError, match="install one: apt install graphviz, or pip install"):
        draw(Picture((), ()), tmp_path / "network.svg")
    assert not list(tmp_path.iterdir())


def test_other_suffixes_are_refused(tmp_path, capsys):
    with pytest.raises(alt.AltError, match=r"must end in \.svg, \.png, \.dot"):
        draw(Picture((), ()), tmp_path / "network.pdf")
    with pytest.raises(SystemExit) as caught:
        main(["explain", "model.alt", "--graph", "network.pdf"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "network.pdf must end in .svg" in error and error.count("\n") == 1


def test_a_folder_that_is_not_there_is_said_before_compiling(capsys):
    assert main(["explain", "missing.onnx", "--graph", "missing/n.svg"]) == 1
    assert "there is no folder missing" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".onnx", ".alt"])
def test_the_command_line_draws(suffix, tmp_path, capsys):
    model = tmp_path / f"model{suffix}"
    if suffix == ".alt":
        alt.compile(network()).save(model)
    else:
        model.write_bytes(network().SerializeToString())
    path = tmp_path / "network.dot"
    assert main(["explain", str(model), "--graph", str(path), "--json", "--quiet"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert Path(data["picture"]) == path
    kernels = [k for k in data["kernels"] if k["conversion"] is None]
    text = path.read_text()
    assert text.count(CONVERSION) == len(data["kernels"]) - len(kernels) > 0
    for kernel in data["kernels"]:
        assert f"{kernel['seconds'] * 1e6:.1f} us" in text
