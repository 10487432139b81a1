"""Tuning several tasks: budgets, fairness, what is written down, when it ends."""

from __future__ import annotations

from collections import Counter

import pytest
from synthetic import HEADER, LOOPS_ONLY, OPTIMUM, Measured, Synthetic, memory, searched, tuned

from tuner.boosted import Boosted
from tuner.budget import Budget
from tuner.driver import LEAST_ROUNDS, REMEASURED
from tuner.errors import TuningError, Unmeasurable
from tuner.options import Options
from tuner.task import Status

TASK = Synthetic()
THREE = [Synthetic("a"), Synthetic("b", scale=10.0), Synthetic("c", scale=0.1, weight=3)]


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 7, 40, 100])
def test_trials_are_respected_and_used_up(trials):
    measurer, log = Measured(), memory()
    outcome, rounds = tuned(THREE, log, measurer, trials=trials, patience=50)
    assert outcome.trials == trials == rounds[-1].trials
    again = len(measurer.asked) - trials
    assert 0 <= again <= len(THREE) * (2 * REMEASURED + 1)
    assert outcome.reason == f"{trials} trials were made" and not outcome.interrupted
    assert len(log.records) == len(measurer.asked)


@pytest.mark.parametrize("cost", [0.5, 2.0])
def test_seconds_are_respected_whatever_a_candidate_takes(cost):
    measurer = Measured(cost=cost)
    start = measurer.clock()
    outcome, rounds = tuned(THREE, memory(), measurer, seconds=100.0, patience=1000)
    assert 100 <= rounds[-1].elapsed < 100 + 16 * cost
    assert outcome.reason == "100 seconds are over"
    assert rounds[-1].elapsed == pytest.approx(cost * outcome.trials)
    spent = measurer.clock() - start
    assert outcome.where["measuring"] == pytest.approx(spent)
    assert outcome.where["searching"] == pytest.approx(0)


@pytest.mark.parametrize("budget", [{"trials": 400}, {"seconds": 400.0}])
def test_half_of_the_budget_goes_to_layouts(budget):
    outcome, rounds = tuned(THREE, memory(), Measured(cost=1.0), patience=1000, **budget)
    joint = [r.trials for r in rounds if r.stage == "joint"]
    assert 0.35 < joint[-1] / outcome.trials < 0.65
    assert all(r.stage != "joint" for r in rounds if r.trials > 0.65 * outcome.trials)


@pytest.mark.parametrize("trials", [2, 12, 60])
def test_a_small_budget_is_shared_by_all_tasks(trials):
    tasks = [Synthetic(f"task {n}", scale=4.0**n) for n in range(6)]
    measurer = Measured()
    outcome, _ = tuned(tasks, memory(), measurer, trials=trials, batch=16)
    counts = Counter(key for key, _ in searched(outcome, measurer))
    assert len(counts) == min(trials, 6)
    assert trials < 60 or min(counts.values()) >= 8
    assert outcome.trials == trials


def test_a_few_seconds_are_shared_by_all_tasks():
    tasks = [Synthetic(f"task {n}") for n in range(6)]
    outcome, _ = tuned(tasks, memory(), Measured(cost=1.0), seconds=30.0)
    assert set(outcome.best) == {task.key for task in tasks}


def test_every_task_gets_its_first_rounds_before_the_most_promising_goes_on():
    _, rounds = tuned(THREE, memory(), trials=400, patience=50)
    first = [r.task for r in rounds[: LEAST_ROUNDS * len(THREE)]]
    assert Counter(first) == {task.name: LEAST_ROUNDS for task in THREE}


def test_what_takes_most_of_the_time_gets_most_of_the_trials():
    tasks = [Synthetic("long", scale=100.0), Synthetic("short"), Synthetic("often", weight=40)]
    measurer = Measured()
    outcome, _ = tuned(tasks, memory(), measurer, trials=400, batch=8, patience=1000)
    counts = Counter(key for key, _ in searched(outcome, measurer))
    assert counts["long"] > counts["often"] > counts["short"] >= 8 * LEAST_ROUNDS


