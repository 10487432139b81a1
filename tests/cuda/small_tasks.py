"""A small network whose tasks are measured on a GPU."""

from __future__ import annotations

from equivalence import array, model, node

from alt.compiler import fused
from alt.propagate import plan_layouts
from alt.tasks import tasks_of
from tuner.config import Config
from tuner.task import Candidate


def network():
    nodes = [
        node("Conv", "x w0", "a0", pads=[1, 1, 1, 1]),
        node("Relu", "a0", "a"),
        node("GlobalAveragePool", "a", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d w1", "y"),
    ]
    weights = {"w0": array(12, 5, 3, 3), "w1": array(12, 33, seed=2)}
    inputs = {"x": array(1, 5, 9, 7)}
    return model(nodes, inputs, ["y"], weights), inputs


def tasks_here():
    """The two tasks, for the GPU that is here."""
    made = fused(network()[0], "cuda")
    plan = plan_layouts(made.graph, made.kernels, made.machine)
    return list(tasks_of(made.kernels, made.graph.constants, made.machine, plan).values())


def candidate(task, planted=""):
    """The default, or one that misbehaves; see `planted_on_gpu`."""
    layout = task.layouts.default()
    loops = task.loops(layout).default()
    return Candidate(layout, Config({**loops, **({"planted": planted} if planted else {})}))
