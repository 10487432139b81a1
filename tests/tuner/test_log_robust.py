"""Whatever happens to a process that writes a log, or to the file: nothing recorded is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import HEADER, OTHER, record, write

from tuner import journal
from tuner.contents import parse
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.records import Header
from tuner.tidy import merge, prune

WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from measurements import HEADER, OTHER, record
from tuner.log import TuningLog
path, start, count, header = Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
header = {"HEADER": HEADER, "OTHER": OTHER}[header]
log = TuningLog.open(path, header)
print("ready", flush=True)
for number in range(start, start + count):
    assert log.append(record(number, at=number, header=header))
    print(number, flush=True)
"""


def writer(path, start, count, header="HEADER"):
    """A process that appends records and says the number of each as soon as it is on the disk."""
    here = Path(__file__).parent
    arguments = [str(here.parent.parent), str(here), str(path), str(start), str(count), header]
    command = [sys.executable, "-c", WRITER, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def numbers(log):
    return [each.candidate.loops["unroll"] for each in log.records]


# Processes


def test_a_writer_that_is_killed_at_any_moment_loses_nothing(tmp_path):
    path, chance, acknowledged = tmp_path / "log.jsonl", random.Random(0), set()
    for attempt in range(20):
        process = writer(path, 100_000 * attempt, 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        # The last line may be cut: then it does not count as said.
        acknowledged |= {int(line) for line in said.splitlines(keepends=True) if line[-1] == "\n"}
        log = TuningLog.open(path, HEADER)
        assert acknowledged <= set(numbers(log))
        assert log.append(record(-attempt - 1))
        acknowledged.add(-attempt - 1)
    assert len(acknowledged) > 20  # not only those of this process
    assert acknowledged <= set(numbers(TuningLog.read(path)))


def test_processes_append_at_the_same_time(tmp_path):
    path = tmp_path / "log.jsonl"
    writers = [writer(path, 1000, 200), writer(path, 2000, 200, "OTHER")]
    for process in writers:
        process.communicate(timeout=120)
        assert process.returncode == 0
    log = TuningLog.read(path)
    assert log.skipped == ()
    assert set(log.headers) == {HEADER.id, OTHER.id}
    for header, start in ((HEADER, 1000), (OTHER, 2000)):
        of_one = [record(n, at=n, header=header) for n in range(start, start + 200)]
        assert [r for r in log.records if r.header == header.id] == of_one


def test_a_log_is_pruned_and_merged_while_others_append(tmp_path):
    path, count = tmp_path / "log.jsonl", 150
    ready = threading.Barrier(3)

    def append(start):
        log = TuningLog.open(path, HEADER)
        ready.wait()
        for number in range(start, start + count):
            # Each is the best of its task: prune drops none.
            assert log.append(record(number, task=f"task {number}"))

    threads = [threading.Thread(target=append, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    write(path, record(1, 5.0, task="pruned"), record(2, 1.0, task="pruned"))
    ready.wait()
    while any(thread.is_alive() for thread in threads):
        prune(path, 1)
        merge([path], path)
    for thread in threads:
        thread.join()
    prune(path, 1)
    log = TuningLog.read(path)
    assert sorted(numbers(log)) == sorted([2, *range(count), *range(1000, 1000 + count)])
    assert log.skipped == ()
    assert {each.name for each in tmp_path.iterdir()} == {"log.jsonl"}


def test_a_file_that_was_removed_is_made_again_with_its_header(tmp_path):
    path = tmp_path / "log.jsonl"
    log = TuningLog.open(path, HEADER)
    log.append(record(1))
    path.unlink()
    assert log.append(record(2))
    again = TuningLog.read(path)
    assert numbers(again) == [2]
    assert set(again.headers) == {HEADER.id}


def test_a_process_forked_under_the_lock_does_not_keep_it(tmp_path):
    path = tmp_path / "log.jsonl"
    child = []

    def fork(before):
        if (process := os.fork()) == 0:
            time.sleep(30)
            os._exit(0)
        child.append(process)
        return before

    try:
        write(path, record(1))
        journal.replace(path, fork)
        appended = threading.Thread(target=write, args=(path, record(2)), daemon=True)
        appended.start()
        appended.join(10)
        assert not appended.is_alive()
    finally:
        os.kill(child[0], signal.SIGKILL)
        os.waitpid(child[0], 0)


# Damage


@given(st.data())
def test_a_log_cut_anywhere_keeps_the_lines_before_and_can_be_gone_on_with(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "log.jsonl"
    whole = write(path, *(record(n) for n in range(4))).read_bytes()
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


@given(st.data())
def test_lines_that_are_garbled_take_no_other_with_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("garbled") / "log.jsonl"
    lines = write(path, *(record(n) for n in range(6))).read_bytes().splitlines()
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


# Full disks


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "log.jsonl", record(1))
    log, before = TuningLog.open(path, HEADER), path.read_bytes()
    real, room = os.write, [10]

    def full(descriptor, data):
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: room.pop()])  # as much as fits, then nothing

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert not log.append(record(2))
        assert path.read_bytes() == before
        assert not log.append(record(3))
        assert path.read_bytes() == before
        with pytest.raises(TuningError, match=r"log\.jsonl: No space left.*2 measurements"):
            log.flush()
        assert "No space left" in caplog.text
    assert numbers(log) == [1, 2, 3]
    assert log.unsaved == 2
    assert log.append(record(4))
    assert log.unsaved == 0
    again = TuningLog.read(path)
    assert numbers(again) == [1, 2, 3, 4]
    assert again.skipped == ()


def test_a_file_that_may_not_grow_is_left_whole(tmp_path):
    """A limit of the operating system: the write is cut short for real."""
    path = write(tmp_path / "log.jsonl", record(1))
    log, before = TuningLog.open(path, HEADER), path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        assert not log.append(record(2))
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.flush()
    assert numbers(TuningLog.read(path)) == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_the_device_that_is_always_full():
    with pytest.raises(OSError, match="No space left"):
        journal.append(Path("/dev/full"), b"line\n")


def test_an_interrupt_while_writing_takes_the_line_back(tmp_path, monkeypatch):
    path = write(tmp_path / "log.jsonl", record(1))
    log = TuningLog.open(path, HEADER)

    def interrupted(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(record(2))
    log.flush()
    again = TuningLog.read(path)
    assert numbers(again) == [1, 2]
    assert again.skipped == ()


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write(tmp_path / "log.jsonl", record(1, 2.0), record(2, 1.0))
    before = path.read_bytes()

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(TuningError, match=r"No space left.*as it was"):
            prune(path, 1)
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"log.jsonl"}
