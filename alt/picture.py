"""A network as a picture: kernels, the layouts of the tensors between them, conversions in colour.

Drawn by Graphviz where its program `dot` is at hand, else by matplotlib.
"""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alt.errors import AltError
from alt.storage import block_of, border_of, channels_blocked
from primitives import Layout

SUFFIXES = (".svg", ".png", ".dot")

Kind = Literal["kernel", "conversion", "joined", "input", "output"]

CONVERSION, CONVERSION_LINE, LINE, TEXT = "#ffc078", "#e8590c", "#868e96", "#212529"
_QUIET, _HOT = (241, 243, 245), (77, 171, 247)
_PLAIN = {"input": "#d3f9d8", "output": "#d3f9d8", "joined": "#ffffff", "conversion": CONVERSION}
_LINE_LETTERS, _LINES = 30, 3


@dataclass(frozen=True)
class Box:
    """One thing in the picture.

    Attributes:
        kind: a kernel, a conversion (a kernel that only changes a layout), tensors joined by being
            written side by side, or what the caller gives and gets.
        lines: what is written in it.
        heat: 0 to 1, its time as a share of the slowest kernel's.
    """

    kind: Kind
    lines: tuple[str, ...]
    heat: float = 0.0

    @property
    def color(self) -> str:
        """The fill: kernels are the bluer the longer they take."""
        if self.kind != "kernel":
            return _PLAIN[self.kind]
        mixed = (round(a + (b - a) * self.heat) for a, b in zip(_QUIET, _HOT, strict=True))
        return "#" + "".join(f"{channel:02x}" for channel in mixed)

    @property
    def line_color(self) -> str:
        """The outline."""
        return CONVERSION_LINE if self.kind == "conversion" else LINE


@dataclass(frozen=True)
class Edge:
    """A tensor on its way from one box to another (their positions), and how it is stored."""

    source: int
    target: int
    layout: str


