"""What is open about a complex operator: its algorithm, and how it stores what it reads and writes.

The answers travel with the anchor of a kernel, as attributes: `layout` and `loops`, each a
configuration by name. Without them every question is answered by rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alt.graph import Node, Value
from alt.kernels import Kernel, with_anchor
from alt.policies import JOINT, LayoutPolicy
from alt.sketches.windows import is_depthwise, wants_blocks
from alt.storage import channels_blocked
from alt.target import Machine
from alt.winograd import choose_winograd, grid_of, winograd_kernels, winograd_sizes
from primitives import LayoutError
from tuner.choices import Choose, Given, Infeasible
from tuner.config import Config

COMPLEX = ("conv", "conv_transpose")
"""Anchors that choose layouts, by the names they have before they are decided upon."""

BLOCKS, ROWS = "blocks", "rows"
_WINOGRAD = "winograd"


@dataclass(frozen=True)
class Storage:
    """How a convolution is computed, and the layouts at its ends.

    Attributes:
        algorithm: `blocks` (vectors of channels), `rows` (vectors along the last axis of row-major
            tensors) or `winograd2` and `winograd4`, by the size of an output tile.
        read: how many channels of the first input lie next to each other; 1 for rows.
        write: likewise of the output.
        chunk: how many tiles of Winograd's are multiplied together; 0 without it.
    """

    algorithm: str
    read: int
    write: int
    chunk: int = 0

    @property
    def tile(self) -> int:
        """The size of Winograd's output tile, 0 without it."""
        return int(self.algorithm.removeprefix(_WINOGRAD)) if self.chunk else 0


def decide_storage(
    choose: Choose,
    anchor: Node,
    machine: Machine,
    policy: LayoutPolicy = JOINT,
    winograd: bool = True,
) -> Storage:
    """Ask for the algorithm and the layouts of a convolution; the defaults are the compiler's rule.

    Templates as in the paper: blocks of input and output channels of one to four vectors, or all of
    them (NHWC), rows (NCHW); the weights follow the register tile, which the loops decide.

    Args:
        choose: who answers.
        anchor: a convolution.
        machine: what the code is for.
        policy: a fixed format leaves the algorithm only.
        winograd: whether Winograd's algorithm may be used.

    Raises:
        Infeasible: if a layout would take more memory than the policy allows.

    Source:
        ALT (EuroSys 2023, arXiv 2210.12415), layout templates.
    """
    lanes = machine.lanes()
    if policy.format == "NCHW" or not wants_blocks(anchor, lanes):
        return Storage(ROWS, 1, 1)
    x, output = anchor.inputs[0], anchor.output
    sizes = winograd_sizes(anchor, machine) if winograd else ()
    best = choose_winograd(anchor, machine) if sizes else 0
    options = [BLOCKS, *(f"{_WINOGRAD}{m}" for m in sizes)]
    refusal = why_not_blocks(anchor, machine, policy)
    if policy.format is None:
        options.append(ROWS)
    default = ROWS if refusal else f"{_WINOGRAD}{best}" if best else BLOCKS
    if default not in options:
        options.append(default)
    algorithm = choose.one_of("algorithm", options, default)
    if algorithm == ROWS:
        return Storage(ROWS, 1, 1)
    few = x.shape[1] * 2 <= lanes and not is_depthwise(anchor)
    read = 1 if few else choose.one_of("read", *_blocks(x.shape[1], lanes, policy))
    writes, rule = _blocks(output.shape[1], lanes, policy)
    if output.shape[1] % lanes == 0 and policy.format is None:
        writes = (1, *writes)
    write = choose.one_of("write", writes, rule)
    for value, block in ((x, read), (output, write)):
        _check(value, block, policy)
    if algorithm == BLOCKS:
        return Storage(BLOCKS, read, write)
    m = int(algorithm.removeprefix(_WINOGRAD))
    grid = grid_of(m, *output.shape[-2:])
    return Storage(algorithm, read, write, choose.tile("chunk", grid.tiles, grid.chunk, at_most=64))


def why_not_blocks(anchor: Node, machine: Machine, policy: LayoutPolicy) -> str:
    """Why a convolution that could has no blocks of channels: the memory they would take."""
    lanes = machine.lanes()
    if policy.format == "NCHW" or not wants_blocks(anchor, lanes):
        return ""
    try:
        for value in (anchor.output, *(anchor.inputs[:1] if is_depthwise(anchor) else ())):
            block = policy.block(value.shape[1], lanes)
            policy.check(channels_blocked(value.shape, block, ()))
    except LayoutError as refusal:
        return str(refusal)
    return ""


def _blocks(channels: int, lanes: int, policy: LayoutPolicy) -> tuple[tuple[int, ...], int]:
    """The blocks worth trying, and the one that is taken by rule."""
    rule = policy.block(channels, lanes)
    if policy.format:
        return (rule,), rule
    every = -(-channels // lanes) * lanes
    return tuple(sorted({every, *(b for b in (lanes, 2 * lanes, 4 * lanes) if b <= every)})), rule


def _check(value: Value, block: int, policy: LayoutPolicy) -> None:
    try:
        policy.check(channels_blocked(value.shape, block, ()))
    except LayoutError as refusal:
        raise Infeasible(str(refusal)) from refusal


def decided(kernel: Kernel, layout: Config, loops: Config) -> Kernel:
    """The kernel with answers for its sketch and for the layouts around it."""
    anchor = kernel.anchor
    assert anchor is not None
    attrs = {**anchor.attrs, "layout": layout, "loops": loops}
    return with_anchor(kernel, replace(anchor, attrs=attrs))


def with_storage(kernel: Kernel, storage: Storage, machine: Machine, name: str) -> list[Kernel]:
    """The kernels that compute a convolution this way: two for Winograd's algorithm.

    Args:
        kernel: a kernel with a convolution as its anchor.
        storage: how to compute it. Its layouts are noted only if the kernel was `decided` upon;
            otherwise they follow from the network around it.
        machine: what the code is for.
        name: a fresh name for a tensor in between.
    """
    anchor = kernel.anchor
    assert anchor is not None
    attrs = {k: v for k, v in anchor.attrs.items() if k != "layout"}
    if "layout" in anchor.attrs:
        attrs |= {"read": storage.read, "write": storage.write}
    if storage.algorithm == ROWS and wants_blocks(anchor, machine.lanes()):
        attrs |= {"rows": True}
    kernel = with_anchor(kernel, replace(anchor, attrs=attrs))
    if not storage.tile:
        return [kernel]
    return list(winograd_kernels(kernel, storage.tile, storage.chunk, machine, name))


def storage_of(
    kernel: Kernel, machine: Machine, policy: LayoutPolicy, winograd: bool
) -> Storage | None:
    """How a kernel's convolution is computed: as decided, or by rule; None for other kernels."""
    anchor = kernel.anchor
    if anchor is None or anchor.op not in COMPLEX:
        return None
    answers = Given(anchor.attrs.get("layout", {}), strict=False)
    return decide_storage(answers, anchor, machine, policy, winograd)
