"""What a cost model sees of a candidate, and what it should take by rule of thumb.

The memory features come from the real stored index: the addresses that one register tile reads and
writes are computed through the layouts, and their cache lines, pages and cache sets are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2, prod

import numpy as np

from alt.graph import Node, Value
from alt.kernels import Kernel
from alt.sketches import sketch_for
from alt.sketches.scope import Scope
from alt.sketches.windows import geometry, is_depthwise, phases
from alt.target import Machine
from primitives import Layout
from tuner.choices import Given
from tuner.config import Config

LINE_BYTES, PAGE_BYTES, SETS = 64, 4096, 64
"""Of the first-level cache, and of memory, of every x86 and ARM server we know."""

CYCLES_PER_SECOND = 3e9
"""Only ratios of estimates matter."""

NAMES = (
    "operations",
    "rows",
    "columns",
    "vectors",
    "accumulators by registers",
    "loads by products",
    "waste",
    "tasks",
    "imbalance",
    "reduction",
    "panel by first level",
    "weights by second level",
    "input by second level",
    "output by second level",
    "lines read",
    "pages read",
    "lines of the fullest set read",
    "lines written",
    "pages written",
    "unroll",
    "weights outermost",
    "taps outermost",
    "is depthwise",
    "is rows",
    "is winograd",
    "winograd tile",
    "is matmul",
    "is attention",
    "chunk",
    "panel copied by first level",
)
"""What each number means; sizes are logarithms to base 2."""


@dataclass(frozen=True)
class Subject:
    """A candidate of a task.

    Attributes:
        kernels: what it runs; the last one has the anchor that `loops` is about.
        layouts: how tensors are stored; by rows where not listed.
        constants: contents of the weights.
        loops: the answers of the sketch.
        machine: what the code is for.
    """

    kernels: Sequence[Kernel]
    layouts: Mapping[Value, Layout]
    constants: Mapping[Value, np.ndarray]
    loops: Config
    machine: Machine


@dataclass(frozen=True)
class Shape:
    """The product that a kernel computes, and how it is cut.

    Attributes:
        images: independent products: batch, groups, Winograd's points.
        rows: rows of positions of one.
        columns: positions in a row.
        outputs: results at a position.
        reduction: products that are summed for one.
        tile: rows, columns and vectors of a register tile.
        lanes: results in a vector.
        tasks: pieces that run in parallel.
    """

    images: int
    rows: int
    columns: int
    outputs: int
    reduction: int
    tile: tuple[int, int, int]
    lanes: int
    tasks: int

    @property
    def waste(self) -> float:
        """Work done for work needed: tiles that do not fill vectors or rows."""
        vectors = self.tile[2]
        padded = -(-self.outputs // (vectors * self.lanes)) * vectors * self.lanes
        return padded / self.outputs

    def cycles(self, machine: Machine) -> float:
        """Of one core, for everything: products, or loads where these take longer."""
        _, _, vectors = self.tile
        panel = self.reduction * self.lanes * vectors * 4
        load = 1.0 if panel <= machine.l1_bytes // 2 else 2.0
        total = 0.0
        for height, many in _pieces(self.rows, self.tile[0]):
            for width, times in _pieces(self.columns, self.tile[1]):
                positions = height * width
                spilled = max(0, positions * vectors + vectors + 1 - machine.registers)
                step = max(positions * vectors, 0.5 * positions + load * vectors, 8.0)
                total += many * times * (step + 2 * spilled)
        tiles = -(-self.outputs // (vectors * self.lanes))
        return self.images * tiles * total * self.reduction / 2


def describe_candidate(subject: Subject) -> list[float]:
    """One number for each of `NAMES`."""
    kernel, layouts = subject.kernels[-1], subject.layouts
    loops, machine = subject.loops, subject.machine
    anchor = kernel.anchor
    assert anchor is not None
    shape, notes = _shape(subject)
    rows, columns, vectors = shape.tile
    accumulators = rows * columns * vectors
    read, written = _touched(anchor, layouts, shape)
    weights = shape.outputs * shape.reduction * 4 * (shape.images if "grid" in anchor.attrs else 1)
    x, output = anchor.inputs[0], kernel.output
    order = str(notes.get("order", ""))
    grid = anchor.attrs.get("grid", (0, 0, 0, 0))
    return [
        log2(max(2 * shape.images * shape.rows * shape.columns * shape.outputs, 2))
        + log2(shape.reduction),
        log2(rows),
        log2(columns),
        log2(vectors),
        accumulators / machine.registers,
        (rows * columns + vectors) / accumulators,
        shape.waste,
        log2(shape.tasks),
        -(-shape.tasks // machine.cores) * machine.cores / shape.tasks,
        log2(shape.reduction),
        log2(shape.reduction * shape.lanes * vectors * 4 / machine.l1_bytes),
        log2(weights / machine.l2_bytes),
        log2(_cells(x, layouts) * 4 / machine.l2_bytes),
        log2(_cells(output, layouts) * 4 / machine.l2_bytes),
        *read,
        *written[:2],
        float(str(loops.get("unroll", 1))),
        float(order.startswith("channels") or loops.get("tasks") == "columns"),
        float(loops.get("reduce") == "taps"),
        float(anchor.op == "conv" and is_depthwise(anchor)),
        float(bool(anchor.attrs.get("rows"))),
        float(anchor.op == "winograd"),
        float(grid[0]),
        float(anchor.op == "matmul"),
        float(anchor.op == "attention"),
        log2(max(grid[3], 1)),
        log2(1 + float(str(notes.get("panel_bytes", 0))) / machine.l1_bytes),
    ]


def estimate_seconds(subject: Subject) -> float:
    """Arithmetic, and memory that has to come from beyond the second-level cache.

    Good for telling hopeless candidates, not for ranking the rest.
    """
    machine = subject.machine
    shape, _ = _shape(subject)
    busy = min(machine.cores, shape.tasks)
    cycles = shape.cycles(machine) / busy
    tensors = {v for k in subject.kernels for v in (*k.inputs, k.output)}
    traffic = sum(_cells(v, subject.layouts) * 4 for v in tensors)
    return (cycles + max(0, traffic - machine.l2_bytes) / 16) / CYCLES_PER_SECOND


def _shape(subject: Subject) -> tuple[Shape, Mapping[str, object]]:
    kernel, machine = subject.kernels[-1], subject.machine
    choose = Given(subject.loops, strict=False)
    scope = Scope(kernel, subject.layouts, subject.constants, machine, choose, asking=True)
    sketch_for(scope)(scope)
    anchor = kernel.anchor
    assert anchor is not None
    tile: list[int] = scope.notes.get("tile", [1, 1, 1])
    lanes = machine.lanes()
    a, b, output = anchor.inputs[0], anchor.inputs[1], anchor.output
    match anchor.op:
        case "winograd":
            _, depth, chunks, points, _, chunk, _ = a.shape
            images = output.shape[0] * prod(output.shape[2:-2]) * chunks * points
            size = (
                1,
                chunk,
                output.shape[1],
                anchor.attrs["channels"] * max(depth - prod(output.shape[2:-2]) + 1, 1),
            )
        case "conv" | "conv_transpose":
            groups, channels, outputs = geometry(anchor)
            phase = phases(anchor)[0]
            *outer, width = phase.count
            height = outer.pop() if outer else 1
            images = output.shape[0] * prod(outer) * len(phases(anchor))
            size = height, width, outputs, channels * max(prod(phase.taps), 1)
            if is_depthwise(anchor):
                images, size = images * -(-groups // lanes), (height, width, lanes, size[3])
            elif anchor.attrs.get("rows"):
                run: int = scope.notes.get("run", width)
                every = prod(phase.count)
                images = output.shape[0] * len(phases(anchor)) * groups * -(-every // run)
                size = 1, outputs, run, size[3]
            else:
                images *= groups
        case "attention":
            *batch, queries, _ = a.shape
            images, size = prod(batch), (1, queries, b.shape[-1], a.shape[-1])
        case _:
            width = b.shape[-1] if len(b.shape) > 1 else 1
            images = 1
            size = 1, max(output.size // max(width, 1), 1), width, a.shape[-1]
    rows, columns, outputs, reduction = size
    pieces = images * -(-rows // tile[0]) * -(-outputs // (lanes * tile[2]))
    return (
        Shape(
            images,
            max(rows, 1),
            max(columns, 1),
            max(outputs, 1),
            max(reduction, 1),
            (tile[0], tile[1], tile[2]),
            lanes,
            max(pieces, 1),
        ),
        scope.notes,
    )


def _touched(
    anchor: Node, layouts: Mapping[Value, Layout], shape: Shape
) -> tuple[list[float], list[float]]:
    """Lines, pages and lines of the fullest set that a register tile reads and writes."""
    rows, columns, vectors = shape.tile
    x, output = anchor.inputs[0], anchor.output
    wide = vectors * shape.lanes
    if anchor.op not in ("conv", "conv_transpose"):
        read = np.arange(columns)[:, None] * x.shape[-1] + np.arange(min(x.shape[-1], 64))
        width = output.shape[-1] if output.shape else 1
        written = np.arange(columns)[:, None] * width + np.arange(min(wide, width))
        return _spread(read), _spread(written)
    if anchor.attrs.get("rows"):
        rows, columns, wide = 1, vectors * shape.lanes, columns
    phase = phases(anchor)[0]
    spatial = len(phase.count)
    down = min(rows, phase.count[-2]) if spatial > 1 else 1
    across = min(columns, phase.count[-1])
    channels = 1 if is_depthwise(anchor) else min(geometry(anchor)[1], 16)
    at = np.meshgrid(
        np.arange(channels),
        np.arange(down),
        np.arange(across),
        *(np.arange(t) for t in phase.taps),
        indexing="ij",
    )
    places = [*([np.zeros_like(at[0])] * (spatial - 2)), *([at[1]] if spatial > 1 else []), at[2]]
    inside = [
        np.clip(p * s + t * d + o, 0, extent - 1)
        for p, s, t, d, o, extent in zip(
            places, phase.stride, at[3:], phase.dilation, phase.offset, x.shape[2:], strict=True
        )
    ]
    read = _addresses(x, layouts, [np.zeros_like(at[0]), at[0], *inside])
    put = np.meshgrid(
        np.arange(min(wide, output.shape[1])), np.arange(down), np.arange(across), indexing="ij"
    )
    there = [*([np.zeros_like(put[0])] * (spatial - 2)), *([put[1]] if spatial > 1 else []), put[2]]
    written = _addresses(output, layouts, [np.zeros_like(put[0]), put[0], *there])
    return _spread(read), _spread(written)


def _addresses(
    value: Value, layouts: Mapping[Value, Layout], indices: Sequence[np.ndarray]
) -> np.ndarray:
    layout = layouts.get(value, Layout.identity(value.shape))
    cells = [np.broadcast_to(i, indices[0].shape) for i in layout.forward(list(indices))]
    total = np.zeros(indices[0].shape, np.int64)
    for cell, extent in zip(cells, layout.shape, strict=True):
        total = total * extent + cell
    return total


def _spread(addresses: np.ndarray) -> list[float]:
    lines = np.unique(addresses.reshape(-1) * 4 // LINE_BYTES)
    pages = np.unique(lines * LINE_BYTES // PAGE_BYTES)
    fullest = np.bincount(lines % SETS).max()
    return [log2(lines.size), log2(pages.size), log2(int(fullest))]


def _cells(value: Value, layouts: Mapping[Value, Layout]) -> int:
    layout = layouts.get(value)
    return max(value.size if layout is None else layout.elements, 1)


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    whole, rest = divmod(extent, size)
    return [p for p in ((size, whole), (rest, 1 if rest else 0)) if p[1]]