@dataclass(frozen=True)
class Picture:
    """What is to be drawn."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]

    def edge_color(self, edge: Edge) -> str:
        """Orange next to a conversion."""
        around = self.boxes[edge.source], self.boxes[edge.target]
        return CONVERSION_LINE if any(b.kind == "conversion" for b in around) else LINE


def short_layout(layout: Layout) -> str:
    """A layout in a few letters.

    Example:
        >>> short_layout(Layout.identity((1, 32, 7, 7)))
        'rows'
        >>> short_layout(channels_blocked((1, 32, 7, 7), 16, ((1, 1), (1, 1))))
        '16c +border'
        >>> short_layout(Layout.parse("4x6 reorder(1,0)"))
        'reorder(1,0)'
    """
    block, border = block_of(layout), border_of(layout)
    if layout != channels_blocked(layout.logical_shape, block, border):
        return str(layout).partition(" ")[2]
    bordered = " +border" if any(lo or hi for lo, hi in border) else ""
    return ("rows" if block == 1 else f"{block}c") + bordered


def picture_of(header: Mapping[str, Any], seconds: Sequence[float] | None = None) -> Picture:
    """What there is to draw of a module.

    Args:
        header: of the module.
        seconds: the time of each kernel, if it was measured.

    Raises:
        AltError: if the module was saved before headers said which tensors are the same.
    """
    kernels = header["kernels"]
    if not all("value" in kernel["output"] for kernel in kernels):
        raise AltError(
            "cannot draw this artifact: the ALT that saved it did not note which kernel reads "
            "what; compile the model again"
        )
    slowest = max(seconds or (), default=0.0) or 1.0
    boxes = [Box("input", (s["name"], _shape(s["shape"]))) for s in header["inputs"]]
    edges: list[Edge] = []
    maker: dict[int, int] = {}
    for position, kernel in enumerate(kernels):
        box, output = len(boxes), kernel["output"]
        spent = None if seconds is None else seconds[position]
        boxes.append(_kernel_box(kernel, spent, slowest))
        for tensor in kernel["inputs"]:
            if tensor["constant"]:
                continue
            source = maker[tensor["value"]] if tensor["input"] is None else tensor["input"]
            edges.append(Edge(source, box, _layout(tensor)))
        maker[output["value"]] = box
        # Nothing computes a tensor whose parts are written where they belong.
        for whole in output["inside"]:
            known = whole in maker
            if not known:
                maker[whole] = len(boxes)
                boxes.append(Box("joined", ("joined in place",)))
            edges.append(Edge(box, maker[whole], _layout(output)))
            if known:
                break
            box = maker[whole]
    for kernel in kernels:
        for number in kernel["output"]["outputs"]:
            signature = header["outputs"][number]
            edges.append(Edge(maker[kernel["output"]["value"]], len(boxes), "rows"))
            boxes.append(Box("output", (signature["name"], _shape(signature["shape"]))))
    return Picture(tuple(boxes), tuple(edges))


def _kernel_box(kernel: Mapping[str, Any], seconds: float | None, slowest: float) -> Box:
    converts = kernel["conversion"] is not None
    name = "conversion" if converts else kernel["name"]
    # Break where names do: after an underscore.
    wrapped = textwrap.wrap(name.replace("_", "_ "), _LINE_LETTERS, max_lines=_LINES)
    lines = [line.replace("_ ", "_") for line in wrapped] or [name]
    facts = _shape(kernel["output"]["shape"])
    if seconds is not None:
        facts += f"   {seconds * 1e6:.1f} us"
    heat = 0.0 if seconds is None else seconds / slowest
    return Box("conversion" if converts else "kernel", (*lines, facts), heat)


def _layout(tensor: Mapping[str, Any]) -> str:
    return short_layout(Layout.parse(tensor["layout"]))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def dot_text(picture: Picture) -> str:
    """The picture in Graphviz's language.

    Example:
        >>> made = Picture((Box("input", ("x",)), Box("kernel", ("relu",))), (Edge(0, 1, "rows"),))
        >>> print(dot_text(made).splitlines()[-2].strip())
        b0 -> b1 [label=" rows ", color="#868e96", fontcolor="#868e96"];
    """
    lines = [
        "digraph network {",
        '  graph [rankdir=TB, nodesep=0.35, ranksep=0.45, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", margin="0.14,0.06"];',
        f'  node [fontname="Helvetica", fontsize=11, fontcolor="{TEXT}"];',
        '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.6];',
    ]
    for number, box in enumerate(picture.boxes):
        text = "\\n".join(map(_escaped, box.lines))
        shape = ", shape=ellipse" if box.kind in ("input", "output", "joined") else ""
        fill = f'fillcolor="{box.color}", color="{box.line_color}"'
        lines.append(f'  b{number} [label="{text}", {fill}{shape}];')
    for edge in picture.edges:
        color = picture.edge_color(edge)
        label = f'label=" {_escaped(edge.layout)} "'
        colors = f'color="{color}", fontcolor="{color}"'
        lines.append(f"  b{edge.source} -> b{edge.target} [{label}, {colors}];")
    return "\n".join([*lines, "}", ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def draw(picture: Picture, path: Path) -> None:
    """Draw it as `.svg` or `.png`, or write what Graphviz reads as `.dot`.

    Raises:
        AltError: for another suffix, if neither Graphviz nor matplotlib is there, or if the file
            cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise AltError(f"cannot draw {path}: the name must end in {', '.join(SUFFIXES)}")
    program = shutil.which("dot")
    try:
        if path.suffix == ".dot":
            path.write_text(dot_text(picture), encoding="utf-8")
        elif program is not None:
            _graphviz(program, picture, path)
        else:
            # Late, since it takes a second and not everybody has it.
            from alt.picture_plot import plot

            plot(picture, path)
    except OSError as error:
        raise AltError(f"cannot write {path}: {error.strerror or error}") from error


def _graphviz(program: str, picture: Picture, path: Path) -> None:
    made = subprocess.run(
        [program, f"-T{path.suffix[1:]}"],
        input=dot_text(picture).encode(),
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        said = made.stderr.decode(errors="replace").strip().splitlines()
        raise AltError(f"cannot draw {path}: {program} said: {said[-1] if said else 'nothing'}")
    path.write_bytes(made.stdout)
