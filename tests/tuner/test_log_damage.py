"""Logs whose lines are cut, garbled or changed, and files that are no logs."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements import HEADER, dump, numbers, record, write

from tuner.contents import parse
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.records import Header
from tuner.tidy import merge, prune

# Lines


@settings(max_examples=40)
@given(st.data())
def test_a_log_cut_anywhere_keeps_the_lines_before_and_can_be_gone_on_with(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "log.jsonl"
    whole = dump(path, *(record(n) for n in range(4))).read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:length])
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    # A line that lacks only its newline is whole.
    kept = max(0, sum(end <= length for end in ends) - 1)
    log = TuningLog.open(path, HEADER)
    assert numbers(log) == list(range(kept))
    assert len(log.skipped) == (length not in {0, *ends, *(end + 1 for end in ends)})
    assert log.append(record(9))
    again = TuningLog.read(path)
    assert numbers(again) == [*range(kept), 9]
    assert HEADER.id in again.headers


@settings(max_examples=40)
@given(st.data())
def test_lines_that_are_garbled_take_no_other_with_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("garbled") / "log.jsonl"
    lines = dump(path, *(record(n) for n in range(6))).read_bytes().splitlines()
    garbage = st.binary(min_size=1, max_size=40).filter(lambda b: b"\n" not in b)
    odd = st.sampled_from([b"\0" * 50, b"{}", b"[" * 5000, b"17", b'{"task": NaN}', b"\xff\xfe"])
    bad = data.draw(st.dictionaries(st.integers(0, 6), garbage | odd, max_size=5))
    for position, text in bad.items():
        lines[position] = text
    path.write_bytes(b"\n".join(lines) + b"\n")
    if len(bad) < 7:
        log = TuningLog.read(path)
        assert numbers(log) == [n for n in range(6) if n + 1 not in bad]
        blank = {p + 1 for p, text in bad.items() if not text.strip(b"\0 \t\r")}
        assert {each.line for each in log.skipped} == {p + 1 for p in bad} - blank
        # Without its header a record still counts for its task and target.
        assert set(log.seen("conv", HEADER.target_id)) == {r.candidate for r in log.records}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=4,
    ),
    st.integers(0, 30),
)
def test_a_field_of_another_type_is_skipped_or_harmless(value, which):
    lines = []
    for line in (HEADER.line, record(1).line):
        fields = json.loads(line)
        name = sorted(fields)[which % len(fields)]
        lines.append(json.dumps({**fields, name: value}))
    good = record(2).line
    try:
        contents = parse("\n".join([*lines, good, ""]).encode(), "log")
    except TuningError as error:
        assert "schema" in str(error)
    else:
        assert contents.records[-1] == record(2)
        assert len(contents.headers) + len(contents.records) + len(contents.skipped) == 3


def test_what_is_skipped_is_said(tmp_path, caplog):
    path = write(tmp_path / "log.jsonl", record(1))
    with path.open("a") as stream:
        stream.write('{"name": "co\n')
    with caplog.at_level(logging.WARNING):
        TuningLog.read(path)
    assert f"{path}, line 3 is skipped" in caplog.text


def test_a_header_whose_content_was_changed_is_not_believed(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1))
    path.write_text(path.read_text().replace('"mcpu": "znver4"', '"mcpu": "znver5"'))
    log = TuningLog.read(path)
    assert log.headers == {}
    assert "whose contents are those of" in log.skipped[0].why
    assert log.best("conv", HEADER.target_id) is not None


# Files that are no logs


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '{"log": "other"}\n', '{"task": 1}\n'])
def test_a_file_that_is_no_log_is_left_alone(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    for action in (
        lambda: TuningLog.open(path, HEADER),
        lambda: TuningLog.read(path),
        lambda: prune(path, 1),
        lambda: merge([path], tmp_path / "out.jsonl"),
    ):
        with pytest.raises(TuningError, match=r"notes\.txt.*not a log"):
            action()
    assert path.read_text() == content
    assert {each.name for each in tmp_path.iterdir()} == {"notes.txt"}


def test_a_newer_schema_is_refused(tmp_path):
    newer = Header(HEADER.target, HEADER.versions, schema=99)
    path = tmp_path / "log.jsonl"
    path.write_text(newer.line + "\n")
    with pytest.raises(TuningError, match=r"log\.jsonl, line 1: .*schema 99.*update"):
        TuningLog.open(path, HEADER)
    assert path.read_text() == newer.line + "\n"


def test_files_that_cannot_be_logs(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(TuningError, match="no file"):
            TuningLog.open(path, HEADER)
    with pytest.raises(TuningError, match="no such file"):
        TuningLog.read(tmp_path / "gone.jsonl")
    with pytest.raises(TuningError, match=r"No such file.*can be written"):
        TuningLog.open(tmp_path / "gone" / "log.jsonl", HEADER)
