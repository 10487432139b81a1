"""Families of layouts: right numbers, the stages that should be gone are gone, a sane table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alt.graph import Graph, Node, Value
from alt.target import physical_cores, resolve
from alt.threads import use_threads
from benchmarks.__main__ import main
from benchmarks.layout_contest import Contest, compiled, contest, operators_of
from benchmarks.layout_families import Decisions, candidates, families_of, scheduled, stored
from benchmarks.layout_operators import Convolution, Operator, Product
from benchmarks.layout_report import draw, gains_table, report
from benchmarks.protocol import TOLERANCE, Plan, Timing, relative_error
from primitives.errors import LayoutError
from primitives.loops_nest import kind_of, placed_blocks

pytestmark = pytest.mark.llvm

ONE = ((1, 1), (1, 1))
OPERATORS: tuple[Operator, ...] = (
    Convolution(1, 8, 32, (9, 10), (3, 3), (1, 1), ONE),
    Convolution(1, 3, 16, (9, 8), (7, 7), (2, 2), ((3, 3), (3, 3))),
    Convolution(1, 16, 16, (8, 8), (3, 3), (2, 2), ONE, depthwise=True),
    Convolution(2, 4, 6, (3, 5, 6), (3, 3, 3), (1, 2, 2), (*ONE, (1, 1))),
    Convolution(1, 32, 24, (7, 4), (1, 1), (1, 1), ((0, 0), (0, 0))),
    Convolution(1, 8, 16, (8, 6), (1, 1), (2, 2), ((0, 0), (0, 0))),
    Product(12, 10, 48),
    Product(1, 64, 40),
)
CASES = [(op, family) for op in OPERATORS for family in families_of(op)]


def error_of(op: Operator, family: str, decisions: Decisions) -> float:
    use_threads(1, physical_cores())  # a pool of one thread keeps this one on one CPU
    arrays = op.inputs(np.random.default_rng(0))
    made = compiled(op, family, decisions, resolve("llvm", 1), 1, arrays)
    return relative_error([made.result()], [op.reference(arrays)])


@pytest.mark.parametrize(("op", "family"), CASES, ids=lambda case: getattr(case, "name", case))
def test_every_family_computes_the_operator(op: Operator, family: str) -> None:
    for decisions in candidates(op, family, resolve("llvm", 1), 2):
        assert error_of(op, family, decisions) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("op", "family"), CASES, ids=lambda case: getattr(case, "name", case))
def test_every_candidate_computes_the_operator(op: Operator, family: str) -> None:
    for decisions in candidates(op, family, resolve("llvm", 1), 16):
        assert error_of(op, family, decisions) <= TOLERANCE


@pytest.mark.parametrize(("op", "family"), CASES, ids=lambda case: getattr(case, "name", case))
def test_the_pad_is_gone_and_the_tile_is_in_registers(op: Operator, family: str) -> None:
    decisions = candidates(op, family, resolve("llvm", 2), 1)[0]
    func, how = scheduled(op, family, decisions, threads=2)
    blocks = {placed.name: placed for placed in placed_blocks(func)}
    assert set(blocks) == {"anchor_init", "anchor_update", "out"}
    update = blocks["anchor_update"]
    kinds = [kind_of(loop) for loop in update.loops]
    assert kinds[0] == "parallel"
    assert kinds.count("vectorized") == (how.tile[-1] > 1)
    assert str(update.written[0].scope()) == "local"


def test_what_the_families_store() -> None:
    op = Convolution(1, 8, 32, (6, 6), (3, 3), (1, 1), ONE)
    decisions = Decisions(16, 3, 2)
    shapes = {f: stored(op, f, decisions).layouts["out"].shape for f in families_of(op)}
    assert shapes["NCHW"] == (1, 32, 6, 6)
    assert shapes["NHWC"] == (1, 6, 6, 32)
    assert shapes["NCHWc"] == shapes["stored_at"] == (1, 2, 6, 6, 16)
    assert shapes["tiled"] == shapes["unfolded"] == (1, 3, 2, 2, 2, 3, 16)
    inputs = {f: stored(op, f, decisions).layouts["x"].shape for f in families_of(op)}
    assert inputs["NCHW"] == (1, 8, 8, 8)
    assert inputs["tiled"] == (1, 1, 8, 8, 8)
    assert inputs["unfolded"] == (1, 3, 2, 1, 4, 5, 8)
    joint = stored(op, "stored_at", decisions).joint
    assert joint is not None and joint.shape == (2, 8 * 9 + 1, 16)
    assert all(stored(op, f, decisions).joint is None for f in families_of(op)[:-1])


def test_decisions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LayoutError):
        scheduled(OPERATORS[0], "NCHWc", Decisions(24, 5), 1)
    with pytest.raises(LayoutError):
        scheduled(OPERATORS[-1], "rows", Decisions(16, 1), 1)


def test_candidates_are_distinct_and_fit_the_registers() -> None:
    machine = resolve("llvm", 2)
    for op, family in CASES:
        found = candidates(op, family, machine, 10)
        assert 1 <= len(found) == len(set(found)) <= 10
        for d in found:
            vectors = -(-d.vector // machine.lanes())
            assert vectors * (d.positions + 1) < machine.registers


def test_a_contest_has_every_family() -> None:
    op = OPERATORS[0]
    found = contest(
        op, ["net"], resolve("llvm", 1), trials=2, threads=1, plan=Plan(2, 1e-4, 1e-4), seed=0
    )
    assert set(found.timings) == set(found.decisions) == set(families_of(op))
    assert not found.wrong and not found.refused
    assert found.gain("NCHW") == 1.0
    assert found.best in families_of(op)


def test_wrong_candidates_are_counted_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPERATORS[-1]
    right = Product.reference
    monkeypatch.setattr(Product, "reference", lambda self, arrays: right(self, arrays) + 1)
    found = contest(
        op, ["net"], resolve("llvm", 1), trials=1, threads=1, plan=Plan(1, 1e-4, 1e-4), seed=0
    )
    assert found.wrong == dict.fromkeys(families_of(op), 1)
    assert found.timings == {} and found.best is None and found.gain("rows") is None
    assert "rows: 1 candidates computed something else" in report([found], 1e9, 1, Plan(1))


def example() -> list[Contest]:
    op, other = OPERATORS[0], OPERATORS[1]
    times = {f: Timing((1e-3 / (k + 1),) * 2) for k, f in enumerate(families_of(op))}
    half = {f: Timing((2e-3,) * 2) for f in families_of(op)[:-1]}
    return [Contest(op, ("net", "web"), times), Contest(other, ("net",), half)]


def test_the_table() -> None:
    header, rows = gains_table(example(), peak=1e9)
    first, second, net, web = rows
    cells = dict(zip(header, first, strict=True))
    share = OPERATORS[0].flops / (1e-3 / 6) / 1e9
    assert cells["NCHW us"] == "1000.0"
    assert cells["stored_at"] == f"6.00 ({share:.0%})"
    assert cells["best"] == "stored_at"
    assert dict(zip(header, second, strict=True))["stored_at"] == "-"
    assert net[0] == "geomean net" and net[3] == f"{2**0.5:.2f}"
    assert web[-1] == "6.00"


def test_the_report_and_the_picture(tmp_path: Path) -> None:
    contests = [*example(), Contest(OPERATORS[-1], ("net",), {"rows": Timing((1e-3,))})]
    text = report(contests, 1e9, 2, Plan(7), as_markdown=True)
    for part in ("| geomean web |", "7 interleaved rounds", "stored_at: none ran, 0 refused"):
        assert part in text
    draw(contests, tmp_path / "gains.svg")
    picture = (tmp_path / "gains.svg").read_text()
    series = picture.count('id="PathCollection_')
    assert series == 2 * (6 + 4)  # each once more in the legend


def test_operators_of_a_graph() -> None:
    def value(*shape: int) -> Value:
        return Value(f"v{shape}", shape, "float32")

    def conv(x: Value, w: Value, groups: int, dilation: int = 1) -> Node:
        attrs: dict[str, Any] = {
            "strides": (1, 1),
            "pads": ONE,
            "dilation": (dilation,) * 2,
            "groups": groups,
        }
        return Node("conv", "conv2d", (x, w), value(1, w.shape[0], 6, 6), attrs)

    x, w, narrow, alone = value(1, 8, 6, 6), value(4, 8, 3, 3), value(8, 4, 3, 3), value(8, 1, 3, 3)
    a, b = value(2, 5, 6), value(6, 7)
    nodes = [
        conv(x, w, 1),
        conv(x, w, 1),
        conv(x, narrow, 2),
        conv(x, alone, 8),
        conv(x, w, 1, 2),
        Node("matmul", "matmul", (a, b), value(2, 5, 7)),
        Node("matmul", "matmul", (a, value(2, 6, 7)), value(2, 5, 7)),
    ]
    constants = {v: np.zeros(v.shape, np.float32) for v in (w, narrow, alone, b)}
    graph = Graph([x, a], [n.output for n in nodes], nodes, constants)
    assert operators_of(graph) == [
        Convolution(1, 8, 4, (6, 6), (3, 3), (1, 1), ONE),
        Convolution(1, 8, 8, (6, 6), (3, 3), (1, 1), ONE, depthwise=True),
        Product(10, 6, 7),
    ]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    options = ["--only", "bert_tiny", "--shapes", "1", "--trials", "1", "--repeats", "2"]
    assert (
        main(["layouts", *options, "--sample-ms", "1", "--threads", "1", "--json", str(path)]) == 0
    )
    assert "geomean bert_tiny" in capsys.readouterr().out
    (found,) = json.loads(path.read_text())["contests"]
    assert set(found["timings"]) == set(families_of(OPERATORS[-1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "resnet19"], "unknown: resnet19; choose from resnet18"),
        (["--trials", "0"], "0 is not a positive whole number"),
        (["--plot", "no/such/folder/x.svg"], "no such folder"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["layouts", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
