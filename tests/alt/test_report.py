"""The report on a log: what it draws is what the log says, whatever is in it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from itertools import pairwise
from math import inf
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alt.cli import main
from alt.report import reports_of
from alt.report_chart import steps, ticks
from alt.report_page import page
from tuner.config import Config
from tuner.contents import Contents
from tuner.log import TuningLog
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status

HEADER = Header({"mcpu": "znver4", "threads": 2, "features": ["avx2"]}, {"alt": "0.1.0"})
START = datetime(2025, 1, 31, 12, tzinfo=timezone.utc)
ODD = "<script>conv</script> & 1x3"


def record(task, at, milliseconds=None, *, tile=1, block=1, status=Status.ok, header=HEADER):
    seconds = () if milliseconds is None else tuple(milliseconds * 1e-3 * k for k in (0.9, 1, 1.2))
    loops = Config({"tile": tile}) if tile else Config()
    candidate = Candidate(Config({"block": block}), loops)
    measured = Measurement(status, seconds, build_seconds=0.5)
    when = (START + timedelta(seconds=at)).isoformat()
    return header.record(f"{task} key", candidate, measured, when, task)


def other(key, layout, milliseconds, at):
    candidate = Candidate(Config(layout), Config())
    measured = Measurement(Status.ok, (milliseconds * 1e-3,))
    when = (START + timedelta(seconds=at)).isoformat()
    return HEADER.record(key, candidate, measured, when, "other")


RECORDS = [
    record("conv", 0, 4.0),
    record("conv", 0, status=Status.build, tile=2),
    record("dense", 5, 2.0),
    record("conv", 9, 3.0, tile=4, block=16),
    record("conv", 9, 5.0, tile=8, block=16),
    record("dense", 5000, status=Status.wrong, tile=2),  # taken up again
    record(ODD, 5010, status=Status.crash),
    other("network 12", {"variant": "joint"}, 5.0, 5012),
    other("network 12", {"variant": "default"}, 6.0, 5012),
    other("conversion float32 1x16x9x9", {"from": 1, "to": 16}, 0.25, 5013),
]


def log_of(*records, headers=(HEADER,)):
    return TuningLog(Contents({h.id: h for h in headers}, tuple(records), ()))


@pytest.fixture
def report():
    (found,) = reports_of(log_of(*RECORDS))
    return found


def test_tasks_are_followed_from_their_first_candidate(report):
    conv, dense, odd = report.tasks
    assert (conv.default, conv.seconds) == (4e-3, 3e-3)
    assert conv.gain == pytest.approx(4 / 3)
    assert [(p.trial, p.elapsed, p.seconds) for p in conv.curve] == [(1, 0, 4e-3), (4, 9, 3e-3)]
    assert [(t.layout["block"], t.trials, t.best) for t in conv.layouts] == [
        (16, 2, 3e-3),
        (1, 2, 4e-3),
    ]
    assert conv.statuses == {Status.ok: 3, Status.build: 1}
    assert dense.gain == 1
    assert (odd.default, odd.seconds, odd.gain, odd.curve) == (inf, inf, None, ())


def test_time_is_added_up_without_pauses(report):
    assert report.pauses == 1
    assert report.elapsed == 9 + 13
    assert [t.elapsed for t in report.tasks] == [4, 5, 10]
    assert report.other_elapsed == 3
    assert sum(t.elapsed for t in report.tasks) + report.other_elapsed == report.elapsed
    assert report.build_seconds[Status.ok] == 2.0
    assert sum(report.build_seconds.values()) == 0.5 * report.trials


def test_the_whole_is_the_sum_over_tasks(report):
    assert [(p.trial, p.seconds) for p in report.whole] == [
        (1, pytest.approx(6e-3)),
        (3, pytest.approx(6e-3)),
        (4, pytest.approx(5e-3)),
    ]
    assert report.networks == ({"joint": 5e-3, "default": 6e-3},)
    assert report.conversions == (("float32 1x16x9x9", "1 to 16", 0.25e-3),)
    assert report.trials == 7  # of tasks, not of networks


def test_what_was_wrong_is_no_longer_the_best():
    (report,) = reports_of(
        log_of(
            record("conv", 0, 4.0),
            record("conv", 1, 1.0, tile=2),
            record("conv", 2, status=Status.wrong, tile=2),
        )
    )
    assert [p.seconds for p in report.tasks[0].curve] == [4e-3, 1e-3, 4e-3]
    assert report.tasks[0].seconds == 4e-3


def test_every_target_has_a_report_the_latest_first():
    other_machine = Header({"mcpu": "apple-m1"}, {})
    lost = Header({"mcpu": "gone"}, {})
    records = [
        record("conv", 0, 4.0),
        record("conv", 50, 2.0, header=other_machine),
        record("conv", 90, 2.0, header=lost),
    ]
    reports = reports_of(log_of(*records, headers=(HEADER, other_machine)))
    assert [r.target for r in reports] == [h.target_id for h in (lost, other_machine, HEADER)]
    text = page("log", reports)
    assert "apple-m1" in text and "znver4" in text and "lost" in text
    identifiers = re.findall(r' id="([^"]*)"', text)
    assert len(identifiers) == len(set(identifiers)) == 3


class Balance(HTMLParser):
    """Tags that are open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith("#")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_every_task_and_loads_nothing(report):
    text = page("log & <b>", [report])
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert {"svg", "table", "style"} <= balance.seen
    assert not {"script", "link", "img"} & balance.seen
    assert "url(" not in text and "@import" not in text
    for shown in ("conv", "dense", "&lt;script&gt;conv&lt;/script&gt; &amp; 1x3"):
        assert text.count(shown) >= 3
    for shown in ("znver4", "block=16", "tile=4", "1.33", "1 results were wrong", "1x16x9x9"):
        assert shown in text
    drawings = re.findall(r"<svg.*?</svg>", text)
    assert len(drawings) == 2 + 2 + 2 * 2  # the whole, sparklines, two tasks that have times
    for drawing in drawings:
        ET.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing


