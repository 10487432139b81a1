"""Kernels without a reduction: elementwise chains, layout conversions, gathers, concatenation."""

from __future__ import annotations

from alt.elementary import Emitter, Expr
from alt.graph import Value
from alt.sketches.gpu.grid import Region, in_order, over_elements, walk_of, with_indices
from alt.sketches.gpu.scope import GpuScope
from alt.sketches.gpu.turning import turn, turns
from alt.sketches.scope import UNROLLED, VECTORIZED, Stmt, allocate, i32, seq
from primitives.tensorir import tirx

VECTOR_DTYPES = ("float32", "int32", "uint32")
"""What a thread reads and writes four of at once."""


def elementwise(scope: GpuScope) -> Stmt:
    """Any kernel without an anchor: one thread per element, or per vector of elements."""
    output = scope.kernel.output
    if scope.output_layout.has_padding:

        def element(*indices: Expr) -> Stmt:
            emit = Emitter()
            value = scope.evaluate(output, indices, emit)
            return seq(*emit.statements, scope.store(indices, value))

        return over_elements(scope, Region(output.shape, element))
    if (turned := turns(scope)) is not None:
        return turn(scope, turned)
    lanes = scope.gpu.lanes(output.dtype)
    # Vectors pay where memory is the limit, and there are threads enough without.
    many = output.size >= lanes * scope.gpu.cores * scope.gpu.core_threads // 2
    vectors = many and output.dtype in VECTOR_DTYPES and output.size % lanes == 0
    return _in_storage_order(scope, lanes if vectors else 1)


def concat(scope: GpuScope) -> Stmt:
    """Each operand is copied to its place, through the epilogue, by threads of its own."""
    anchor = scope.kernel.anchor
    assert anchor is not None
    axis = anchor.attrs["axis"]
    regions: list[Region] = []
    start = 0
    for source in anchor.inputs:
        if not source.size:
            continue

        def element(*inside: Expr, source: Value = source, start: int = start) -> Stmt:
            emit = Emitter()
            indices = list(inside)
            indices[axis] = scope.analyzer.simplify(inside[axis] + start)
            piece = scope.evaluate(source, inside, emit)
            given = {anchor.output: piece}
            value = scope.evaluate(scope.kernel.output, indices, emit, given)
            return seq(*emit.statements, scope.store(indices, value))

        regions.append(in_order(scope, walk_of(scope, source.shape), element))
        start += source.shape[axis]
    return over_elements(scope, *regions)


def _in_storage_order(scope: GpuScope, lanes: int) -> Stmt:
    """A thread computes neighbours in memory; what lies like the output it reads at once, too."""
    output = scope.kernel.output
    alike = [v for v in read_in_place(scope) if lanes == 1 or v.dtype in VECTOR_DTYPES]
    needs_indices = set(scope.kernel.inputs) - set(alike) - set(_numbers(scope))

    def vector(position: Expr) -> Stmt:
        loaded = {value: scope.local(lanes, value.dtype, "read") for value in alike}
        results = scope.local(lanes, output.dtype, "result")

        def address(k: Expr) -> list[Expr]:
            return [scope.analyzer.simplify(position * lanes + k)]

        def load(value: Value) -> Stmt:
            source = scope.buffer(value, scope.layout(value))

            def lane(k: Expr) -> Stmt:
                return tirx.BufferStore(loaded[value], tirx.BufferLoad(source, address(k)), [k])

            return scope.loop(lanes, lane, VECTORIZED)

        def compute(k: Expr) -> Stmt:
            given = {value: tirx.BufferLoad(buffer, [k]) for value, buffer in loaded.items()}

            def at(*indices: Expr) -> Stmt:
                emit = Emitter()
                result = scope.evaluate(output, indices, emit, given)
                return seq(*emit.statements, tirx.BufferStore(results, result, [k]))

            if not needs_indices and all(n.op == "map" for n in scope.kernel.nodes):
                return at(*[i32(0)] * len(output.shape))
            cell = in_order(scope, scope.output_layout, at)
            return with_indices(scope, address(k)[0], cell.extents, cell.body)

        def write(k: Expr) -> Stmt:
            return tirx.BufferStore(scope.output, tirx.BufferLoad(results, [k]), address(k))

        body = seq(
            *map(load, alike),
            scope.loop(lanes, compute, UNROLLED),
            scope.loop(lanes, write, VECTORIZED),
        )
        for buffer in (*loaded.values(), results):
            body = allocate(buffer, body)
        return body

    return over_elements(scope, Region((output.size // lanes,), vector))


def read_in_place(scope: GpuScope) -> list[Value]:
    """The inputs of a kernel that are stored like its output and read at its indices only."""
    producers = scope.kernel.producers
    output = scope.kernel.output
    in_place: dict[Value, None] = {}
    elsewhere: set[Value] = set()
    seen: set[tuple[Value, bool]] = set()

    def visit(value: Value, same: bool) -> None:
        if (value, same) in seen:
            return
        seen.add((value, same))
        node = producers.get(value)
        if node is None:
            if same:
                in_place[value] = None
            else:
                elsewhere.add(value)
            return
        for source in node.inputs:
            visit(source, same and node.op == "map" and source.shape == output.shape)

    visit(output, same=True)
    other = elsewhere | _numbers(scope)
    # However else two layouts differ: cells that count alike hold the same element.
    return [v for v in in_place if v not in other and scope.layout(v) == scope.output_layout]


def _numbers(scope: GpuScope) -> set[Value]:
    """The constants that are written into the code as literals."""
    return {v for v in scope.kernel.inputs if v in scope.constants and scope.constants[v].size == 1}
