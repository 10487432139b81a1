"""How activations may be stored on a GPU, and which kernels can do with what."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import prod
from typing import Literal

from alt.cuda.gpu import Gpu
from alt.errors import AltError
from alt.gpu_winograd import sizes_on_gpu
from alt.graph import Value
from alt.kernels import Kernel
from alt.plan import Plan
from alt.policies import LayoutPolicy
from alt.storage import channels_blocked
from primitives import Layout
from tuner.choices import Choose

Format = Literal["NCHW", "NHWC", "NCHWc"]
"""By rows; channels innermost; blocks of as many channels as a thread reads at once."""

FORMATS: tuple[Format, ...] = ("NCHW", "NHWC", "NCHWc")

COMPLEX = ("conv", "conv_transpose")
"""Anchors that may read one format and write another."""


@dataclass(frozen=True)
class Label:
    """The formats at the ends of a kernel, and how it is computed.

    Attributes:
        read: of what it works on.
        write: of its output, and of what is added to that.
        tile: the size of an output tile of Winograd's algorithm; 0 without it.
    """

    read: Format
    write: Format
    tile: int = 0

    def __str__(self) -> str:
        return f"{self.read},{self.write}" + (f",winograd{self.tile}" if self.tile else "")


def block_in(value: Value, fmt: Format, lanes: int) -> int:
    """How many channels of a tensor lie next to each other in a format; 1 if it is rows after all.

    No format pads: where channels do not fill whole blocks, and where there is but one place or one
    channel, a tensor is stored by rows.

    >>> x = Value("x", (2, 24, 7, 7), "float32")
    >>> block_in(x, "NCHW", 4), block_in(x, "NHWC", 4), block_in(x, "NCHWc", 4)
    (1, 24, 4)
    """
    if len(value.shape) < 3 or value.dtype != "float32" or not value.size:
        return 1
    channels, places = value.shape[1], prod(value.shape[2:])
    if fmt == "NCHW" or places == 1:
        return 1
    if fmt == "NHWC":
        return channels
    return lanes if channels % lanes == 0 else 1


def layout_in(value: Value, fmt: Format, lanes: int) -> Layout:
    """How a tensor is stored in a format."""
    return channels_blocked(value.shape, block_in(value, fmt, lanes), ())


def formats_of(policy: LayoutPolicy) -> tuple[Format, ...]:
    """The formats that convolutions may have.

    Raises:
        AltError: if the policy is about how layouts spread: here all are chosen together.
    """
    if policy.format is not None:
        return (policy.format,)
    if not (policy.upstream and policy.downstream):
        raise AltError(
            f"layouts={policy.name!r} is for CPUs; on a GPU use 'joint', or one of the formats "
            f"{', '.join(FORMATS)}"
        )
    return FORMATS


@dataclass(frozen=True)
class Ends:
    """Which tensors of a kernel follow its label; all others are read by rows.

    Attributes:
        first: inputs in the format that it reads.
        alike: inputs in the format that it writes.
        free: whether the two formats may differ.
        writes: whether the output follows the label, too.
    """

    first: tuple[Value, ...] = ()
    alike: tuple[Value, ...] = ()
    free: bool = False
    writes: bool = True

    def wants(self, value: Value, label: Label) -> Format:
        """How the kernel reads a tensor."""
        if value in self.first:
            return label.read
        return label.write if value in self.alike else "NCHW"

    def stores(self, label: Label) -> Format:
        """How the kernel writes its output."""
        return label.write if self.writes else "NCHW"


ROWS = Ends(writes=False)


def ends_of(kernel: Kernel, constants: Container[Value]) -> Ends:
    """Which tensors of a kernel may be stored otherwise than by rows.

    What a kernel reads through a view or only by rows (a matrix product) stays by rows: another
    kernel converts it.
    """
    anchor, output = kernel.anchor, kernel.output
    relabelled = {v for n in kernel.nodes if n.op in ("view", "gather") for v in n.inputs}
    direct = [v for v in kernel.inputs if v not in relabelled and v not in constants]
    same = tuple(v for v in direct if v.shape == output.shape)
    if anchor is None:
        if same and all(n.op == "map" for n in kernel.nodes):
            return Ends(first=same)
        return ROWS
    if anchor.op in COMPLEX:
        x = anchor.inputs[0]
        return Ends((x,), tuple(v for v in same if v not in anchor.inputs), free=True)
    if anchor.op == "pool":
        return Ends(tuple(dict.fromkeys((anchor.inputs[0], *same))))
    if anchor.op == "concat":
        shapes = {v.shape for v in anchor.inputs}
        return Ends(tuple(v for v in direct if v.shape in shapes or v.shape == output.shape))
    if anchor.op == "reduce":
        shape = anchor.inputs[0].shape
        return Ends(tuple(v for v in direct if v.shape == shape), writes=False)
    return ROWS


def decide_label(
    choose: Choose,
    kernel: Kernel,
    gpu: Gpu,
    policy: LayoutPolicy,
    default: Label | None = None,
    winograd: bool = True,
) -> Label | None:
    """Ask for the formats of a convolution, and how it is computed; None for other kernels.

    Args:
        choose: who answers.
        kernel: of the network.
        gpu: what the code is for.
        policy: a fixed format leaves nothing to ask.
        default: without an answer; rows, or the policy's one format, where it is not given.
        winograd: whether Winograd's algorithm may be used.

    Source:
        ALT (EuroSys 2023, arXiv 2210.12415), layout templates: here of channels alone.
    """
    anchor = kernel.anchor
    if anchor is None or anchor.op not in COMPLEX:
        return None

    def ask(name: str, value: Value, usual: Format | None) -> Format:
        options: dict[int, Format] = {}
        for fmt in formats_of(policy):
            options.setdefault(block_in(value, fmt, gpu.lanes()), fmt)
        if usual is not None:  # what is planned may be no format of the policy
            options.setdefault(block_in(value, usual, gpu.lanes()), usual)
        default = options[block_in(value, usual or next(iter(options.values())), gpu.lanes())]
        return choose.one_of(name, tuple(options.values()), default)

    usual = (None, None, 0) if default is None else (default.read, default.write, default.tile)
    read, write = ask("read", anchor.inputs[0], usual[0]), ask("write", kernel.output, usual[1])
    sizes = sizes_on_gpu(kernel, gpu) if winograd and read == write == "NCHW" else ()
    if not sizes:
        return Label(read, write)
    tile = usual[2] if usual[2] in sizes else 0
    return Label(read, write, choose.one_of("winograd", (0, *sizes), tile))


def label_in(plan: Plan, kernel: Kernel, lanes: int) -> Label | None:
    """The formats that a plan has for a convolution; None for other kernels."""
    if kernel.anchor is None or kernel.anchor.op not in COMPLEX:
        return None
    planned = next((k for k in plan.kernels if k.output == kernel.output), None)
    if planned is None or planned.anchor is None:
        return None
    if planned.anchor.op == "winograd_output":
        return Label("NCHW", "NCHW", planned.anchor.attrs["m"])
    read = _format_in(plan, planned.anchor.inputs[0], lanes)
    return Label(read, _format_in(plan, kernel.output, lanes))


def _format_in(plan: Plan, value: Value, lanes: int) -> Format:
    layout = plan.layouts.get(value)
    if layout is None:
        return "NCHW"
    return next(f for f in FORMATS if layout_in(value, f, lanes) == layout)


def layouts_of(
    kernel: Kernel, constants: Container[Value], label: Label, lanes: int
) -> dict[Value, Layout]:
    """How the tensors at the ends of a kernel are stored; by rows where not listed."""
    ends = ends_of(kernel, constants)
    read = (v for v in kernel.inputs if v not in constants)
    formats: dict[Value, Format] = {v: ends.wants(v, label) for v in read}
    formats[kernel.output] = ends.stores(label)
    blocks = {v: block_in(v, fmt, lanes) for v, fmt in formats.items()}
    return {v: channels_blocked(v.shape, b, ()) for v, b in blocks.items() if b > 1}
