"""The search of a task: layouts with their loops, then loops, then coordinate descent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import pytest
from synthetic import LOOPS_ONLY, OPTIMUM, Measured, Synthetic

from tuner.choices import Config
from tuner.joint import TaskSearch
from tuner.options import SEARCHERS, Options
from tuner.task import Candidate, Measurement, Status

TASK = Synthetic()


def search_of(task=TASK, known=None, seed=0, **options):
    options = {"joint_share": 0.5} | options
    return TaskSearch(task, Options(**options), np.random.default_rng(seed), known)


def run(search, rounds, count=8, measurer=None, budget=None):
    """The stages and batches of so many rounds; fewer where the search ends."""
    measurer = measurer or Measured()
    seen = []
    for number in range(rounds):
        search.spent = number / (budget or rounds)
        batch = search.ask(count)
        seen.append((search.stage, batch))
        search.tell(list(zip(batch, measurer.measure(search.task, batch), strict=True)))
        if not batch or search.done:
            break
    return seen


def batches(search, rounds, **options):
    return [batch for _, batch in run(search, rounds, **options)]


def test_the_default_comes_first_and_stages_come_in_order():
    search = search_of()
    seen = run(search, 40)
    assert seen[0][1][0] == search.default
    stages = [stage for stage, _ in groupby(seen, lambda each: each[0])]
    assert stages == ["joint", "loops", "descent", "loops", "descent"]  # and of the default layout


def test_joint_finds_what_loops_alone_cannot():
    joint, loops = search_of(patience=40), search_of(joint_share=0.0, patience=40)
    run(joint, 40)
    run(loops, 40)
    assert loops.best.seconds == pytest.approx(LOOPS_ONLY)
    assert joint.best.seconds == pytest.approx(OPTIMUM)
    assert joint.best.candidate.layout == Config({"order": "blocks", "block": 8})


def test_without_a_joint_stage_layouts_stay_as_they_are_whatever_the_log_knows():
    best = Candidate(
        Config({"order": "blocks", "block": 8}), Config({"tile": 32, "inner": 4, "unroll": 16})
    )
    known = {best: Measurement(Status.ok, (OPTIMUM,))}
    search = search_of(known=known, joint_share=0.0)
    seen = run(search, 10)
    assert {c.layout for _, batch in seen for c in batch} == {search.default.layout}
    assert search.best.candidate.layout == search.default.layout
    assert search_of(known=known).best.candidate == best


@pytest.mark.parametrize("layouts", SEARCHERS)
@pytest.mark.parametrize("loops", ["evolution", "random", "exhaustive"])
def test_every_pair_of_searchers_stays_in_the_space_and_never_repeats(layouts, loops):
    if layouts == "ppo":
        pytest.importorskip("torch")
    search = search_of(layouts=layouts, loops=loops)
    asked = [c for batch in batches(search, 12) for c in batch]
    assert len(set(asked)) == len(asked) > 40
    assert all(search.allows(candidate) for candidate in asked)
    assert len({c.layout for c in asked}) > 2


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_no_batch_is_too_long_and_the_layouts_are_still_searched(count):
    search = search_of(patience=100)
    seen = batches(search, 40, count=count)
    assert max(map(len, seen)) <= count
    assert seen[0][0] == search.default
    assert len({c.layout for batch in seen for c in batch}) >= 4
    assert search.ask(0) == [] and search.ask(-1) == []


def test_a_layout_starts_with_the_best_loops_of_another():
    search = search_of(hopeless=100.0)
    run(search, 1)
    best = search.best.candidate
    search.spent = 0.1
    first, *_ = search.ask(8)
    assert first.layout != best.layout
    assert first.loops == search.task.loops(first.layout).project(best.loops)
    assert first.loops["tile"] == best.loops["tile"]


def test_the_layout_proposer_hears_the_best_of_each_layout():
    search = search_of()
    run(search, 12, budget=24)
    heard = search._layouts.results
    assert len(heard) > 4
    for layout, seconds in heard.items():
        times = [m.best for c, m in search.measured.items() if c.layout == layout]
        assert seconds == min(times, default=None)


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_layout_gets_its_rounds_before_it_is_judged(rounds):
    search = search_of(layout_rounds=rounds, hopeless=100.0)
    layouts = [batch[0].layout for batch in batches(search, 7, count=4, budget=100)[1:]]
    changes = [n for n, (a, b) in enumerate(pairwise(layouts)) if a != b]
    assert all(b - a == rounds for a, b in pairwise(changes)) and changes


def test_no_layout_left_means_loops_from_then_on():
    search = search_of(layouts="exhaustive", joint_share=1.0, patience=100)
    stages = [stage for stage, _ in run(search, 30, count=4, budget=10_000)]
    assert 3 < stages.index("loops") < 10
    assert "joint" not in stages[stages.index("loops") :]


def test_layouts_that_bring_nothing_end_the_joint_stage_and_not_the_task():
    @dataclass(frozen=True)
    class Rows(Synthetic):
        """Blocks never help; the best loops are hard to find."""

        def seconds(self, candidate):
            blocks = candidate.layout["order"] == "blocks"
            return super().seconds(candidate) + 0.1 * blocks

    search = search_of(Rows(), patience=2, joint_share=1.0, hopeless=1e6)
    stages = [stage for stage, _ in run(search, 100, count=1, budget=10_000)]
    assert stages.count("joint") < 5 and stages[-1] != "joint"
    assert search.done and search.idle == 2


def test_it_ends_when_nothing_moves():
    search = search_of(patience=3)
    seen = run(search, 1000, budget=50)
    assert len(seen) < 100
    assert search.done or not seen[-1][1]
    near = TASK.loops(search.best.candidate.layout).neighbours(search.best.candidate.loops)
    assert search.best.seconds <= 1.01 * min(
        TASK.seconds(Candidate(search.best.candidate.layout, loops)) for loops in near
    )


def test_it_resumes_from_what_is_known_and_repeats_nothing():
    first = search_of()
    run(first, 6, budget=12)
    again = search_of(known=first.measured, seed=1)
    assert again.best == first.best
    asked = [c for batch in batches(again, 10) for c in batch]
    assert asked and not set(asked) & set(first.measured)
    assert set(again._layouts.results) >= {c.layout for c in first.measured}


def test_a_log_of_everything_leaves_nothing_to_ask():
    known = {}
    for layout in TASK.layouts.enumerate(1000):
        for loops in TASK.loops(layout).enumerate(1000):
            candidate = Candidate(layout, loops)
            known[candidate] = Measurement(Status.ok, (TASK.seconds(candidate),))
    search = search_of(known=known)
    assert search.ask(8) == []
    assert search.best.seconds == pytest.approx(OPTIMUM)


def test_what_an_old_log_says_of_another_space_is_left_out():
    default = search_of().default
    good = Measurement(Status.ok, (1e-9,))
    known = {
        Candidate(Config({"order": "columns"}), default.loops): good,
        Candidate(default.layout, Config({"tile": 65, "unroll": 0})): good,
        Candidate(default.layout, Config({"tile": 4})): good,
        default: Measurement(Status.ok, (0.004,)),
    }
    search = search_of(known=known)
    assert search.best.candidate == default and list(search.measured) == [default]


def test_it_survives_that_all_fail():
    search = search_of(patience=4)
    seen = run(search, 100, measurer=Measured(fails=lambda _: True))
    assert search.best is None
    assert 4 <= len(seen) < 40 and search.done
    assert len({c.layout for _, batch in seen for c in batch}) > 2


def test_it_gets_over_a_default_that_fails():
    search = search_of()
    default = search.default
    run(search, 20, measurer=Measured(fails=lambda c: c == default))
    assert search.best.seconds < TASK.seconds(default)


def test_hopeless_candidates_are_not_asked_for():
    def worst(**options):
        asked = [c for batch in batches(search_of(**options), 20) for c in batch[1:]]
        least = min(map(TASK.estimate, [search_of().default, *asked]))
        return max(map(TASK.estimate, asked)) / least

    assert worst(hopeless=1.5) <= 1.5 < 2 <= worst(hopeless=100.0)


def test_the_default_is_measured_however_hopeless_it_looks():
    @dataclass(frozen=True)
    class Pessimist(Synthetic):
        def estimate(self, candidate):
            default = candidate.layout["order"] == "rows" and candidate.loops["tile"] == 8
            return 1.0 if default else 1e-6

    search = search_of(Pessimist())
    assert search.ask(4)[0] == search.default


@pytest.mark.parametrize("layouts", ["exhaustive", "evolution", "random"])
def test_the_seed_decides(layouts):
    one, again, other = (batches(search_of(seed=s, layouts=layouts), 12) for s in (3, 3, 4))
    assert one == again != other


def test_the_same_log_leads_to_the_same_questions():
    first = search_of()
    run(first, 4)
    one, again = (batches(search_of(known=dict(first.measured)), 8) for _ in range(2))
    assert one == again


def test_a_model_ranks_what_is_proposed():
    class Perfect:
        def predict(self, features):
            # Features: rows, tile, block.
            return np.array([-abs(f[1] - 32) - 100 * f[0] - abs(f[2] - 8) for f in features])

    search = search_of()
    search.scores.model = Perfect()
    search.tell([(search.default, Measurement(Status.ok, (0.004,)))])
    search.ask(1)  # the default layout
    search.tell([])
    assert search.ask(4)[0].layout == Config({"order": "blocks", "block": 8})


def test_each_candidate_is_described_once():
    count: dict[Candidate, int] = {}

    @dataclass(frozen=True)
    class Counting(Synthetic):
        def features(self, candidates):
            for candidate in candidates:
                count[candidate] = count.get(candidate, 0) + 1
            return super().features(candidates)

    class Model:
        def predict(self, features):
            return features[:, 1]

    search = search_of(Counting())
    search.scores.model = Model()
    run(search, 10)
    search.scores.features(list(search.measured))
    assert set(count.values()) == {1} and len(count) > 50


def test_the_loops_of_the_default_are_searched_after_those_of_the_best_layout():
    search = search_of(patience=3)
    layouts, second = [], []
    for number in range(200):
        search.spent = number / 20
        batch = search.ask(8)
        if search.stage != "joint":
            layouts.append(batch[0].layout if batch else None)
            second.append(search.second)
        search.tell(list(zip(batch, Measured().measure(search.task, batch), strict=True)))
        if not batch or search.done:
            break
    best = search.best.candidate.layout
    assert best != search.default.layout
    turn = second.index(True)
    assert set(layouts[:turn]) == {best} and second == sorted(second)
    assert {layout for layout in layouts[turn:] if layout} == {search.default.layout}
    found = [m.best for c, m in search.measured.items() if c.layout == search.default.layout]
    assert min(found) == pytest.approx(LOOPS_ONLY)
