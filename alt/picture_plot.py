"""Pictures of networks without Graphviz: layers from top to bottom, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import networkx as nx
import numpy as np

from alt.errors import AltError
from alt.picture import TEXT, Box, Picture

_SWEEPS = 12
_LETTER, _LINE = 0.078, 0.17
"""Inches that a letter is wide and a line of text high."""
_GAP, _RISE = 0.35, 0.55
"""Inches between neighbours and between layers."""
_BEND = (0.15, 0.5)
"""Inches that an edge takes where it passes a layer."""
_HEAD = 0.06
_MAX_PIXELS = 30_000
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}

Places = dict[Hashable, tuple[float, float]]
Sizes = Mapping[Hashable, tuple[float, float]]


def layered(graph: nx.DiGraph, sizes: Sizes) -> Places:
    """The middle of each node: layers from top to bottom, few crossings.

    Args:
        graph: without cycles. Edges should go from a layer to the next.
        sizes: width and height of each node.

    Units:
        Those of the sizes; y grows downwards from 0.

    Source:
        K. Sugiyama, S. Tagawa, M. Toda, Methods for visual understanding of hierarchical system
        structures, IEEE Transactions on Systems, Man, and Cybernetics 11 (1981).

    Example:
        >>> sizes = dict.fromkeys("abc", (2.0, 1.0))
        >>> places = layered(nx.DiGraph([("a", "b"), ("a", "c")]), sizes)
        >>> {v: round(y, 2) for v, (_, y) in places.items()}
        {'a': 0.5, 'b': 2.05, 'c': 2.05}
    """
    layers = [list(layer) for layer in nx.topological_generations(graph)]
    x: dict[Hashable, float] = {}
    for layer in layers:
        _spread(layer, [float(n) for n in range(len(layer))], sizes, x)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else layers[::-1]:
            neighbours = [
                list(graph.predecessors(v) if down else graph.successors(v)) for v in layer
            ]
            wanted = [
                fmean(x[n] for n in near) if near else x[v]
                for v, near in zip(layer, neighbours, strict=True)
            ]
            pairs = sorted(zip(wanted, layer, strict=True), key=lambda pair: pair[0])
            layer[:] = [v for _, v in pairs]
            _spread(layer, [place for place, _ in pairs], sizes, x)
    places: Places = {}
    top = 0.0
    for layer in layers:
        height = max(sizes[v][1] for v in layer)
        places.update((v, (x[v], top + height / 2)) for v in layer)
        top += height + _RISE
    return places


def _spread(
    layer: Sequence[Hashable], wanted: Sequence[float], sizes: Sizes, x: dict[Hashable, float]
) -> None:
    """Put a layer in its order as near to where its nodes want to be as they fit."""
    blocks: list[tuple[float, list[Hashable], float]] = []
    for v, place in zip(layer, wanted, strict=True):
        # The left edge wanted by a block of touching nodes is the mean of what they want.
        left, nodes, width = place - sizes[v][0] / 2, [v], sizes[v][0] + _GAP
        while blocks and blocks[-1][0] + blocks[-1][2] > left:
            other, before, offset = blocks.pop()
            share = len(before) + len(nodes)
            left = (other * len(before) + (left - offset) * len(nodes)) / share
            nodes, width = before + nodes, offset + width
        blocks.append((left, nodes, width))
    for left, nodes, _ in blocks:
        for v in nodes:
            x[v] = left + sizes[v][0] / 2
            left += sizes[v][0] + _GAP


def plot(picture: Picture, path: Path) -> None:
    """Draw a picture with matplotlib, as the suffix of the path says.

    Raises:
        AltError: if matplotlib is not there.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
        from matplotlib.patches import Ellipse, FancyBboxPatch
    except ImportError as error:
        raise AltError(
            f"cannot draw {path}: neither Graphviz nor matplotlib is there; install one: "
            "apt install graphviz, or pip install matplotlib"
        ) from error
    sizes: dict[Hashable, tuple[float, float]] = {
        number: _size(box) for number, box in enumerate(picture.boxes)
    }
    graph, routes = _with_bends(picture, sizes)
    places = layered(graph, sizes)
    left = min(places[v][0] - sizes[v][0] / 2 for v in places) - 0.6
    right = max(places[v][0] + sizes[v][0] / 2 for v in places) + 0.6
    bottom = max(places[v][1] + sizes[v][1] / 2 for v in places) + 0.3
    # Text stays text, so that one can search for it.
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(right - left, bottom + 0.3))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, -0.3))
        axes.axis("off")
        lines = [_line(route, places, sizes) for route in routes]
        colors = [picture.edge_color(edge) for edge in picture.edges]
        axes.add_collection(LineCollection(lines, colors=colors, linewidths=1, zorder=1))
        heads = np.array([line[-1] for line in lines]).reshape(-1, 2) - [0, _HEAD / 2]
        axes.scatter(*heads.T, c=colors, marker="v", s=20, zorder=1)
        for edge, line, color in zip(picture.edges, lines, colors, strict=True):
            x, y = np.mean(line[-2:], axis=0)
            axes.text(x, y, edge.layout, color=color, bbox=_WHITE, **_text(8), zorder=3)
        for number, box in enumerate(picture.boxes):
            (x, y), (width, height) = places[number], sizes[number]
            style = {"facecolor": box.color, "edgecolor": box.line_color, "zorder": 2}
            if box.kind in ("kernel", "conversion"):
                corner = (x - width / 2 + 0.08, y - height / 2 + 0.08)
                patch = FancyBboxPatch(
                    corner, width - 0.16, height - 0.16, boxstyle="round,pad=0.08", **style
                )
            else:
                patch = Ellipse((x, y), width, height, **style)
            axes.add_patch(patch)
            for row, line in enumerate(box.lines):
                offset = (row - (len(box.lines) - 1) / 2) * _LINE
                axes.text(x, y + offset, line, color=TEXT, **_text(9), zorder=4)
        dpi = min(120.0, _MAX_PIXELS / max(right - left, bottom + 0.3))
        figure.savefig(path, dpi=dpi)


