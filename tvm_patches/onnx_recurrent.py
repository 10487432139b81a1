"""`LSTM`, `GRU` and `RNN`, which the importer lacks: one product, then one step after another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from onnx import NodeProto

from tvm_patches.onnx_rewriting import Repair, Rewrite, View, attributes, optional

LONGEST_SEQUENCE = 128
"""Every step is compiled on its own, so longer sequences are refused."""

_BACKWARD = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {
    "LSTM": ["sigmoid", "tanh", "tanh"],
    "GRU": ["sigmoid", "tanh"],
    "RNN": ["tanh"],
}


class _Step(NamedTuple):
    """What every step of one direction shares."""

    write: Rewrite
    part: Callable[[str, int, int, int], str]
    weight: str
    bias: str
    size: int
    values: dict[str, Any]


def recurrent(node: NodeProto, view: View) -> Repair:
    """The inputs' products for all steps at once, then the steps, in each direction."""
    values, kind = attributes(node), node.op_type
    shape, hidden = view.shape(node.input[0]), view.shape(node.input[2])
    dtype = view.dtype(node.input[0])
    if shape is None or dtype is None or hidden is None:
        return None
    length, batch, _ = shape
    directions, _, size = hidden
    refusal = _refusal(node, view, length, directions)
    if refusal is not None:
        return refusal
    write, width = Rewrite(node, view), _GATES[kind] * size
    zeros = write.constant([0] * width, dtype)
    empty = write.constant([[[0] * size] * batch], dtype)

    @cache
    def part(x: str, axis: int, begin: int, end: int) -> str:
        return write("Slice", x, *(write.constant([n]) for n in (begin, end, axis)))

    def own(position: int, which: int) -> str:
        return part(node.input[position], 0, which, which + 1)

    def matrix(position: int, which: int) -> str:
        one = write("Squeeze", own(position, which), write.constant([0]))
        return write("Transpose", one, perm=[1, 0])

    sequences, lasts, cells = [], [], []
    for which, back in enumerate(_BACKWARD[values.get("direction", "forward")]):
        biases = [zeros, zeros]
        if optional(node, 3):
            bias = write("Squeeze", own(3, which), write.constant([0]))
            biases = [part(bias, 0, n * width, (n + 1) * width) for n in (0, 1)]
        state = [own(p, which) if optional(node, p) else empty for p in (5, 6)]
        inputs = write("Add", write("MatMul", node.input[0], matrix(1, which)), biases[0])
        step = _Step(write, part, matrix(2, which), biases[1], size, values)
        made: list[str] = []
        for time in range(length)[:: -1 if back else 1]:
            x = part(inputs, 0, time, time + 1)
            state = _STEPS[kind](step, x, state)
            made.append(state[0])
        ordered = made[::-1] if back else made
        sequences.append(write("Unsqueeze", write("Concat", *ordered, axis=0), write.constant([1])))
        lasts.append(state[0])
        cells.append(state[-1])
    for name, parts, axis in zip(node.output, (sequences, lasts, cells), (1, 0, 0), strict=False):
        if name:
            write("Concat", *parts, out=name, axis=axis)
    return write.nodes


def _refusal(node: NodeProto, view: View, length: int, directions: int) -> str | None:
    values = attributes(node)
    if values.get("direction", "forward") not in _BACKWARD:
        return f"direction={values['direction']} is not supported"
    used = [a.decode().lower() for a in values.get("activations", [])]
    if used and used != _ACTIVATIONS[node.op_type] * directions:
        return f"activations {used} are not supported"
    for name in ("clip", "input_forget", "layout"):
        if values.get(name, 0):
            return f"{name}={values[name]} is not supported"
    lengths = view.constant(optional(node, 4))
    if optional(node, 4) and (lengths is None or (lengths != length).any()):
        return "sequence_lens other than the whole sequence are not supported"
    if optional(node, 7):
        return "peepholes are not supported"
    if length > LONGEST_SEQUENCE:
        return f"it has {length} steps, more than {LONGEST_SEQUENCE} are not supported"
    return None


def _lstm(step: _Step, x: str, state: list[str]) -> list[str]:
    write, part, weight, bias, size, _ = step
    h, c = state
    total = write("Add", write("Add", write("MatMul", h, weight), bias), x)
    i, o, f, g = (part(total, 2, n * size, (n + 1) * size) for n in range(4))
    kept = write("Mul", write("Sigmoid", f), c)
    c = write("Add", kept, write("Mul", write("Sigmoid", i), write("Tanh", g)))
    return [write("Mul", write("Sigmoid", o), write("Tanh", c)), c]


def _gru(step: _Step, x: str, state: list[str]) -> list[str]:
    write, part, weight, bias, size, values = step
    h = state[0]
    if values.get("linear_before_reset", 0):
        inner = write("Add", write("MatMul", h, weight), bias)
        early, late = part(inner, 2, 0, 2 * size), part(inner, 2, 2 * size, 3 * size)
    else:
        early = write("MatMul", h, part(weight, 1, 0, 2 * size))
        early = write("Add", early, part(bias, 0, 0, 2 * size))
    gates = write("Sigmoid", write("Add", early, part(x, 2, 0, 2 * size)))
    z, r = part(gates, 2, 0, size), part(gates, 2, size, 2 * size)
    if values.get("linear_before_reset", 0):
        late = write("Mul", r, late)
    else:
        late = write("MatMul", write("Mul", r, h), part(weight, 1, 2 * size, 3 * size))
        late = write("Add", late, part(bias, 0, 2 * size, 3 * size))
    new = write("Tanh", write("Add", late, part(x, 2, 2 * size, 3 * size)))
    return [write("Add", new, write("Mul", z, write("Sub", h, new)))]


def _rnn(step: _Step, x: str, state: list[str]) -> list[str]:
    write, _, weight, bias, _, _ = step
    total = write("Add", write("Add", write("MatMul", state[0], weight), bias), x)
    return [write("Tanh", total)]


_STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
