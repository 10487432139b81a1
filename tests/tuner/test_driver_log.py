"""Tuning and its log: it goes on where it ended, keeps all records, and the model learns from them."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import HEADER, Clock, Measured, Synthetic, memory, searched, tuned

from tuner.boosted import Boosted
from tuner.config import Config
from tuner.contents import Contents
from tuner.cost_model import pairwise_accuracy
from tuner.experience import FEATURES, MOST, experience
from tuner.log import TuningLog
from tuner.replay import ReplayMeasurer
from tuner.task import Candidate, Measurement, Status

TASK = Synthetic()
THREE = [Synthetic("a"), Synthetic("b", scale=10.0), Synthetic("c", scale=0.1, weight=3)]


# --- resuming ------------------------------------------------------------------------------------


def test_a_run_goes_on_where_the_last_ended_and_measures_nothing_twice(tmp_path):
    path = tmp_path / "log.jsonl"
    first, _ = tuned(THREE, TuningLog.open(path, HEADER), trials=100)
    measurer = Measured()
    second, _ = tuned(THREE, TuningLog.open(path, HEADER), measurer, trials=100, seed=1)
    before = {(r.task, r.candidate) for r in TuningLog.read(path).records[: first.trials]}
    asked = searched(second, measurer)
    assert len(set(asked)) == 100 and not set(asked) & before
    for key, best in first.best.items():
        assert second.best[key].seconds <= best.seconds
        assert second.default[key] == first.default[key]


def test_a_log_of_another_target_is_not_taken_for_this_one():
    other = type(HEADER)({**HEADER.target, "threads": 8}, HEADER.versions)
    log = memory()
    tuned([TASK], log, trials=40)
    moved = [
        other.record(r.task, r.candidate, r.measurement, r.when, r.name) for r in log.records
    ]  # fmt: skip
    foreign = TuningLog(Contents({other.id: other}, tuple(moved), ()))
    measurer = Measured()
    tuned([TASK], foreign, measurer, trials=40)
    assert {c for _, c in measurer.asked} & {r.candidate for r in moved}


@pytest.mark.parametrize("at", [0, 1, 37, 64, 99, 103])
def test_an_interrupt_keeps_what_was_measured(at, tmp_path):
    path = tmp_path / "log.jsonl"
    measurer = Measured(interrupt=at)
    outcome, _ = tuned(THREE, TuningLog.open(path, HEADER), measurer, trials=100)
    assert outcome.interrupted and outcome.reason == "interrupted"
    records = TuningLog.read(path).records
    assert [(r.task, r.candidate) for r in records] == measurer.asked
    assert outcome.trials == min(len(measurer.asked), 100)
    for key in {key for key, _ in measurer.asked}:
        best = TuningLog.read(path).best(key, HEADER.target_id)
        assert outcome.best[key].seconds == best.measurement.best
    resumed, _ = tuned(THREE, TuningLog.open(path, HEADER), trials=100)
    assert not resumed.interrupted and resumed.trials == 100


@pytest.mark.parametrize("model", [None, Boosted])
def test_the_seed_decides(model):
    def asked(seed):
        measurer = Measured()
        kind = model and model(seed=0)
        tuned(THREE, memory(), measurer, trials=120, seed=seed, model=kind)
        return measurer.batches

    assert asked(5) == asked(5) != asked(6)


def test_the_same_log_leads_to_the_same_questions():
    log = memory()
    tuned(THREE, log, trials=60)
    one, again = Measured(), Measured()
    for measurer in (one, again):
        tuned(THREE, memory(log), measurer, trials=60, seed=2, model=Boosted(seed=0))
    assert one.batches == again.batches and len(one.asked) >= 60


def test_a_run_can_be_repeated_from_its_log_alone():
    log = memory()
    first, _ = tuned([TASK], log, trials=60)
    repeated, _ = tuned([TASK], memory(), ReplayClock(log), trials=60)
    assert repeated.best["conv"].candidate == first.best["conv"].candidate


class ReplayClock(Measured):
    """Answers from a log."""

    def __init__(self, log):
        super().__init__(Clock())
        self.replay = ReplayMeasurer(log, HEADER.target_id)

    def measure(self, task, candidates):
        return self.replay.measure(task, candidates)


# --- the model ----------------------------------------------------------------------------------


class Spy(Boosted):
    """Keeps how much it was given to learn from."""

    def __init__(self):
        super().__init__(seed=0)
        self.sizes = []

    def fit(self, groups):
        self.sizes.append(sum(len(group.seconds) for group in groups))
        super().fit(groups)


def test_the_model_learns_as_measurements_come_but_not_every_round():
    model = Spy()
    _, rounds = tuned(THREE, memory(), trials=400, batch=4, patience=100, model=model)
    assert 5 < len(model.sizes) < len(rounds) / 2
    assert model.sizes == sorted(set(model.sizes))


def test_the_model_learns_from_failures_too_but_not_from_them_alone():
    model = Spy()
    tuned([TASK], memory(), Measured(fails=lambda _: True), trials=64, model=model)
    assert model.sizes == []
    odd = Measured(fails=lambda c: c.loops["tile"] % 16 == 0)
    tuned([TASK], memory(), odd, trials=64, model=model)
    assert np.isfinite(model.predict(np.zeros((1, 3)))).all() and model.sizes


def test_the_model_learns_from_other_logs_what_belongs_to_these_tasks():
    log = memory()
    tuned([TASK], log, trials=64, seed=9)
    stale = log.records[0].candidate
    strange = type(stale)(stale.layout, type(stale.loops)({"tile": 65, "unroll": 0}))
    log.append(
        HEADER.record("conv", strange, log.records[0].measurement, "2025-01-31T12:00:00Z", "conv")
    )
    model, measurer = Spy(), Measured()
    tuned([TASK], memory(), measurer, trials=8, model=model, others=[log])
    assert model.sizes[0] == len(log.seen("conv", HEADER.target_id)) - 1
    assert len(measurer.asked) >= 8


def test_the_model_learns_from_other_logs_about_tasks_that_are_in_no_network_here():
    log = memory()
    tuned([Synthetic("elsewhere")], log, trials=64, seed=9, model=Spy())
    assert all(len(r.features) == 3 for r in log.records)
    model = Spy()
    tuned([TASK], memory(), trials=1, batch=1, model=model, others=[log])
    assert model.sizes == [len(log.seen("elsewhere", HEADER.target_id))]
    # So the first candidates are ranked by what was seen there: slow ones are not asked for.
    features = Synthetic("elsewhere").features([r.candidate for r in log.records])
    seconds = np.array([r.measurement.best for r in log.records])
    assert pairwise_accuracy(model.predict(features), seconds) > 0.8


def test_its_own_log_teaches_the_model_about_other_networks_and_targets(tmp_path):
    path = tmp_path / "log.jsonl"
    other = type(HEADER)({**HEADER.target, "threads": 8}, HEADER.versions)
    for header in (HEADER, other):
        tuned(THREE, TuningLog.open(path, header), trials=48, model=Spy(), header=header)
    model = Spy()
    tuned([TASK], TuningLog.open(path, HEADER), trials=1, batch=1, model=model)
    log = TuningLog.read(path)
    here = [log.seen(key, HEADER.target_id) for key in ("a", "b", "c")]
    there = [log.seen(key, other.target_id) for key in ("a", "b", "c")]
    assert model.sizes == [sum(map(len, here + there))]


def test_features_of_another_version_or_number_teach_nothing():
    log = memory()
    tuned([Synthetic("elsewhere")], log, trials=64, seed=9, model=Spy())
    newer = type(HEADER)(HEADER.target, {**HEADER.versions, FEATURES: "other"})
    assert experience([log], HEADER, (), 3)
    assert not experience([log], newer, (), 3)
    assert not experience([log], HEADER, (), 4)
    assert not experience([log], HEADER, ["elsewhere"], 3)


def test_of_a_long_log_the_last_tasks_are_learnt_from():
    log = memory()
    for number in range(700):
        for tile in (1, 2, 4, 8):
            loops = Config({"tile": tile, "unroll": number})
            measurement = Measurement(Status.ok, (float(number + 1),))
            when = f"2025-01-31T{number // 60:02}:{number % 60:02}:00Z"
            candidate = Candidate(Config({}), loops)
            log.append(HEADER.record(f"task {number}", candidate, measurement, when, "", (1.0,)))
    groups = experience([log], HEADER, (), 1)
    assert sum(len(group.seconds) for group in groups) == MOST
    assert [group.seconds[0] for group in groups] == list(range(700, 700 - MOST // 4, -1))


def test_what_is_known_of_a_candidate_teaches_not_its_last_record():
    log = memory()
    for at, status in enumerate((Status.ok, Status.ok, Status.timeout)):
        for tile in (1, 2, 4, 8):
            candidate = Candidate(Config({}), Config({"tile": tile}))
            measurement = Measurement(status, (float(tile),) if status is Status.ok else ())
            when = f"2025-01-31T12:00:{10 * at + tile:02}Z"
            log.append(HEADER.record("elsewhere", candidate, measurement, when, "", (tile,)))
    (group,) = experience([log], HEADER, (), 1)
    assert sorted(group.seconds) == [1.0, 2.0, 4.0, 8.0]
    assert list(group.features[:, 0]) == list(group.seconds)


def test_features_that_the_log_has_are_not_computed_again():
    class Counting(Synthetic):
        computed = 0

        def features(self, candidates):
            type(self).computed += len(candidates)
            return super().features(candidates)

    log = memory()
    tuned([Counting("conv")], log, trials=48, model=Spy())
    Counting.computed = 0
    tuned([Counting("conv")], log, trials=1, batch=1, model=Spy(), loops="random")
    assert Counting.computed < len(log.seen("conv", HEADER.target_id)) / 2