def _line(route: Sequence[Hashable], places: Places, sizes: Sizes) -> list[tuple[float, float]]:
    """From the lower edge of the first node to the upper edge of the last, upright at bends."""
    points: list[tuple[float, float]] = []
    for v in route:
        (x, y), half = places[v], sizes[v][1] / 2
        points += [(x, y - half), (x, y + half)]
    return points[1:-1]


def _text(points: int) -> dict[str, Any]:
    return {"ha": "center", "va": "center", "fontsize": points, "parse_math": False}


def _size(box: Box) -> tuple[float, float]:
    """Width and height in inches; ellipses need more room around their text."""
    round_ = 1.0 if box.kind in ("kernel", "conversion") else 1.35
    width = max(map(len, box.lines)) * _LETTER * round_ + 0.25
    return width, len(box.lines) * _LINE * round_ + 0.16


def _with_bends(
    picture: Picture, sizes: dict[Hashable, tuple[float, float]]
) -> tuple[nx.DiGraph, list[list[Hashable]]]:
    """The graph with a small node wherever an edge passes a layer, and the way of each edge."""
    plain = nx.DiGraph()
    plain.add_nodes_from(range(len(picture.boxes)))
    plain.add_edges_from((e.source, e.target) for e in picture.edges)
    layer = {
        v: depth for depth, layer in enumerate(nx.topological_generations(plain)) for v in layer
    }
    graph = nx.DiGraph()
    graph.add_nodes_from(plain)
    routes: list[list[Hashable]] = []
    for number, edge in enumerate(picture.edges):
        bends = [("bend", number, d) for d in range(layer[edge.source] + 1, layer[edge.target])]
        sizes.update(dict.fromkeys(bends, _BEND))
        routes.append([edge.source, *bends, edge.target])
        nx.add_path(graph, routes[-1])
    return graph, routes
