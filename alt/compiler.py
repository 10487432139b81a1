"""`alt.compile`: every stage, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alt.attention import fuse_attention
from alt.build import build
from alt.canonical import canonicalize
from alt.describe import describe_kernels
from alt.errors import AltError
from alt.frontend import import_model
from alt.kernels import fuse
from alt.module import Module, Signature
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.propagate import plan_layouts
from alt.relax_graph import to_graph
from alt.target import physical_cores, resolve
from alt.verify import verify as compare

Model = str | Path | bytes | onnx.ModelProto
Progress = Callable[[str, int, int], None]
_STAGES = ("import", "simplify", "fuse", "layouts", "build", "verify")


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
    progress: Progress | None = None,
) -> Module:
    """Compile an ONNX model for this machine, without measuring anything.

    Args:
        model: a path, the bytes of a model, or a loaded one.
        target: `"llvm"` for this machine, or any TVM target that names another.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed (axes, shapes, pads).
        threads: threads to use; one a physical core by default.
        verify: compare with ONNX Runtime (or ONNX's reference) on random inputs before returning.
        winograd: let 3x3 convolutions use Winograd's algorithm where that is faster. Its results
            differ from direct summation by up to about 1e-5 of a layer's largest output.
        layouts: which layouts tensors may have and how they spread, see `alt.policies`; by name or
            as a value.
        progress: called as (stage, done, total).

    Raises:
        AltError: if the model cannot be read or compiled, saying what and where.
    """

    def tell(stage: str) -> None:
        if progress is not None:
            progress(stage, _STAGES.index(stage), len(_STAGES))

    machine = resolve(target, threads)
    policy = policy_of(layouts)
    tell("import")
    imported = import_model(model, shapes=shapes, constants=constants)
    tell("simplify")
    graph = canonicalize(to_graph(imported.module, imported.weights, len(imported.inputs)))
    tell("fuse")
    kernels = fuse_attention(graph, fuse(graph))
    tell("layouts")
    plan = plan_layouts(graph, kernels, machine, winograd, policy)
    tell("build")
    program = build(graph, plan, machine)
    header = {
        "target": machine.description,
        "threads": threads,
        "arena_bytes": program.arena_bytes,
        "inputs": [Signature(*value).to_dict() for value in imported.inputs],
        "outputs": [Signature(*value).to_dict() for value in imported.outputs],
        "kernels": describe_kernels(graph, program),
    }
    module = Module(
        program.library, program.weights, header, threads or min(machine.cores, physical_cores())
    )
    if verify:
        tell("verify")
        found = compare(model, module, constants=constants)
        if not found.ok:
            raise AltError(f"{found}; please report this model")
    return module
