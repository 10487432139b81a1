"""What is worth knowing about a compiled network, as plain data that fits in a saved file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alt.build import Program, Step
from alt.graph import Graph, Value
from alt.kernels import operations
from primitives import Layout


def describe_kernels(graph: Graph, program: Program) -> list[dict[str, Any]]:
    """Every kernel in execution order: what it computes, in which layouts, scheduled how.

    A tensor's `value` is a number that says which tensors are the same; `inside` are those in whose
    memory it lies, the smallest first; `input` and `outputs` are its positions among what the
    caller gives and gets.
    """
    # Names need not be unique.
    values = (v for step in program.steps for v in (step.kernel.output, *step.kernel.inputs))
    every = dict.fromkeys((*values, *(whole for whole, _ in program.plan.inside.values())))
    numbers = {value: number for number, value in enumerate(every)}
    return [_kernel(graph, program, step, numbers) for step in program.steps]


def _kernel(
    graph: Graph, program: Program, step: Step, numbers: Mapping[Value, int]
) -> dict[str, Any]:
    kernel = step.kernel
    layouts, inside = program.plan.layouts, program.plan.inside
    # Weights are stored as the sketch asked for, which the plan does not know.
    stored = {a.value: a.layout for a in step.arguments if a.layout is not None}
    read = [v for v in kernel.inputs if v in stored]

    def wholes(value: Value) -> Iterator[Value]:
        while value in inside:
            value, _ = inside[value]
            yield value

    def tensor(value: Value) -> dict[str, Any]:
        layout = stored.get(value) or layouts.get(value) or Layout.identity(value.shape)
        return {
            "value": numbers[value],
            "inside": [numbers[whole] for whole in wholes(value)],
            "input": graph.inputs.index(value) if value in graph.inputs else None,
            "outputs": [n for n, output in enumerate(program.plan.outputs) if output is value],
            "shape": list(value.shape),
            "dtype": str(np.dtype(value.dtype)),
            "layout": str(layout),
            "constant": value in graph.constants,
        }

    return {
        "name": kernel.name,
        "function": step.function,
        "anchor": kernel.anchor.name if kernel.anchor else None,
        "output": tensor(kernel.output),
        "inputs": [tensor(v) for v in read],
        "schedule": dict(step.notes),
        "operations": operations(kernel.anchor) if kernel.anchor else None,
        "bytes": sum(_bytes(v) for v in (kernel.output, *read)),
        "conversion": program.plan.conversions.get(kernel),
    }


def _bytes(value: Value) -> int:
    return value.size * np.dtype(value.dtype).itemsize
