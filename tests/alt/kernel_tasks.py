"""Small networks of one kernel each, of every kind that is tuned, and running their candidates."""

from __future__ import annotations

from functools import cache

import numpy as np
from equivalence import array, model, node

from alt.compiler import fused
from alt.expected import error_bound, error_of, expected, random_values, runnable
from alt.policies import JOINT, policy_of
from alt.propagate import plan_layouts
from alt.storage import block_of
from alt.target import physical_cores
from alt.tasks import KernelTask, tasks_of
from alt.threads import use_threads
from tuner.task import Candidate

PADDED = {"pads": [1, 1, 1, 1]}

CONVOLUTIONS = {
    # name: x, w, attributes, what is fused behind it
    "3x3": ((1, 32, 12, 12), (48, 32, 3, 3), PADDED, "relu"),
    "3x3 with a residual": ((1, 32, 9, 14), (32, 32, 3, 3), PADDED, "residual"),
    "3x3 of a batch": ((2, 24, 7, 9), (40, 24, 3, 3), PADDED, "relu"),
    "3x3 of 3 channels": ((1, 3, 18, 18), (16, 3, 3, 3), {"strides": [2, 2], "pads": [1] * 4}, "relu"),
    "3x3 of 1 channel": ((1, 1, 13, 13), (24, 1, 3, 3), PADDED, ""),
    "1x1": ((1, 40, 10, 9), (24, 40, 1, 1), {}, "relu"),
    "1x1 with a residual": ((2, 24, 6, 6), (64, 24, 1, 1), {}, "residual"),
    "1x1 stride 2": ((1, 32, 9, 9), (64, 32, 1, 1), {"strides": [2, 2]}, ""),
    "1x1 unequal strides": ((2, 17, 11, 7), (37, 17, 1, 1), {"strides": [3, 2]}, "residual"),
    "1x1 groups stride 2": ((2, 24, 7, 13), (36, 6, 1, 1), {"group": 4, "strides": [2, 2]}, "residual"),
    "1x1 1-D stride 2": ((3, 24, 70), (40, 24, 1), {"strides": [2]}, "relu"),
    "1x1 3-D stride 2": ((1, 20, 5, 6, 9), (33, 20, 1, 1, 1), {"strides": [2, 1, 2]}, "residual"),
    "1x1 of many to few": ((1, 96, 5, 5), (3, 96, 1, 1), {}, "sigmoid"),
    "5x5 dilated": ((1, 16, 14, 14), (32, 16, 5, 5), {"dilations": [2, 2], "pads": [4] * 4}, "relu"),
    "asymmetric": ((1, 17, 11, 8), (33, 17, 2, 3), {"strides": [2, 1], "pads": [0, 1, 2, 1]}, "sigmoid"),
    "depthwise": ((1, 40, 12, 12), (40, 1, 3, 3), {"group": 40, **PADDED}, "relu"),
    "depthwise stride 2": ((2, 24, 11, 11), (24, 1, 3, 3), {"group": 24, "strides": [2, 2], **PADDED}, "residual"),
    "grouped": ((1, 64, 8, 8), (64, 32, 3, 3), {"group": 2, **PADDED}, "relu"),
    "grouped, no whole vectors": ((1, 24, 8, 8), (36, 6, 3, 3), {"group": 4, **PADDED}, "relu"),
    "1-D": ((1, 24, 40), (40, 24, 5), {"pads": [2, 2]}, "relu"),
    "1-D stride 3": ((2, 16, 30), (16, 16, 4), {"strides": [3]}, ""),
    "3-D": ((1, 16, 5, 7, 8), (32, 16, 3, 3, 3), {"pads": [1] * 6}, "residual"),
    "3-D stride 2": ((1, 3, 6, 9, 9), (16, 3, 3, 3, 3), {"strides": [1, 2, 2], "pads": [1] * 6}, "relu"),
    "3-D depthwise": ((1, 17, 4, 6, 6), (17, 1, 3, 3, 3), {"group": 17, "pads": [1] * 6}, ""),
}  # fmt: skip

