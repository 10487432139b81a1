"""What is reported of networks that are compiled for a GPU that is not there."""

from __future__ import annotations

import os
from functools import partial

import pytest

from alt.cuda.gpu import PRECISIONS as KNOWN
from alt.cuda.legality import MOST_THREADS
from alt.errors import AltError
from benchmarks.cuda_offline import (
    HEADER,
    PRECISIONS,
    Case,
    Outcome,
    cases_of,
    compiled_alone,
    main,
    report,
    row_of,
)
from benchmarks.cuda_program import compile_offline
from benchmarks.machine import this_machine
from benchmarks.networks import NETWORKS, bert_tiny, light_graph, light_names

SMALL = partial(bert_tiny, tokens=12)


@pytest.mark.cuda_build
def test_what_a_network_takes():
    found = {p: compile_offline(SMALL, "sm_90", p, with_nvcc=False) for p in ("fp32", "tf32")}
    assert found["fp32"].on_tensor_cores == 0
    assert 0 < found["tf32"].on_tensor_cores < found["tf32"].kernels <= found["tf32"].launches
    for made in found.values():
        assert made.generate_seconds > 0
        assert (made.nvcc_seconds, made.registers, made.spilled_bytes) == (None, None, None)
        assert 32 <= made.threads <= 1024
        assert 0 < made.shared_bytes <= 227 << 10
        row = row_of(Outcome(Case("bert_tiny", SMALL, "fp32"), made))
        assert len(row) == len(HEADER)
        assert row[-1] == "proved"


@pytest.mark.cuda_build
def test_what_could_not_be_launched_is_no_result(monkeypatch):
    monkeypatch.setitem(MOST_THREADS, "threadIdx.x", 16)
    with pytest.raises(AltError, match=r"threadIdx.x has \d+ values; 1 to 16 are possible"):
        compile_offline(SMALL, "sm_90", "fp32", with_nvcc=False)


def test_a_failure_costs_one_case_and_is_told():
    outcomes = [
        compiled_alone(Case(name, build, "fp32"), "sm_90", with_nvcc=False)
        for name, build in (
            ("dead", partial(os._exit, 3)),
            ("gone", partial(light_graph, "light_none")),
        )
    ]
    assert outcomes[0].problem == "the process died"
    assert outcomes[1].problem.startswith("FileNotFoundError")
    page = report(outcomes, this_machine(), "sm_90", "some command")
    assert "`some command`" in page
    assert "- dead, fp32: the process died" in page
    assert page.count("| failed |") == 2


def test_every_network_is_a_case():
    names = [*NETWORKS, *light_names()]
    cases = cases_of(names, PRECISIONS, batch=2)
    assert len({(c.network, c.precision) for c in cases}) == 14 * 3
    assert PRECISIONS == KNOWN
    model = cases_of(["bert_tiny"], ["fp32"], batch=2)[0].build()
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--only", "resnet19"], "resnet18"),
        (["--precision", "bf16"], "tf32"),
        (["--batch", "0"], "positive"),
        (["--no-nvcc", "--markdown", "no/such/folder/a.md"], "no such folder"),
    ],
)
def test_wrong_usage(arguments, mentioned, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert mentioned in capsys.readouterr().err


def test_machine_code_needs_nvcc(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        main([])
    assert "--no-nvcc" in capsys.readouterr().err
