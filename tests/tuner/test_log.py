"""What a log says of candidates, logs of older schemas, and the laws of merging and pruning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements import HEADER, OTHER, candidate, dump, measured, numbers, record, write

from tuner.config import Config
from tuner.contents import Contents, parse
from tuner.errors import TuningError
from tuner.log import TuningLog
from tuner.records import SCHEMA, Header
from tuner.task import Candidate, Measurement, Status
from tuner.tidy import merge, prune

LOGS = Path(__file__).parent / "logs"
RESULTS = st.sampled_from([1.0, 1.5, 2.0, 3.0]) | st.sampled_from(Status).filter(
    lambda status: status is not Status.ok
)
RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from([0, 6, 12, 1]),  # the last one is in another layout
        RESULTS,
        task=st.sampled_from(["conv", "matmul"]),
        at=st.integers(0, 9),
        header=st.sampled_from([HEADER, OTHER]),
    ),
    max_size=12,
)


def log_of(*records):
    return TuningLog(Contents({h.id: h for h in (HEADER, OTHER)}, records, ()))


def known(log):
    """All that a log says of any task on any target."""
    keys = [(task, h.target_id) for task in ("conv", "matmul") for h in (HEADER, OTHER)]
    return {key: log.seen(*key) for key in keys}


# Records and headers


answers = st.integers() | st.booleans() | st.text() | st.lists(st.integers()).map(tuple)
configs = st.dictionaries(st.text(), answers | st.lists(st.text()).map(tuple)).map(Config)
measurements = st.builds(
    Measurement,
    st.sampled_from(Status),
    st.lists(st.floats(0, 1e6), min_size=1).map(tuple),
    st.none() | st.floats(allow_nan=False),
    st.text(),
    st.floats(0, 1e6),
)


@given(st.builds(Candidate, configs, configs), measurements, st.text(), st.text())
def test_a_record_reads_back(candidate, measurement, task, name):
    written = HEADER.record(task, candidate, measurement, "2025-01-31T12:00:00+01:00", name)
    contents = parse(f"{HEADER.line}\n{written.line}\n".encode(), "log")
    assert contents.records == (written,)
    assert contents.headers == {HEADER.id: HEADER}
    assert contents.skipped == ()
    assert written.line.isascii()


def test_an_error_without_a_number_reads_back():
    wrong = Measurement(Status.wrong, error=math.nan)
    line = HEADER.record("k", candidate(0), wrong, "2025-01-31T12:00:00Z").line
    contents = parse(f"{line}\n".encode(), "log")
    error = contents.records[0].measurement.error
    assert error is not None
    assert math.isnan(error)


def test_a_target_is_its_entries_and_not_their_order():
    turned = Header(dict(reversed(list(HEADER.target.items()))), HEADER.versions)
    assert turned.id == HEADER.id
    newer = Header(HEADER.target, {"alt": "0.2.0"})
    assert newer.target_id == HEADER.target_id
    assert len({HEADER.id, newer.id, OTHER.id}) == 3
    assert HEADER.target_id != OTHER.target_id


@pytest.mark.parametrize("when", ["yesterday", "2025-01-31T12:00:00", ""])
def test_a_record_needs_a_time_that_can_be_compared(when):
    with pytest.raises(TuningError, match="no time with an offset"):
        HEADER.record("conv", candidate(0), measured(1.0), when)


@pytest.mark.parametrize("seconds", [(math.inf,), (0.1, math.nan), (-1.0,)])
def test_samples_are_times(seconds):
    with pytest.raises(TuningError, match="finite"):
        HEADER.record("k", candidate(0), Measurement(Status.ok, seconds), "2025-01-31T12:00:00Z")


def test_unknown_fields_are_left_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    extended = [line[:-1] + ', "later": [1]}' for line in (HEADER.line, record(1).line)]
    path.write_text("\n".join(extended) + "\n")
    log = TuningLog.read(path)
    assert log.skipped == ()
    assert log.records == (record(1),)
    merge([path], tmp_path / "merged.jsonl")
    prune(tmp_path / "merged.jsonl", 1)
    assert (tmp_path / "merged.jsonl").read_text() == path.read_text()


def test_there_is_a_stored_log_of_each_schema():
    names = {f"schema_{version}.jsonl" for version in range(1, SCHEMA + 1)}
    assert {path.name for path in LOGS.iterdir()} == names


@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.stem)
def test_a_stored_log_is_readable(path):
    log = TuningLog.read(path)
    assert log.skipped == ()
    assert len(log.headers) == 2
    (target,) = {h.target_id for h in log.headers.values() if h.target["threads"] == 2}
    best = log.best("conv2d-1x64x56x56", target)
    assert best is not None
    assert best.candidate.layout == Config({"input.block": 16, "border": True})
    assert best.candidate.loops == Config({"oh": 7, "order": ("n", "oc", "oh"), "unroll": 16})
    assert best.measurement.seconds == (0.00041, 0.00042, 0.00043)
    assert best.measurement.error == 2.5e-7
    statuses = sorted(m.status.value for m in log.seen("conv2d-1x64x56x56", target).values())
    assert statuses == ["build", "ok", "ok", "wrong"]
    assert log.best("dense-1x1000", target) is None


# What is known of candidates


def test_samples_are_taken_together_and_their_median_counts():
    log = log_of(record(1, 1.0), record(1, 9.0, at=1), record(1, 5.0, at=2), record(2, 4.0))
    assert log.seen("conv", HEADER.target_id)[candidate(1)].seconds == (0.001, 0.009, 0.005)
    best = log.best("conv", HEADER.target_id)
    assert best is not None
    assert best.candidate == candidate(2)


def test_wrong_outweighs_what_was_ok_before():
    bad = record(1, Status.wrong, at=1)
    assert log_of(record(1), bad).best("conv", HEADER.target_id) is None
    assert log_of(bad, record(1, at=1)).best("conv", HEADER.target_id) is None
    late = log_of(record(1), bad, record(1, Status.timeout, at=2))
    assert late.seen("conv", HEADER.target_id)[candidate(1)].status is Status.wrong
    healed = log_of(record(1, 3.0), bad, record(1, 2.0, at=2)).best("conv", HEADER.target_id)
    assert healed is not None
    assert healed.measurement.seconds == (0.002,)


def test_other_failures_take_nothing_away():
    log = log_of(record(1), record(1, Status.timeout, at=1), record(2, Status.crash))
    seen = log.seen("conv", HEADER.target_id)
    assert seen[candidate(1)].ok
    assert seen[candidate(2)].status is Status.crash


def test_targets_and_tasks_are_apart():
    log = log_of(record(1, 2.0), record(2, 1.0, header=OTHER), record(3, 1.0, task="matmul"))
    assert set(log.seen("conv", HEADER.target_id)) == {candidate(1)}
    assert set(log.seen("conv", OTHER.target_id)) == {candidate(2)}
    assert log.seen("pool", HEADER.target_id) == {}


@given(RECORDS, st.randoms())
def test_what_is_known_does_not_depend_on_the_order_of_lines(records, chance):
    shuffled = chance.sample(records, len(records))
    assert known(log_of(*records)) == known(log_of(*shuffled))


# Files


def test_a_run_goes_on_where_the_last_one_ended(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1), record(2, Status.build))
    write(path, record(3, header=OTHER), header=OTHER)
    log = TuningLog.open(path, HEADER)
    assert set(log.seen("conv", HEADER.target_id)) == {candidate(1), candidate(2)}
    log.append(record(4))
    assert TuningLog.read(path).records == log.records
    assert numbers(log) == [1, 2, 3, 4]
    headers = [line for line in path.read_text().splitlines() if '"log"' in line]
    assert headers == [HEADER.line, OTHER.line]


def test_a_log_opened_for_reading_is_not_written(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1))
    before = path.read_bytes()
    log = TuningLog.read(path)
    assert not log.append(record(2))
    with pytest.raises(TuningError, match=r"TuningLog\.open"):
        log.flush()
    assert path.read_bytes() == before


def test_a_log_in_memory_can_be_appended_to():
    log = log_of(record(1))
    assert log.append(record(2, 0.5))
    best = log.best("conv", HEADER.target_id)
    assert best is not None
    assert best.candidate == candidate(2)


def test_a_measurement_counts_once_however_often_it_is_there(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1), record(1), record(2))
    assert len(path.read_text().splitlines()) == 4
    assert numbers(TuningLog.read(path)) == [1, 2]


# Merging and pruning


@settings(max_examples=30)
@given(RECORDS, RECORDS)
def test_merging(tmp_path_factory, ours, theirs):
    folder = tmp_path_factory.mktemp("merge")
    a, b = dump(folder / "a", *ours), dump(folder / "b", *theirs, header=OTHER)
    ab, ba = folder / "ab", folder / "ba"
    done = merge([a, b], ab)
    assert done.kept == len(TuningLog.read(ab).records)
    assert done.kept + done.dropped == sum(len(TuningLog.read(each).records) for each in (a, b))
    merge([b, a], ba)
    assert ab.read_bytes() == ba.read_bytes()
    assert known(TuningLog.read(ab)) == known(log_of(*dict.fromkeys([*ours, *theirs])))
    merge([ab, a], ab)
    merge([b, a, a], b)
    merge([ba], folder / "again")
    assert len({each.read_bytes() for each in (ab, ba, b, folder / "again")}) == 1


@settings(max_examples=50)
@given(RECORDS, st.integers(1, 3))
def test_pruning(tmp_path_factory, records, keep):
    path = dump(tmp_path_factory.mktemp("prune") / "log", *records)
    before = TuningLog.read(path)
    done = prune(path, keep)
    after = TuningLog.read(path)
    assert done.kept == len(after.records)
    assert done.kept + done.dropped == len(before.records)
    assert all(r.measurement.ok for r in after.records)
    for key, seen in known(after).items():
        whole = known(before)[key]
        for layout in {c.layout for c in whole}:
            ok = sorted(m.best for c, m in whole.items() if m.ok and c.layout == layout)
            assert sorted(m.best for c, m in seen.items() if c.layout == layout) == ok[:keep]
        assert seen.items() <= {c: m for c, m in whole.items() if m.ok}.items()
        assert after.best(*key) == before.best(*key)
    content = path.read_bytes()
    prune(path, keep)
    assert path.read_bytes() == content


def test_merging_and_pruning_say_what_they_could_not_read(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1))
    with path.open("a") as stream:
        stream.write('{"name": "co')
    for done in (merge([path], tmp_path / "out.jsonl"), prune(path, 1)):
        assert [(where, skipped.line) for where, skipped in done.skipped] == [(path, 3)]


def test_merging_overwrites_nothing(tmp_path):
    path, other = write(tmp_path / "a", record(1)), write(tmp_path / "b", record(2))
    with pytest.raises(TuningError, match="overwritten"):
        merge([path], other)
    with pytest.raises(TuningError, match="no such file"):
        merge([path, tmp_path / "gone"], tmp_path / "out")
    with pytest.raises(TuningError, match="at least 1"):
        prune(path, 0)
    assert numbers(TuningLog.read(other)) == [2]
    assert {each.name for each in tmp_path.iterdir()} == {"a", "b"}


def test_a_log_behind_a_link_is_pruned_in_its_place(tmp_path):
    path = write(tmp_path / "log.jsonl", record(1), record(7, 2.0))
    path.chmod(0o640)
    link = tmp_path / "link.jsonl"
    link.symlink_to(path.name)
    prune(link, 1)
    assert link.is_symlink()
    assert numbers(TuningLog.read(path)) == [1]
    assert path.stat().st_mode & 0o777 == 0o640
