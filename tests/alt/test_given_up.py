"""Tuning a network of which one task cannot be measured."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
from test_runner import network

import alt
import alt.tuning
from alt.runner import Runner
from tuner.log import TuningLog
from tuner.options import Options

pytestmark = pytest.mark.llvm


def test_the_others_are_tuned_and_nothing_untrue_is_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(alt.tuning, "Runner", partial(Runner, setup="planted:install"))
    log = tmp_path / "log.jsonl"
    options = Options(batch=2)
    with caplog.at_level(logging.WARNING):
        tuned = alt.tune(network(), trials=4, threads=1, log=log, options=options)
    first, second, third = tuned.tasks
    assert set(tuned.outcome.given_up) == {third}
    assert "no way to compute it" in tuned.outcome.given_up[third]
    assert set(tuned.outcome.best) == {first, second} and tuned.outcome.trials == 4
    assert not TuningLog.read(log).of_task(third)
    said = [message for message in caplog.messages if tuned.tasks[third].name in message]
    assert len(said) == 1 and "no way to compute it" in said[0]
    # It is not known as failed: where it can be computed it is tuned.
    monkeypatch.setattr(alt.tuning, "Runner", Runner)
    again = alt.tune(network(), trials=6, threads=1, log=log, options=options, verify=False)
    assert again.outcome.given_up == {} and third in again.outcome.best
    x = np.ones((1, 16, 9, 9), np.float32)
    assert np.allclose(tuned.module(x), again.module(x), rtol=1e-3, atol=1e-3)


def test_what_was_found_before_is_used_unchecked(tmp_path, monkeypatch, caplog):
    """A task whose reference was there once."""
    log, options = tmp_path / "log.jsonl", Options(batch=2)
    before = alt.tune(network(), trials=6, threads=1, log=log, options=options, verify=False)
    third = list(before.tasks)[2]
    known = list(TuningLog.read(log).of_task(third))
    assert known
    monkeypatch.setattr(alt.tuning, "Runner", partial(Runner, setup="planted:install"))
    again = alt.tune(network(), trials=2, threads=1, log=log, options=options)
    assert set(again.outcome.given_up) == {third}
    assert list(TuningLog.read(log).of_task(third)) == known
    name = again.tasks[third].name
    assert len([message for message in caplog.messages if name in message]) == 1
