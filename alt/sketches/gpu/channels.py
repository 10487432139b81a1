"""Convolutions whose channels are neighbours in memory: vectors of channels, read and written.

What `alt.sketches.gpu.gather` and `alt.sketches.gpu.results` do for rows, where neighbouring
threads have neighbouring places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from alt.elementary import Emitter, Expr, f32
from alt.graph import Node, Value
from alt.operators import delinear
from alt.sketches.gpu.block_tile import VECTOR
from alt.sketches.gpu.elementwise import VECTOR_DTYPES, read_in_place
from alt.sketches.gpu.grid import either
from alt.sketches.gpu.place import corner_of
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.staging import Operand, Staging, Steps
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, i32, seq
from alt.sketches.windows import geometry
from alt.storage import block_of
from primitives.tensorir import ir, tirx


def reads_channels(scope: GpuScope, node: Node, steps: Steps) -> bool:
    """Whether every four steps of the reduction are neighbours in memory, and an aligned vector."""
    _, channels, _ = geometry(node)
    block = block_of(scope.layout(node.inputs[0]))
    return all(extent % VECTOR == 0 for extent in (block, channels, steps.stride)) and block > 1


def channel_inputs(staging: Staging, group: Expr, rows: Expr) -> Operand:
    """The input that the places of a tile read, four channels at a time, 0 outside the image.

    A thread has one place. In blocks of four channels neighbours have neighbouring places; in
    longer ones pairs of threads share a place, so that each sector of memory is read at once.
    """
    scope, tile, steps = staging.scope, staging.tile, staging.steps
    node, phase, thread = staging.node, staging.phase, staging.thread
    x = node.inputs[0]
    layout, source = scope.layout(x), scope.buffer(x, scope.layout(x))
    image = prod(phase.count)
    places = node.output.shape[0] * image
    beside = 2 if block_of(layout) > VECTOR and tile.threads >= 2 * tile.places else 1
    down = tile.depth // VECTOR
    count = down * tile.places
    kept = scope.local(-(-count // tile.threads) * VECTOR, name="inputs")
    _, channels, _ = geometry(node)
    simplify = scope.analyzer.simplify
    place = simplify(thread // beside % tile.places)
    row = simplify(rows * tile.places + place)
    n, q = tirx.Var("n", "int32"), tirx.Var("q", "int32")
    before: list[Stmt] = [
        tirx.AllocBuffer(kept),
        tirx.Bind(n, row // image),
        tirx.Bind(q, row % image),
    ]
    scope.analyzer.bind(q, ir.Range(0, image))
    corner = corner_of(scope, phase, q, before)

    def vector_of(position: Expr) -> Expr:
        """Which four steps of a stage a thread has: the same order in reading and in writing."""
        whole = position // (beside * tile.places)
        return simplify(whole * beside + position % beside if beside > 1 else whole)

    def load(stage: Expr, begin: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            # As a multiple of four, so that TVM sees that vectors are aligned.
            number = simplify(stage * down + vector_of(position))
            quads = steps.stride // VECTOR
            channel, tap = simplify(number % quads * VECTOR), simplify(number // quads)
            taps = delinear(tap, phase.taps)
            at = [c + t * d for c, t, d in zip(corner, taps, phase.dilation, strict=True)]
            guards: list[Expr] = []
            if places % tile.places:
                guards.append(row < places)
            if steps.stride != channels:
                guards.append(channel < channels)
            if steps.count % tile.depth:
                guards.append(number < steps.count // VECTOR)
            for p, extent in zip(at, x.shape[2:], strict=True):
                guards += [p >= 0, p < extent]
            first = scope.address(layout, [n, group * channels + channel, *map(simplify, at)])

            def lane(k: Expr) -> Stmt:
                return tirx.BufferStore(
                    kept, tirx.BufferLoad(source, [first + k]), [i * VECTOR + k]
                )

            def nothing(k: Expr) -> Stmt:
                return tirx.BufferStore(kept, f32(0.0), [i * VECTOR + k])

            read, zero = (scope.loop(VECTOR, f, VECTORIZED) for f in (lane, nothing))
            return either(scope, tirx.all(*guards), read, zero)

        return staging.each(count, part)

    def keep(begin: Expr) -> Stmt:
        def part(i: Expr, position: Expr) -> Stmt:
            first = begin + vector_of(position) * (VECTOR * tile.places) + place

            def lane(k: Expr) -> Stmt:
                value = tirx.BufferLoad(kept, [i * VECTOR + k])
                return tirx.BufferStore(staging.shared, value, [first + k * tile.places])

            return scope.loop(VECTOR, lane, UNROLLED)

        return staging.each(count, part)

    return Operand(seq(*before), load, keep)


# --- the end ------------------------------------------------------------------------------------


def writes_channels(scope: GpuScope, node: Node, run: int) -> bool:
    """Whether runs of so many channels of a group are neighbours in memory, and aligned."""
    _, _, outputs = geometry(node)
    block = block_of(scope.output_layout)
    return block > 1 and block % run == 0 and outputs % run == 0


def finish_channels(
    scope: GpuScope,
    node: Node,
    indices: Callable[[Expr], list[Expr]],
    run: int,
    total: Callable[[Expr], Expr],
) -> Stmt:
    """The epilogue and the store of neighbouring channels of a place.

    Args:
        scope: the kernel.
        node: the convolution.
        indices: of an output, some channels on.
        run: how many channels.
        total: what they are summed to.
    """
    output, layout = scope.kernel.output, scope.output_layout
    alike = [v for v in read_in_place(scope) if v.dtype in VECTOR_DTYPES]
    read = {value: scope.local(run, value.dtype, "read") for value in alike}
    found = scope.local(run, output.dtype, "result")
    first = scope.address(layout, indices(i32(0)))

    def load(value: Value) -> Stmt:
        source = scope.buffer(value, layout)

        def lane(k: Expr) -> Stmt:
            return tirx.BufferStore(read[value], tirx.BufferLoad(source, [first + k]), [k])

        return scope.loop(run, lane, VECTORIZED)

    def compute(k: Expr) -> Stmt:
        emit = Emitter()
        given: Mapping[Value, Expr] = {
            node.output: total(k),
            **{value: tirx.BufferLoad(buffer, [k]) for value, buffer in read.items()},
        }
        value = scope.evaluate(output, indices(k), emit, given)
        return seq(*emit.statements, tirx.BufferStore(found, value, [k]))

    def store(k: Expr) -> Stmt:
        return tirx.BufferStore(scope.output, tirx.BufferLoad(found, [k]), [first + k])

    return seq(
        *map(tirx.AllocBuffer, (*read.values(), found)),
        *map(load, alike),
        scope.loop(run, compute, UNROLLED),
        scope.loop(run, store, VECTORIZED),
    )
