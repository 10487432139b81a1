from __future__ import annotations

import pickle
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.choices import Config
from tuner.errors import TuningError
from tuner.task import Candidate, Measurement, Status

SAMPLES = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=9).map(tuple)


@given(SAMPLES)
def test_best_is_among_the_samples_and_one_outlier_of_many_does_not_move_it(samples):
    measurement = Measurement(Status.ok, samples)
    assert min(samples) <= measurement.best <= max(samples)
    assert measurement.spread >= 0
    if len(samples) > 2:
        slow = Measurement(Status.ok, (*samples, *samples, inf))
        assert slow.best <= max(samples)


@given(SAMPLES, st.floats(1e-3, 1e3))
def test_spread_has_no_unit(samples, unit):
    scaled = Measurement(Status.ok, tuple(unit * sample for sample in samples))
    assert scaled.spread == pytest.approx(
        Measurement(Status.ok, samples).spread, rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.ok])
def test_failures_are_slower_than_anything(status):
    measurement = Measurement(status, seconds=(1.0, 2.0), error=0.5)
    assert not measurement.ok and measurement.best == inf and measurement.spread == 0.0


def test_an_ok_without_samples_is_refused():
    with pytest.raises(TuningError, match="no samples"):
        Measurement(Status.ok)


def test_candidates_are_keys_and_go_to_other_processes():
    candidate = Candidate(Config({"h_t": 4}), Config({"oh": 2, "order": ("n", "h")}))
    again = pickle.loads(pickle.dumps(candidate))
    assert again == candidate and {candidate: 1}[again] == 1
