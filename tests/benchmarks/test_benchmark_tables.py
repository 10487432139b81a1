"""What the user reads, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.machine import this_machine
from benchmarks.protocol import Comparison, Plan, Result, Timing
from benchmarks.tables import as_json, cost_table, markdown, plain, report, speed_table

CONTENDERS = ("ours", "onnxruntime", "openvino")


def comparison(ours: Result) -> Comparison:
    def baseline(name: str, seconds: float) -> Result:
        timing = Timing((seconds, seconds))
        return Result(name, timing, 0.0, 0.5, compile_peak_bytes=200_000_000)

    baselines = {"onnxruntime": 0.004, "openvino": 0.003}
    results = {name: baseline(name, seconds) for name, seconds in baselines.items()}
    return Comparison("net", "onnxruntime", {"ours": ours, **results})


def cells(ours: Result) -> dict[str, str]:
    header, (row,) = speed_table([comparison(ours)], CONTENDERS)
    return dict(zip(header, row, strict=True))


def test_speed_row_of_a_right_result() -> None:
    row = cells(Result("ours", Timing((0.002, 0.002)), 2.5e-6))
    assert row["network"] == "net"
    assert row["ours ms"].startswith("2.00 ")
    assert row["onnxruntime/ours"] == "2.00"
    assert row["openvino/ours"] == row["best/ours"] == "1.50"
    assert (row["max rel error"], row["result"]) == ("2.5e-06", "ok")


def test_wrong_and_failed_results_have_no_ratio() -> None:
    wrong = cells(Result("ours", Timing((0.001,) * 2), 0.3))
    assert (wrong["result"], wrong["best/ours"]) == ("wrong", "-")
    failed = cells(Result("ours", problem="ours: prepare: no"))
    assert (failed["ours ms"], failed["result"], failed["best/ours"]) == ("failed", "failed", "-")


def test_cost_row() -> None:
    ours = Result("ours", Timing((1.0, 1.0)), 0.0, 2.5, compile_peak_bytes=1_234_000_000)
    header, (row,) = cost_table([comparison(ours)], CONTENDERS)
    found = dict(zip(header, row, strict=True))
    assert (found["ours compile s"], found["ours peak MB"]) == ("2.50", "1234")
    assert found["openvino peak MB"] == "200"


def test_tables_are_rectangular() -> None:
    header, rows = speed_table([comparison(Result("ours", problem="no"))] * 2, CONTENDERS)
    lines = markdown(header, rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert len(plain(header, rows).splitlines()) == 3


def test_report_names_machine_and_every_problem() -> None:
    failed = comparison(Result("ours", problem="ours: prepare: no such operator"))
    wrong = comparison(Result("ours", Timing((1.0,)), 0.5))
    machine = this_machine()
    text = report([failed, wrong], CONTENDERS, machine, Plan(rounds=7), threads=2)
    for part in (machine.cpu, "2 threads", "7 interleaved rounds", machine.versions["numpy"]):
        assert part in text
    assert "net: ours: prepare: no such operator" in text
    assert "net: ours differs from onnxruntime: relative error 5.0e-01" in text


def test_json_survives_infinite_errors() -> None:
    wrong = comparison(Result("ours", Timing((1.0,)), float("inf")))
    data = json.loads(json.dumps(as_json([wrong], this_machine(), Plan(), 1), allow_nan=False))
    ours = data["networks"][0]["contenders"]["ours"]
    assert (ours["correct"], ours["median_seconds"]) == (False, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "resnet19"], "unknown: resnet19; choose from resnet18"),
        (["--baselines", "onnxrt"], "unknown: onnxrt; choose from onnxruntime, openvino"),
        (["--threads", "0"], "0 is not a positive whole number"),
        (["--no-ours", "--baselines", ""], "nothing to measure"),
        (["--json", "no/such/folder/x.json"], "no such folder"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["networks", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_command_line_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks", "networks", "--only", "bert_tiny", "--no-ours"]
    options = ["--repeats", "2", "--sample-ms", "1", "--threads", "1", "--json", str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, *options], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bert_tiny" in done.stdout and "openvino ms" in done.stdout
    (network,) = json.loads(path.read_text())["networks"]
    assert set(network["contenders"]) == {"onnxruntime", "openvino"}
    assert all(len(c["samples_seconds"]) == 2 for c in network["contenders"].values())
