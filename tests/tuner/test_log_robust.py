"""Whatever happens to a process that writes a log, or to the file: nothing recorded is lost."""

from __future__ import annotations

import errno
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
from measurements import HEADER, OTHER, numbers, record, write

from tuner import journal
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.tidy import merge, prune

WRITER = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from measurements import HEADER, OTHER, record
from tuner.log import TuningLog

path, header = Path(sys.argv[3]), {"HEADER": HEADER, "OTHER": OTHER}[sys.argv[4]]

def say(*words):
    # In one write, which a kill does not divide; print's number and newline may be two.
    os.write(1, " ".join(map(str, words)).encode() + b"\\n")

def append(start, count):
    log = TuningLog.open(path, header)
    for number in range(start, start + count):
        assert log.append(record(number, at=number, header=header))
        say(number)

for line in sys.stdin:
    start, count = map(int, line.split())
    if (process := os.fork()) == 0:
        append(start, count)
        os._exit(0)
    say("process", process)
    say("ended", os.waitpid(process, 0)[1])
"""


def writer(path, header="HEADER"):
    """A process that starts others, one after the other, for each line `START COUNT` it is given.

    They append so many records, and say the number of each as soon as it is on the disk.
    """
    here = Path(__file__).parent
    arguments = [str(here.parent.parent), str(here), str(path), header]
    command = [sys.executable, "-c", WRITER, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# Processes


def test_a_writer_that_is_killed_at_any_moment_loses_nothing(tmp_path):
    path, chance, acknowledged = tmp_path / "log.jsonl", random.Random(0), set()
    with writer(path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for attempt in range(20):
            print(100_000 * attempt, 100_000, file=process.stdin, flush=True)
            # Some soon, so that it may not have begun; the others surely while it writes.
            soon, alive = attempt % 4 == 0, 0
            for line in process.stdout:
                word, *values = line.split()
                if word == "ended":
                    assert int(values[0]) == signal.SIGKILL
                    break
                if word == "process":
                    alive = int(values[0])
                else:
                    acknowledged.add(int(word))
                if alive and (soon or word != "process"):
                    time.sleep(chance.uniform(0, 0.05))
                    os.kill(alive, signal.SIGKILL)
                    alive = 0
            log = TuningLog.open(path, HEADER)
            assert acknowledged <= set(numbers(log))
            assert log.append(record(-attempt - 1))
            acknowledged.add(-attempt - 1)
        process.stdin.close()
    assert len(acknowledged) >= 20 + 15  # not only those of this process
    assert acknowledged <= set(numbers(TuningLog.read(path)))


def test_processes_append_at_the_same_time(tmp_path):
    path = tmp_path / "log.jsonl"
    first, second = writer(path), writer(path, "OTHER")
    for process, start in ((first, 1000), (second, 2000)):
        assert process.stdin is not None
        print(start, 200, file=process.stdin, flush=True)
    for process in (first, second):
        said, _ = process.communicate(timeout=120)
        assert said.endswith("ended 0\n")
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
    write(path, record(1, 5.0, task="pruned"), record(7, 1.0, task="pruned"))
    ready.wait()
    while any(thread.is_alive() for thread in threads):
        prune(path, 1)
        merge([path], path)
    for thread in threads:
        thread.join()
    prune(path, 1)
    log = TuningLog.read(path)
    assert sorted(numbers(log)) == sorted([7, *range(count), *range(1000, 1000 + count)])
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


def test_a_process_forked_under_the_lock_does_not_keep_it(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    child = []

    def fork(descriptor):
        if (process := os.fork()) == 0:
            time.sleep(30)
            os._exit(0)
        child.append(process)

    log = TuningLog.open(path, HEADER)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fork)  # what comes last under the lock
            assert log.append(record(1))
        appended = threading.Thread(target=write, args=(path, record(2)), daemon=True)
        appended.start()
        appended.join(10)
        assert not appended.is_alive()
    finally:
        os.kill(child[0], signal.SIGKILL)
        os.waitpid(child[0], 0)


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
    assert numbers(TuningLog.read(path)) == [1]
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


def test_a_file_is_put_in_place_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    mask = os.umask(0o027)
    journal.write(path, b"first")
    os.umask(mask)
    journal.write(path, b"second")
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link"
    link.symlink_to(path)
    journal.write(link, b"third")
    assert link.is_symlink() and path.read_bytes() == b"third"

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.write(path, b"fourth")
    assert path.read_bytes() == b"third"
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link"}