def test_without_a_budget_it_ends_when_nothing_moves():
    outcome, rounds = tuned(THREE, memory())
    assert outcome.reason == "nothing moves any more"
    assert rounds[-1].tasks_done == len(THREE)
    for task in THREE:
        assert outcome.best[task.key].seconds < LOOPS_ONLY * task.scale


def test_a_task_without_choices_is_over_at_once():
    class Fixed(Synthetic):
        @property
        def layouts(self):
            return type(super().layouts)(lambda choose: choose.one_of("order", ("rows",), "rows"))

        def loops(self, layout):
            return type(super().layouts)(
                lambda choose: (choose.one_of("tile", (8,), 8), choose.one_of("unroll", (0,), 0))
            )

    outcome, rounds = tuned([Fixed()], memory(), trials=100)
    assert outcome.trials == 1 and len(rounds) <= 3
    assert outcome.best["conv"].seconds == outcome.default["conv"]


def test_no_tasks_are_no_problem():
    outcome, rounds = tuned([], memory(), trials=10)
    assert (outcome.trials, rounds, outcome.reason) == (0, [], "nothing moves any more")


@pytest.mark.parametrize("operations", [0.0, 1e9])
def test_tasks_may_count_no_operations_and_take_no_time(operations):
    tasks = [Synthetic("nothing", scale=0.0, operations=operations), Synthetic(operations=0.0)]
    outcome, _ = tuned(tasks, memory(), trials=80, model=Boosted(seed=0))
    assert outcome.best["nothing"].seconds == 0 and outcome.best["conv"].seconds < 4e-3


# --- what is found ------------------------------------------------------------------------------


def test_the_default_is_always_measured_first_and_reported():
    measurer = Measured()
    outcome, rounds = tuned(THREE, memory(), measurer, trials=60)
    for task in THREE:
        first = next(c for key, c in measurer.asked if key == task.key)
        assert first.layout == task.layouts.default()
        assert first.loops == task.loops(first.layout).default()
        assert outcome.default[task.key] == pytest.approx(task.seconds(first))
    assert rounds[-1].network_default == pytest.approx(4.1e-3 * (1 + 10 + 0.3))
    assert rounds[-1].network == pytest.approx(
        sum(outcome.best[t.key].seconds * t.weight for t in THREE), rel=0.5
    )


def test_joint_finds_what_loops_alone_cannot():
    joint, _ = tuned([TASK], memory(), trials=300, patience=50)
    log = memory()
    loops, rounds = tuned([TASK], log, trials=300, patience=50, joint_share=0.0)
    assert joint.best["conv"].seconds == pytest.approx(OPTIMUM)
    assert loops.best["conv"].seconds == pytest.approx(LOOPS_ONLY)
    assert {r.candidate.layout for r in log.records} == {TASK.layouts.default()}
    assert "joint" not in {r.stage for r in rounds}


def test_the_fastest_are_measured_again_and_their_samples_taken_together():
    measurer, log = Measured(), memory()
    outcome, _ = tuned([TASK], log, measurer, trials=50)
    again = [c for _, c in measurer.asked[50:]]
    fastest = sorted({c for _, c in measurer.asked[:50]}, key=TASK.seconds)
    assert {TASK.seconds(c) for c in again[:REMEASURED]} == {
        TASK.seconds(c) for c in fastest[:REMEASURED]
    }
    own = [c for c in fastest if c.layout == TASK.layouts.default()]
    assert {TASK.seconds(c) for c in own[:REMEASURED]} <= {TASK.seconds(c) for c in again}
    assert measurer.asked[0][1] in again
    for candidate in again:
        assert len(log.seen("conv", HEADER.target_id)[candidate].seconds) == 6
    assert outcome.best["conv"].candidate in again


def test_a_lucky_sample_does_not_win_in_the_end():
    lucky = 17
    measurer = Measured(noise=lambda n: 0.1 if n == lucky else 1.0)
    outcome, _ = tuned([TASK], memory(), measurer, trials=60)
    found = outcome.best["conv"].candidate
    fastest = min((c for n, (_, c) in enumerate(measurer.asked) if n < 60), key=TASK.seconds)
    assert measurer.asked[lucky][1] in [c for _, c in measurer.asked[60:]]
    assert TASK.seconds(found) == TASK.seconds(fastest)


