"""`alt.compile`: every stage, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alt.arrays import Signature
from alt.attention import fuse_attention
from alt.build import build
from alt.canonical import canonicalize
from alt.cuda.assemble import cuda_module
from alt.cuda.gpu import Gpu
from alt.describe import describe_kernels
from alt.errors import AltError
from alt.frontend import Imported, import_model
from alt.graph import Graph
from alt.kernels import Kernel, fuse
from alt.module import Module
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.propagate import plan_layouts
from alt.relax_graph import to_graph
from alt.target import Hardware, physical_cores, resolve
from alt.verify import verify as compare

Model = str | Path | bytes | onnx.ModelProto
Progress = Callable[[str, int, int], None]
_STAGES = ("import", "simplify", "fuse", "layouts", "build", "verify")


@dataclass(frozen=True)
class Fused:
    """A network that is ready for layouts and schedules.

    Attributes:
        imported: its inputs and outputs.
        graph: the simplified operators.
        kernels: how they were fused.
        machine: what the code is for.
    """

    imported: Imported
    graph: Graph
    kernels: list[Kernel]
    machine: Hardware


def compile(  # noqa: A001 - the verb users know
    model: Model,
    target: Any = "llvm",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    verify: bool = False,
    winograd: bool = True,
    layouts: str | LayoutPolicy = JOINT,
    log: str | Path | None = None,
    allow_partial: bool = False,
    device: int | str | None = None,
    precision: str = "fp32",
    cuda_graph: bool = True,
    progress: Progress | None = None,
) -> Module:
    """Compile an ONNX model for this machine, without measuring anything.

    Args:
        model: a path, the bytes of a model, or a loaded one.
        target: `"llvm"` for this machine, `"cuda"` for its GPU, or any TVM target that names
            another: `{"kind": "cuda", "arch": "sm_90"}`.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed (axes, shapes, pads).
        threads: threads to use; one a physical core by default.
        verify: compare with ONNX Runtime (or ONNX's reference) on random inputs before returning.
        winograd: let 3x3 convolutions use Winograd's algorithm where that is faster. Its results
            differ from direct summation by up to about 1e-5 of a layer's largest output.
        layouts: which layouts tensors may have and how they spread, see `alt.policies`; by name or
            as a value.
        log: what `alt.tune` measured: layouts and schedules come from there. The same log gives the
            same program.
        allow_partial: leave operators that the log does not know to the compiler's rules, instead
            of refusing.
        device: the GPU to run on, by number or name; the first one by default.
        precision: what the GPU may multiply in matrix products, attention and convolutions of
            float32: `fp32`, or on tensor cores `tf32` (the upper 19 bits, of which 10 are mantissa)
            or `fp16` (what is beyond 65504 becomes infinite). Inputs, outputs, all that is stored
            in between, sums and softmax are float32 in any case, and so is every multiplication in
            products of few rows and depthwise convolutions, which memory limits. GPUs before sm_80
            multiply float32 whatever is asked, which `runs_on` and the artifact say.
        cuda_graph: whether a GPU replays the whole network as a CUDA graph where it works on the
            same memory again.
        progress: called as (stage, done, total).

    Raises:
        AltError: if the model cannot be read or compiled, saying what and where.
        TuningError: if the log cannot be read, or does not cover the model.
    """

    def tell(stage: str) -> None:
        if progress is not None:
            progress(stage, _STAGES.index(stage), len(_STAGES))

    policy = policy_of(layouts)
    network = fused(
        model,
        target,
        shapes=shapes,
        constants=constants,
        threads=threads,
        precision=precision,
        device=device,
        tell=tell,
    )
    tell("layouts")
    count = threads or min(network.machine.cores, physical_cores())
    kernels = network.kernels
    if log is not None:
        from alt.replay import network_of_log  # its packages are needed for nothing else

        kernels = network_of_log(
            network,
            log,
            count,
            policy=policy,
            winograd=winograd,
            allow_partial=allow_partial,
            device=device,
        ).kernels
    module = assemble(
        network,
        kernels,
        threads,
        policy,
        winograd,
        lambda: tell("build"),
        device=device,
        cuda_graph=cuda_graph,
    )
    if verify:
        tell("verify")
        found = compare(model, module, constants=constants)
        if not found.ok:
            raise AltError(f"{found}; please report this model")
    return module


def fused(
    model: Model,
    target: Any = "llvm",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    tell: Callable[[str], None] = lambda _: None,
    device: int | str | None = None,
) -> Fused:
    """The first half of `compile`, up to what does not depend on layouts; arguments as there."""
    machine = resolve(target, threads, precision, device)
    tell("import")
    imported = import_model(model, shapes=shapes, constants=constants)
    tell("simplify")
    graph = canonicalize(to_graph(imported.module, imported.weights, len(imported.inputs)))
    tell("fuse")
    return Fused(imported, graph, fuse_attention(graph, fuse(graph)), machine)


def assemble(
    network: Fused,
    kernels: list[Kernel],
    threads: int | None,
    policy: LayoutPolicy = JOINT,
    winograd: bool = True,
    planned: Callable[[], None] = lambda: None,
    device: int | str | None = None,
    cuda_graph: bool = True,
) -> Module:
    """The second half of `compile`: layouts, code, memory.

    Args:
        network: what is compiled.
        kernels: its kernels, decided upon or not.
        threads: that the module will use; one a physical core if not given.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
        planned: called once the layouts are known.
        device: the GPU to run on.
        cuda_graph: whether it replays the network as a CUDA graph.

    Raises:
        AltError: if a device is named for a CPU, or nvcc is needed and missing.
    """
    machine = network.machine
    if device is not None and not isinstance(machine, Gpu):
        raise AltError(f"device={device!r} is for GPUs, and the target is a CPU: leave it out")
    plan = plan_layouts(network.graph, kernels, machine, winograd, policy)
    planned()
    program = build(network.graph, plan, machine)
    header = {
        "target": machine.description,
        "threads": threads,
        "arena_bytes": program.arena_bytes,
        "inputs": [Signature(*value).to_dict() for value in network.imported.inputs],
        "outputs": [Signature(*value).to_dict() for value in network.imported.outputs],
        "kernels": describe_kernels(network.graph, program),
        "refused": plan.refused,
    }
    if isinstance(machine, Gpu):
        return cuda_module(program.library, program.weights, header, machine, device, cuda_graph)
    count = threads or min(machine.cores, physical_cores())
    return Module(program.library, program.weights, header, count)