@given(
    points=st.lists(
        st.tuples(st.floats(0, 1e5), st.floats(1e-6, 1e4)), min_size=1, max_size=20
    ).map(sorted),
    default=st.none() | st.floats(1e-6, 1e4),
)
@example(points=[(5e-324, 1.0)], default=None)
def test_charts_stay_in_their_frame(points, default):
    drawn = ET.fromstring(steps(points, points[-1][0], across="trials", up="ms", default=default))
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    dots = drawn.findall("circle")
    assert len(dots) == len(points)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= width
        assert 0 <= float(dot.attrib["cy"]) <= height
    drawn_at = [(y, float(dot.attrib["cy"])) for (_, y), dot in zip(points, dots, strict=True)]
    for (y, above), (z, below) in pairwise(drawn_at):
        assert y == z or (y < z) == (above > below) or abs(above - below) <= 0.2


@given(low=st.floats(0, 1e6), span=st.floats(1e-3, 1e6), about=st.integers(2, 8))
def test_ticks_are_inside_and_evenly_apart(low, span, about):
    found = ticks(low, low + span, about)
    assert 1 <= len(found) <= 2 * about + 1
    assert low - 1e-6 * span <= found[0]
    assert found[-1] <= low + span * (1 + 1e-6)
    gaps = {round((b - a) / span, 6) for a, b in pairwise(found)}
    assert len(gaps) <= 1


# The command


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [HEADER.line, *(each.line for each in RECORDS)]
    Path("model.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_the_command_writes_the_page(log, capsys):
    assert main(["report", "model.jsonl"]) == 0
    assert capsys.readouterr().out == "model.html: 3 tasks, 7 measurements\n"
    written = Path("model.html").read_text()
    assert written == page("model.jsonl", reports_of(TuningLog.read(Path("model.jsonl"))))
    assert main(["report", "model.jsonl", "-o", "other.html", "--json"]) == 0
    assert '"tasks": 3' in capsys.readouterr().out
    assert Path("other.html").read_text() == written


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["gone.jsonl"], "gone.jsonl"),
        (["model.jsonl", "-o", "no/such/page.html"], "no/such"),
        (["model.jsonl", "-o", "page.pdf"], ".html"),
        (["empty.jsonl"], "no measurements"),
        (["model.jsonl", "-o", "folder.html"], "folder.html"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, mentioned, log, capsys):
    Path("empty.jsonl").write_text(f"{HEADER.line}\n")
    Path("folder.html").mkdir()
    assert main(["report", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert mentioned in captured.err and "internal error" not in captured.err
