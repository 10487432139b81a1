"""Kernels that read blocks of channels and write rows: conversions, with and without more in them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

import alt.sketches.generic
from alt import operators
from alt.build import build
from alt.expected import random_values, runnable
from alt.graph import Graph, Node, Value
from alt.kernels import Kernel
from alt.propagate import Plan, copy_kernel
from alt.storage import channels_blocked
from alt.target import resolve
from primitives import Layout

pytestmark = pytest.mark.llvm

CASES = {
    # name: shape, channels in a block, border
    "large": ((1, 64, 28, 28), 16, ()),
    "batch, channels that do not fill a block": ((2, 24, 7, 9), 16, ()),
    "rows shorter than a vector": ((1, 40, 2, 3), 16, ()),
    "one position": ((3, 17, 1, 1), 16, ()),
    "one channel": ((1, 1, 33, 5), 16, ()),
    "blocks of several vectors": ((1, 72, 13, 11), 32, ()),
    "all channels in a block": ((1, 1000, 5, 5), 1008, ()),
    "a long line": ((2, 32, 1000), 16, ()),
    "a bordered line": ((1, 16, 70), 16, ((2, 1),)),
    "a bordered image": ((2, 33, 12, 37), 16, ((1, 2), (0, 3))),
    "a bordered volume": ((1, 17, 4, 6, 40), 16, ((1, 0), (0, 1), (1, 1))),
}


def wide_enough(shape, border):
    """Whether a row without a border in it fills a vector."""
    return (shape[-1] if border else prod(shape[2:])) >= resolve("llvm", 2).lanes()


def compiled(kernels, inputs, output, layouts, machine=None):
    graph = Graph(inputs, [output], [], {})
    plan = Plan(kernels, {**layouts, output: Layout.identity(output.shape)}, [output])
    program = build(graph, plan, machine or resolve("llvm", 2), alone=True)
    if machine is not None and prod(output.shape) >= 8192:
        assert program.steps[0].notes["parallel"][0] >= 4 * machine.cores
    values = random_values(inputs, seed=3)
    ready = runnable(program, values, [output])
    ready.run()
    count = prod(output.shape)
    return values, ready.output.view(output.dtype).reshape(-1)[:count].reshape(output.shape)


@pytest.fixture
def taken(monkeypatch):
    """Whether each kernel read its blocks piece by piece."""
    seen, original = [], alt.sketches.generic.rows_of_blocks

    def spy(scope):
        body = original(scope)
        seen.append(body is not None)
        return body

    monkeypatch.setattr("alt.sketches.generic.rows_of_blocks", spy)
    return seen


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("case", CASES)
def test_a_conversion_moves_every_element(case, dtype, taken):
    shape, block, border = CASES[case]
    source, target = Value("source", shape, dtype), Value("target", shape, dtype)
    layouts = {source: channels_blocked(shape, block, border)}
    values, found = compiled([copy_kernel(source, target)], [source], target, layouts)
    assert taken == [wide_enough(shape, border)]
    np.testing.assert_array_equal(found, values[source])


@pytest.mark.parametrize("cores", [1, 7, 64])
@pytest.mark.parametrize("block", [16, 128])
def test_every_core_has_something_to_do(cores, block, taken):
    shape = (1, 128, 14, 14)
    source, target = Value("source", shape, "float32"), Value("target", shape, "float32")
    layouts = {source: channels_blocked(shape, block, ())}
    machine = replace(resolve("llvm", 2), cores=cores)
    values, found = compiled([copy_kernel(source, target)], [source], target, layouts, machine)
    assert taken == [True]
    np.testing.assert_array_equal(found, values[source])


@pytest.mark.parametrize("case", CASES)
def test_a_sum_that_is_reshaped_reads_blocks_and_rows(case, taken):
    shape, block, border = CASES[case]
    flat = (shape[0], prod(shape[1:]))
    x, y, z, total = (Value(n, shape, "float32") for n in ("x", "y", "z", "total"))
    target = Value("target", flat, "float32")
    part = Value("part", shape, "float32")
    add = operators.MAPS["add"]
    nodes = (
        Node("map", "add", (x, y), part, {}, add),
        Node("map", "add", (part, z), total, {}, add),
        Node("view", "reshape", (total,), target, {"target": flat}, operators.reshape(shape, flat)),
    )
    # One with that border, one with another block and none, and one by rows.
    layouts = {x: channels_blocked(shape, block, border), y: channels_blocked(shape, 32, ())}
    values, found = compiled([Kernel(None, nodes, (x, y, z), target)], [x, y, z], target, layouts)
    assert taken == [wide_enough(shape, border)]
    np.testing.assert_allclose(
        found, (values[x] + values[y] + values[z]).reshape(flat), rtol=1e-6, atol=1e-6
    )


def test_what_writes_blocks_or_broadcasts_is_left_to_others(taken):
    shape, block = (1, 32, 6, 6), 16
    source, target = Value("source", shape, "float32"), Value("target", shape, "float32")
    blocked = channels_blocked(shape, block, ())
    graph, kernels = Graph([source], [target], [], {}), [copy_kernel(source, target)]
    for layouts in ({target: blocked}, {source: blocked, target: channels_blocked(shape, 32, ())}):
        build(graph, Plan(kernels, layouts, [target]), resolve("llvm", 2), alone=True)
    small, wide = Value("small", (1, 32, 1, 1), "float32"), Value("wide", shape, "float32")
    node = Node("map", "add", (small, wide), target, {}, operators.MAPS["add"])
    layouts = {small: channels_blocked(small.shape, block, ())}
    values, found = compiled(
        [Kernel(None, (node,), (small, wide), target)], [small, wide], target, layouts
    )
    assert taken == [False] * 3
    np.testing.assert_allclose(found, values[small] + values[wide], rtol=1e-6)