TRANSPOSED = {
    "transposed": ((1, 32, 6, 5), (32, 24, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, "relu"),
    "transposed stride 1": ((1, 16, 6, 6), (16, 40, 3, 3), PADDED, "residual"),
    "transposed groups": ((1, 32, 5, 5), (32, 16, 3, 3), {"group": 2, "strides": [2, 2]}, ""),
    "transposed 1-D": ((2, 16, 9), (16, 24, 5), {"strides": [3]}, "relu"),
}  # fmt: skip

PRODUCTS = {
    # name: a, b, whether b is packed, what is fused behind it
    "matmul": ((1, 20, 64), (64, 96), True, "gelu"),
    "matmul with a residual": ((1, 33, 40), (40, 50), True, "residual"),
    "matmul of a row": ((1, 64), (64, 100), True, "relu"),
    "batched": ((3, 14, 20), (3, 20, 37), False, ""),
    "vector": ((9, 32), (32,), True, ""),
}

KINDS = [*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, "attention", "attention with a mask"]


def model_of(kind):
    """The network, and its inputs by name."""
    if kind.startswith("attention"):
        return _attention(masked="mask" in kind)
    if kind in PRODUCTS:
        a, b, packed, behind = PRODUCTS[kind]
        inputs, weights = {"x": array(*a)}, {}
        (weights if packed else inputs)["w"] = array(*b, seed=1)
        nodes, out = [node("MatMul", "x w", "y0")], np.matmul(array(*a), array(*b)).shape
    else:
        x, w, attributes, behind = {**CONVOLUTIONS, **TRANSPOSED}[kind]
        op = "ConvTranspose" if kind in TRANSPOSED else "Conv"
        channels = w[1] * attributes.get("group", 1) if kind in TRANSPOSED else w[0]
        inputs = {"x": array(*x)}
        weights = {"w": array(*w, seed=1), "b": array(channels, seed=2)}
        nodes = [node(op, "x w b", "y0", **attributes)]
        out = _shape(nodes, inputs, weights)
    match behind:
        case "residual":
            inputs["r"] = array(*out, seed=3)
            nodes += [node("Add", "y0 r", "s"), node("Relu", "s")]
        case "gelu":
            weights["half"] = np.float32(0.5)
            nodes += [node("Erf", "y0", "e"), node("Mul", "e half", "f"), node("Mul", "f y0")]
        case "relu" | "sigmoid":
            nodes.append(node(behind.capitalize(), "y0"))
        case _:
            nodes.append(node("Neg", "y0"))
    return model(nodes, inputs, ["y"], weights), inputs


def _shape(nodes, inputs, weights):
    made = model(nodes, inputs, ["y0"], weights).graph.output[0]
    return tuple(d.dim_value for d in made.type.tensor_type.shape.dim)


def _attention(masked):
    inputs = {"q": array(2, 3, 33, 16), "k": array(2, 3, 16, 40, seed=1), "v": array(2, 3, 40, 24, seed=2)}  # fmt: skip
    scores, weights = "s0", {"root": np.float32(0.25)}
    nodes = [node("MatMul", "q k", "s"), node("Mul", "s root", "s0")]
    if masked:
        inputs["m"] = array(2, 1, 1, 40, seed=3)
        nodes.append(node("Add", "s0 m", "s1"))
        scores = "s1"
    nodes += [node("Softmax", scores, "p", axis=-1), node("MatMul", "p v")]
    return model(nodes, inputs, ["y"], weights), inputs


def network_tasks(proto, policy=JOINT, winograd=True) -> tuple:
    """The fused network and its tasks."""
    network = fused(proto, "llvm", threads=1)
    policy = policy_of(policy)
    plan = plan_layouts(network.graph, network.kernels, network.machine, winograd, policy)
    constants = network.graph.constants
    return network, tasks_of(network.kernels, constants, network.machine, plan, policy, winograd)


@cache
def task_of(kind) -> KernelTask:
    """The one task of a kind."""
    use_threads(1, physical_cores())  # a pool of one thread keeps this one on one CPU
    _, tasks = network_tasks(model_of(kind)[0])
    (task,) = tasks.values()
    return task


@cache
def reference_of(task):
    """Seeded inputs, and what should come out."""
    inputs = random_values(task.inputs, seed=5)
    return inputs, expected(task.kernel, inputs, task.constants, task.machine)


def random_candidate(task, rng) -> Candidate:
    layout = task.layouts.sample(rng)
    return Candidate(layout, task.loops(layout).sample(rng))


def default_candidate(task) -> Candidate:
    layout = task.layouts.default()
    return Candidate(layout, task.loops(layout).default())


def run(task, candidate):
    """A candidate after one run on the inputs of the reference."""
    made = runnable(task.program(candidate), reference_of(task)[0], [task.kernel.output])
    made.run()
    return made


def error(task, found) -> float:
    return error_of(found, task.kernel.output, reference_of(task)[1])


def poison(task, candidate, made) -> bool:
    """NaN into what lies behind the last channel of every input; whether there is such a place."""
    found = False
    for value, flat in zip(task.inputs, made.arrays, strict=False):
        layout = task.layouts_of(candidate).get(value)
        block = 1 if layout is None else block_of(layout)
        if layout is not None and block > 1 and value.shape[1] % block:
            stored = flat[: layout.elements].reshape(layout.shape)
            stored[:, -1, ..., value.shape[1] % block :] = np.nan
            found = True
    return found


def bound(candidate) -> float:
    return error_bound(candidate.layout.get("algorithm", "blocks"))