def test_failures_of_one_task_do_not_touch_the_others():
    failing = {"a"}

    class Fails(Measured):
        def measure(self, task, candidates):
            self.fails = lambda _: task.key in failing
            return super().measure(task, candidates)

    log = memory()
    outcome, rounds = tuned(THREE, log, Fails(), trials=600, patience=6)
    assert set(outcome.best) == {"b", "c"}
    assert outcome.default["a"] == float("inf")
    of_a = [r for r in rounds if r.task == "the a"]
    assert all(set(r.measured) <= {Status.build} for r in of_a) and of_a
    assert not any(r.measurement.ok for r in log.of_task("a"))


class Refuses(Measured):
    """Cannot measure the task b, or not any more."""

    more = False
    refused = 0

    def measure(self, task, candidates):
        if task.key == "b" and (not self.more or {("b", c) for c in candidates} <= {*self.asked}):
            self.refused += 1
            self.clock.seconds += 7
            raise Unmeasurable("there is no reference")
        return super().measure(task, candidates)


def test_a_task_of_which_nothing_can_be_measured_is_given_up(caplog):
    measurer, log = Refuses(), memory()
    outcome, rounds = tuned(THREE, log, measurer, trials=100, patience=50)
    assert outcome.given_up == {"b": "there is no reference"} and measurer.refused == 1
    assert set(outcome.best) == {"a", "c"} and "b" not in {r.task for r in log.records}
    assert outcome.trials == 100 == rounds[-1].trials and rounds[-1].tasks_done == 1
    (said,) = caplog.messages
    assert said.startswith("the b is given up") and said.endswith("there is no reference")
    assert outcome.where["searching"] == pytest.approx(0)


def test_what_the_log_knows_of_a_task_that_is_given_up_stays():
    first, log = Measured(), memory()
    before, _ = tuned(THREE, log, first, trials=60)
    known = list(log.of_task("b"))
    measurer = Refuses()
    outcome, _ = tuned(THREE, log, measurer, trials=30, seed=1)
    assert list(log.of_task("b")) == known and measurer.refused == 1
    assert outcome.best["b"] == before.best["b"] and "b" in outcome.given_up


def test_a_task_may_be_given_up_when_its_fastest_are_measured_again():
    measurer, log = Refuses(), memory()
    measurer.more = True
    outcome, _ = tuned(THREE, log, measurer, trials=60)
    assert set(outcome.best) == {"a", "b", "c"} and measurer.refused == 1
    assert all(len(m.seconds) == 3 for m in log.seen("b", HEADER.target_id).values())
    assert "b" in outcome.given_up


def test_that_all_fail_ends_it():
    outcome, rounds = tuned(THREE, memory(), Measured(fails=lambda _: True), trials=10_000)
    assert outcome.best == {} and outcome.reason == "nothing moves any more"
    assert rounds[-1].network == float("inf")


# --- numbers that make no sense -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trials", 0), ("seconds", 0.0), ("seconds", -1.0), ("batch", 0), ("joint_share", 1.5),
        ("joint_share", -0.1), ("layout_rounds", 0), ("patience", 0), ("hopeless", 0.5),
        ("layouts", "annealing"), ("loops", "none"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(option, value):
    with pytest.raises(TuningError, match=str(value)):
        Options(**{option: value})


def test_the_budget_in_numbers():
    both = Budget(trials=100, seconds=50.0, batch=16)
    assert both.spent(trials=50, elapsed=10.0, rounds=0) == 0.5
    assert both.spent(trials=20, elapsed=40.0, rounds=0) == 0.8
    assert Budget(None, None, 16).spent(trials=500, elapsed=1e6, rounds=6) == 0.5
    assert both.affordable(trials=0, elapsed=0.0, owed=0) == 16
    assert both.affordable(trials=0, elapsed=0.0, owed=20) == 5
    assert both.affordable(trials=95, elapsed=10.0, owed=0) == 5
    # 20 candidates took 40 seconds: the 10 seconds left are enough for 5.
    assert both.affordable(trials=20, elapsed=40.0, owed=1) == 5
    assert both.affordable(trials=99, elapsed=49.9, owed=10) == 1
    assert both.over(trials=99, elapsed=49.9) == ""
    assert both.over(trials=100, elapsed=0.0) and both.over(trials=0, elapsed=50.0)
