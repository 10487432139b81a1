"""From a plan to machine code: kernels, memory and the function that runs them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import ir
from tvm_ffi import structural_equal, structural_hash

from alt.cuda.gpu import Gpu
from alt.cuda.lower import lower
from alt.entries import Tensors, entry_points
from alt.errors import AltError
from alt.graph import Graph, Value
from alt.kernels import Kernel
from alt.memory import ALIGNMENT, SLACK_BYTES, RecentArrays, aligned
from alt.propagate import Plan
from alt.sketches import scope_of, sketch_for
from alt.sketches.scope import Argument, Scope
from alt.target import Hardware, Machine
from alt.weights import pack_weights
from primitives import Layout
from tuner.choices import Answer, Given, Infeasible

MAX_ELEMENTS = 2**31 - 1
MAIN = "main"


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        kernel: what it computes.
        function: the name of the function called; equal kernels share one.
        arguments: the tensors passed, the output first.
        notes: what its sketch decided.
    """

    kernel: Kernel
    function: str
    arguments: tuple[Argument, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Program:
    """A compiled network before it meets data.

    Attributes:
        library: TVM's executable with the entry point `main` and another for timing; for a GPU
            the host's code and the kernels.
        steps: the calls `main` makes.
        weights: all constants in the form the kernels read, one buffer.
        arena_bytes: memory for everything computed on the way.
        plan: the layouts behind it.
        tensors: where each tensor lies.
        module: what the library was made of.
        entry: the name of the library's function that runs this program.
    """

    library: Any
    steps: list[Step]
    weights: np.ndarray
    arena_bytes: int
    plan: Plan
    tensors: Tensors
    module: Any = None
    entry: str = MAIN


def build(
    graph: Graph,
    plan: Plan,
    machine: Hardware,
    alone: bool = False,
    packed: RecentArrays | None = None,
) -> Program:
    """Generate every kernel once, lay out memory, compile.

    Args:
        graph: the network.
        plan: its kernels and layouts.
        machine: what the code is for.
        alone: whether this is a part of a network, whose inputs and outputs are stored as planned.
        packed: weights of earlier builds of the same network.

    Raises:
        AltError: if a tensor is too large for 32-bit indices.
    """
    program, functions = _program(graph, plan, machine, alone, packed)
    program.module = tvm.IRModule(functions)
    if isinstance(machine, Gpu):
        program.library = lower(program.module, machine)
    else:
        program.library = _compile(program.module, machine.target, alone)
    return program


def build_together(
    parts: Sequence[tuple[Graph, Plan]], machine: Machine, packed: RecentArrays | None = None
) -> list[Program]:
    """Compile parts of a network, each to run alone, into one library.

    It takes a quarter less time than one after the other: there are fixed costs, and functions that
    are equal, as the input's transform of candidates that differ in their products, are compiled
    once.

    Args:
        parts: each with its kernels and layouts.
        machine: what the code is for.
        packed: weights of earlier builds of the same network.
    """
    programs: list[Program] = []
    merged: dict[Any, Any] = {}
    known: dict[int, list[tuple[Any, Any]]] = {}
    for number, (graph, plan) in enumerate(parts):
        entry = f"{MAIN}{number}"

        def symbol(name: str, function: Any, number: int = number) -> Any:
            alike = known.setdefault(structural_hash(function), [])
            for before, known_as in alike:
                if structural_equal(before, function):
                    return known_as
            new = ir.GlobalVar(f"{name}_{number}")
            alike.append((function, new))
            return new

        program, functions = _program(graph, plan, machine, True, packed, symbol, entry)
        merged.update((v, f) for v, f in functions.items() if v not in merged)
        programs.append(program)
    module = tvm.IRModule(merged)
    library = _compile(module, machine.target, alone=True)
    return [replace(program, library=library, module=module) for program in programs]


def _program(
    graph: Graph,
    plan: Plan,
    machine: Hardware,
    alone: bool,
    packed: RecentArrays | None,
    symbol: Callable[[str, Any], Any] = lambda name, function: ir.GlobalVar(name),
    entry: str = MAIN,
) -> tuple[Program, dict[Any, Any]]:
    """A program that has no library yet, and the functions to make that of."""
    functions, steps = _functions(graph, plan, machine)
    arguments = [a for step in steps for a in step.arguments]
    weights, constants = pack_weights(graph.constants, arguments, packed)
    outputs = plan.outputs
    arena, places = _plan_memory(graph, plan, steps, outputs)
    for number, value in enumerate(graph.inputs):
        places[value] = (f"in{number}", 0)
    for value in (*graph.inputs, *outputs):
        layout = plan.layouts.get(value)
        assert alone or layout is None or not layout.has_padding, f"the caller would see {layout}"
    symbols = {name: symbol(name, function) for name, function in functions.items()}
    calls = [(symbols[step.function], step.arguments) for step in steps]
    values = graph.inputs, plan.outputs, plan.layouts
    tensors = Tensors(*values, places, constants, weights.size, arena)
    entries = entry_points(tensors, calls, machine, alone, entry)
    program = Program(None, steps, weights, arena, plan, tensors, entry=entry)
    return program, {**{symbols[n]: f for n, f in functions.items()}, **entries}


def _compile(module: Any, target: Any, alone: bool) -> Any:
    """The library of a CPU's code."""
    # The first pass puts every named subexpression back where it is used, which grows expressions
    # that share much (softplus, mish) out of all proportion. The second looks for what LLVM finds,
    # too, and takes a tenth of the time to build a kernel.
    # Checking arguments takes a fifth of what is compiled for a kernel alone, and only we call it.
    config = {"tirx.disable_assert": alone}
    disabled = ["tirx.StmtSimplify", "tirx.CommonSubexprElim"]
    with tvm.transform.PassContext(disabled_pass=disabled, config=config):
        return tvm.compile(module, target, tir_pipeline="tirx")


# --- kernels ------------------------------------------------------------------------------------


def kernel_key(
    kernel: Kernel, layouts: Mapping[Value, Layout], constants: Mapping[Value, np.ndarray]
) -> str:
    """A text that is equal for kernels for which the same function is generated."""
    numbers: dict[Value, int] = {}

    def number(value: Value) -> int:
        return numbers.setdefault(value, len(numbers))

    lines: list[str] = []
    for node in kernel.nodes:
        anchor = "*" if node is kernel.anchor else ""
        lines.append(f"{anchor}{node.key()}:{[number(v) for v in (*node.inputs, node.output)]}")
    for value in (*kernel.inputs, kernel.output):
        array = constants.get(value)
        what = "" if array is None else "const"
        if array is not None and array.size == 1:
            what = repr(array.reshape(-1)[0].item())
        lines.append(f"{number(value)}@{layouts.get(value, 'rows')}{what}")
    return "\n".join(lines)


def _functions(graph: Graph, plan: Plan, machine: Hardware) -> tuple[dict[str, Any], list[Step]]:
    functions: dict[str, Any] = {}
    made: dict[str, Step] = {}
    steps: list[Step] = []
    for kernel in plan.kernels:
        for value in (*kernel.inputs, kernel.output):
            if plan.layouts.get(value, Layout.identity(value.shape)).elements > MAX_ELEMENTS:
                raise AltError(
                    f"tensor {value.name} of shape {value.shape} has more than {MAX_ELEMENTS} "
                    "elements; ALT indexes with 32 bits: use a smaller batch or shape"
                )
        key = kernel_key(kernel, plan.layouts, graph.constants)
        if key not in made:
            attrs = kernel.anchor.attrs if kernel.anchor is not None else {}
            # A schedule found elsewhere is brought as near as this kernel's layouts allow. On a GPU
            # what was decided fixes the layouts of both ends, and there is no need to.
            strict = isinstance(machine, Gpu) and "loops" in attrs
            loops = attrs.get("loops", {})
            scope, body = _sketched(kernel, graph, plan, machine, loops, strict)
            name = f"k{len(made)}_{_identifier(kernel.name)}"
            functions[name] = scope.finish(body)
            made[key] = Step(kernel, name, tuple(scope.arguments), scope.notes)
        first = made[key]
        arguments = _rebound(first.arguments, first.kernel, kernel)
        steps.append(Step(kernel, first.function, arguments, first.notes))
    return functions, steps


def _sketched(
    kernel: Kernel,
    graph: Graph,
    plan: Plan,
    machine: Hardware,
    loops: Mapping[str, Answer],
    strict: bool,
) -> tuple[Scope, Any]:
    """The body of a kernel; with the sketch's own answers if those that were brought do not fit."""
    choose = Given(loops, strict=strict)
    scope = scope_of(kernel, plan.layouts, graph.constants, machine, choose)
    try:
        body = sketch_for(scope)(scope)
    except Infeasible:
        if strict or not loops:
            raise
        return _sketched(kernel, graph, plan, machine, {}, strict)
    choose.finish()
    return scope, body


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _rebound(arguments: Sequence[Argument], first: Kernel, kernel: Kernel) -> tuple[Argument, ...]:
    """The arguments of an equal kernel, about this kernel's values."""
    if first is kernel:
        return tuple(arguments)
    same: dict[Value, Value] = {first.output: kernel.output}
    for a, b in zip(first.nodes, kernel.nodes, strict=True):
        same.update(zip((*a.inputs, a.output), (*b.inputs, b.output), strict=True))
    return tuple(Argument(same[a.value], a.layout, a.prepare) for a in arguments)


# --- memory -------------------------------------------------------------------------------------


def _bytes(layout: Layout, dtype: str) -> int:
    return layout.elements * np.dtype(dtype).itemsize


def _plan_memory(
    graph: Graph, plan: Plan, steps: Sequence[Step], outputs: Sequence[Value]
) -> tuple[int, dict[Value, tuple[str, int]]]:
    """Places in one arena for everything computed; memory is reused once nobody reads it."""

    def home(value: Value) -> tuple[Value, int]:
        """The tensor in whose memory a value lies, and the cells before it."""
        cells = 0
        while value in plan.inside:
            value, before = plan.inside[value]
            cells += before
        return value, cells

    last_use: dict[Value, int] = {}
    for when, step in enumerate(steps):
        for argument in step.arguments:
            last_use[home(argument.value)[0]] = when
    places: dict[Value, tuple[str, int]] = {}
    for number, value in enumerate(outputs):
        places.setdefault(value, (f"out{number}", 0))
    live: list[tuple[int, int, Value]] = []
    high = 0
    for when, step in enumerate(steps):
        value, _ = home(step.kernel.output)
        if value not in places:  # a slice brings the whole tensor into being
            layout = plan.layouts.get(value, Layout.identity(value.shape))
            size = aligned(_bytes(layout, value.dtype) + SLACK_BYTES)
            live = [entry for entry in live if last_use[entry[2]] >= when]
            offset = _first_fit(sorted((o, s) for o, s, _ in live), size)
            live.append((offset, size, value))
            places[value] = ("arena", offset)
            high = max(high, offset + size)
    for value in plan.inside:
        whole, cells = home(value)
        where, offset = places[whole]
        places[value] = (where, offset + cells * np.dtype(value.dtype).itemsize)
    return max(high, ALIGNMENT), places


def _first_fit(taken: Sequence[tuple[int, int]], size: int) -> int:
    offset = 0
    for start, length in taken:
        if start - offset >= size:
            return offset
        offset = max(offset, start + length)
    return offset
