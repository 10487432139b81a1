"""Progress on a stream: lines where it is a file, bars where it is a terminal."""

from __future__ import annotations

import io
import re
from math import inf

import pytest

from alt.watch import Budget, Progress
from tuner.driver import Round
from tuner.task import Status


class Terminal(io.StringIO):
    def isatty(self):
        return True


def round_of(task="conv2d_3", stage="joint", trials=16, measured=None, best=412e-6, **others):
    fields = {
        "default": 455e-6,
        "network": 4e-3,
        "network_default": 5e-3,
        "elapsed": 51.4,
        "tasks_done": 0,
        **others,
    }
    return Round(task, stage, trials, measured or {Status.ok: 16}, best=best, **fields)


def followed(*rounds, budget=None, stream=None, quiet=False):
    stream = stream or io.StringIO()
    progress = Progress(stream, quiet)
    progress.tuning(budget or Budget())
    for each in rounds:
        progress.round(each)
    progress.close()
    return stream.getvalue()


def test_a_round_is_a_line_with_what_the_task_has_had_so_far():
    first = {Status.ok: 13, Status.wrong: 1, Status.build: 1, Status.timeout: 1}
    lines = followed(
        round_of(measured=first),
        round_of("dense_1", trials=32, network=inf),
        round_of(trials=48),
        round_of(stage="loops", trials=64),
        budget=Budget(trials=1000),
    ).splitlines()
    assert re.fullmatch(r"\[   \ds\] ", lines[0][:8])
    assert lines[0][8:] == (
        "conv2d_3  joint 1  trials 16/1000  ok 13 wrong 1 failed 2  "
        "best 0.412 ms (was 0.455, 1.10x)  network 4.000 ms (was 5.000, 1.25x)"
    )
    assert "dense_1  joint 1  trials 32/1000  ok 16 wrong 0 failed 0" in lines[1]
    assert "network" not in lines[1]
    assert "conv2d_3  joint 2  trials 48/1000  ok 29 wrong 1 failed 2" in lines[2]
    assert "conv2d_3  loops 1" in lines[3]


def test_without_a_time_there_is_none_shown():
    line = followed(round_of(best=inf, default=inf, measured={Status.crash: 16})).splitlines()[-1]
    assert "ok 0 wrong 0 failed 16  best -  network" in line
    assert "inf" not in line
    line = followed(round_of(default=inf)).splitlines()[-1]
    assert "best 0.412 ms  network" in line


def test_a_terminal_gets_bars_that_go_away():
    text = followed(
        round_of(trials=250, elapsed=60.0), budget=Budget(trials=1000), stream=Terminal()
    )
    assert "01:00, 03:00 left  trials 250/1000" in text
    assert "joint 1  ok 16" in text
    assert text.rstrip("\x1b[A").endswith("\r")  # whatever is printed next begins a line


def test_that_the_budget_is_spent_is_said_at_once():
    lines = followed(round_of(trials=20), budget=Budget(trials=20)).splitlines()
    assert lines[-1].endswith("measure the best again")
    text = followed(round_of(trials=20), budget=Budget(trials=20), stream=Terminal())
    assert "measure the best again" in text
    assert len(followed(round_of(trials=20), budget=Budget(trials=21)).splitlines()) == 1


def test_quiet_says_nothing_and_still_takes_notes():
    assert followed(round_of(), quiet=True) == ""
    stream = io.StringIO()
    Progress(stream, quiet=True).note("ending")
    assert stream.getvalue() == "ending\n"


@pytest.mark.parametrize(
    ("budget", "spent", "left"),
    [
        (Budget(), 0.0, None),
        (Budget(trials=40), 0.25, 90.0),
        (Budget(seconds=60), 0.5, 30.0),
        (Budget(trials=40, seconds=60), 0.5, 30.0),
        (Budget(trials=10, seconds=600), 1.0, 0.0),
        (Budget(trials=5), 1.0, 0.0),
    ],
)
def test_of_two_bounds_the_nearer_one_counts(budget, spent, left):
    assert budget.spent(10, 30.0) == spent
    assert budget.left(10, 30.0) == left


def test_before_anything_was_measured_the_time_left_is_the_budget():
    assert Budget(seconds=60).left(0, 0.0) == 60
    assert Budget(trials=60).left(0, 0.0) is None


@pytest.mark.parametrize("terminal", [False, True])
def test_a_signal_that_comes_while_a_line_is_written_is_told_of_too(terminal, tmp_path):
    class Busy(io.StringIO):
        writing = False

        def write(self, text):
            if self.writing:
                raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")
            return super().write(text)

        def isatty(self):
            return terminal

        def fileno(self):
            return file.fileno()

    with (tmp_path / "seen").open("wb") as file:
        stream = Busy()
        progress = Progress(stream, False)
        progress.tuning(Budget())
        progress.round(round_of())
        stream.writing = True
        progress.note("ending the search")
        stream.writing = False
        progress.close()
    assert (tmp_path / "seen").read_text() == "\nending the search\n"
