"""The contract of searchers: each inherits the whole suite and adds what only it promises."""

from __future__ import annotations

from functools import cache
from statistics import median

import numpy as np
import pytest
from landscapes import BOWL, FEW, KERNEL

from tuner.descent import CoordinateDescent
from tuner.evolution import Evolution
from tuner.exhaustive import Exhaustive
from tuner.search import RandomSearch

SEEDS = range(5)


def perfect(landscape):
    """A model that is always right."""
    return lambda configs: -np.array([landscape.seconds(config) for config in configs])


def random_search(landscape, seed):
    return RandomSearch(landscape.space, np.random.default_rng(seed))


def evolution(landscape, seed):
    return Evolution(landscape.space, np.random.default_rng(seed))


def run(searcher, seconds, budget, batch=8):
    """Everything that was asked, in order, until the budget is spent or nothing is left."""
    asked = []
    while len(asked) < budget and (configs := searcher.ask(min(batch, budget - len(asked)))):
        asked += configs
        searcher.tell([(config, seconds(config)) for config in configs])
    return asked


@cache
def fastest(make, landscape, budget):
    """The median over seeds of the best found."""
    return median(
        min(map(landscape.seconds, run(make(landscape, seed), landscape.seconds, budget)))
        for seed in SEEDS
    )


class Contract:
    """What every searcher keeps to."""

    def make(self, landscape, seed):
        raise NotImplementedError

    @pytest.mark.parametrize("landscape", [BOWL, KERNEL, FEW])
    def test_it_asks_the_default_first_stays_in_the_space_and_never_repeats(self, landscape):
        asked = run(self.make(landscape, 0), landscape.seconds, 60)
        assert asked[0] == landscape.space.default()
        assert len(set(asked)) == len(asked) > 5
        assert all(landscape.space.contains(config) for config in asked)

    def test_it_never_asks_for_more_than_the_count(self):
        searcher = self.make(BOWL, 0)
        assert searcher.ask(0) == []
        for count in (1, 3, 7):
            batch = searcher.ask(count)
            assert len(batch) <= count
            searcher.tell([(config, BOWL.seconds(config)) for config in batch])
        assert len(searcher.results) > 1

    def test_the_seed_decides(self):
        one, again, other = (run(self.make(KERNEL, s), KERNEL.seconds, 40) for s in (3, 3, 4))
        assert one == again != other

    def test_it_survives_failures(self):
        searcher = self.make(BOWL, 0)
        asked = run(searcher, lambda config: None, 24)
        assert len(asked) == 24 and searcher.best is None
        for useless in (float("nan"), float("inf")):
            config, *_ = searcher.ask(1)
            searcher.tell([(config, useless)])
        assert searcher.best is None
        config, *_ = searcher.ask(1)
        searcher.tell([(config, 1.0)])
        assert searcher.best == config

    def test_it_survives_half_of_the_space_failing(self):
        def seconds(config):
            return None if config["oc"] % 8 else KERNEL.seconds(config)

        searcher = self.make(KERNEL, 0)
        run(searcher, seconds, 40)
        assert searcher.best["oc"] % 8 == 0

    def test_best_is_the_fastest_told(self):
        searcher = self.make(BOWL, 0)
        asked = run(searcher, BOWL.seconds, 30)
        assert BOWL.seconds(searcher.best) == min(map(BOWL.seconds, asked))

    def test_it_may_be_told_before_it_asks_late_and_out_of_order(self):
        searcher = self.make(BOWL, 0)
        first, second = searcher.ask(4), searcher.ask(4)
        assert not set(first) & set(second)
        both = [*second, *first]
        searcher.tell([(config, BOWL.seconds(config)) for config in both])
        assert set(searcher.results) == set(both)

    def test_a_fresh_searcher_that_is_told_the_log_goes_on_from_there(self):
        before = self.make(BOWL, 0)
        asked = run(before, BOWL.seconds, 40)
        after = self.make(BOWL, 1)
        after.tell([(config, BOWL.seconds(config)) for config in asked])
        assert after.best == before.best
        assert not set(run(after, BOWL.seconds, 20)) & set(asked)

    def test_what_an_old_log_says_of_another_space_is_left_out(self):
        searcher = self.make(FEW, 0)
        foreign = BOWL.space.default()
        searcher.tell([(foreign, 1e-9)])
        assert searcher.best is None and not searcher.results
        assert foreign not in run(searcher, FEW.seconds, 20)

    def test_a_small_space_comes_to_its_end(self):
        searcher = self.make(FEW, 0)
        asked = run(searcher, FEW.seconds, 1000)
        assert len(set(asked)) == len(asked) <= 15
        assert searcher.ask(5) == []
        assert FEW.seconds(searcher.best) == FEW.optimum

    def test_a_space_of_one_has_nothing_but_its_default(self):
        class Landscape:
            space = type(FEW.space)(lambda choose: None)
            seconds = staticmethod(lambda config: 1.0)

        assert len(run(self.make(Landscape, 0), Landscape.seconds, 10)) == 1


class BeatsRandom(Contract):
    """With the same number of measurements it finds faster ones."""

    budget = 100

    @pytest.mark.parametrize("landscape", [BOWL, KERNEL])
    def test_it_beats_random(self, landscape):
        random = fastest(random_search, landscape, self.budget)
        assert fastest(self.make, landscape, self.budget) < random


class TestRandom(Contract):
    def make(self, landscape, seed):
        return random_search(landscape, seed)

    def test_it_covers_a_small_space(self):
        assert len(run(self.make(FEW, 0), FEW.seconds, 100)) == 15


class TestEvolution(BeatsRandom):
    def make(self, landscape, seed):
        return evolution(landscape, seed)

    def test_it_covers_a_small_space(self):
        assert len(run(self.make(FEW, 0), FEW.seconds, 100)) == 15


class TestEvolutionWithModel(TestEvolution):
    budget = 40

    def make(self, landscape, seed):
        return Evolution(landscape.space, np.random.default_rng(seed), perfect(landscape))

    def test_the_model_saves_measurements(self):
        without = fastest(evolution, BOWL, 30)
        assert fastest(self.make, BOWL, 30) < without

    def test_a_model_without_an_opinion_does_no_harm(self):
        searcher = Evolution(
            BOWL.space, np.random.default_rng(0), lambda configs: np.full(len(configs), np.nan)
        )
        assert len(run(searcher, BOWL.seconds, 30)) == 30

    def test_exploring_asks_for_what_the_model_dislikes(self):
        def dislikes(configs):
            return np.array([-float(config["a"]) for config in configs])

        means = []
        for explore in (0.0, 0.9):
            rng = np.random.default_rng(0)
            searcher = Evolution(BOWL.space, rng, dislikes, explore=explore)
            means.append(np.mean([config["a"] for config in searcher.ask(20)]))
        assert means[0] < 3 < means[1]


class TestCoordinateDescent(BeatsRandom):
    def make(self, landscape, seed):
        return CoordinateDescent(landscape.space, None, np.random.default_rng(seed))

    def test_it_ends_in_a_local_optimum(self):
        searcher = self.make(KERNEL, 0)
        run(searcher, KERNEL.seconds, 10_000)
        near = KERNEL.space.neighbours(searcher.best)
        assert min(map(KERNEL.seconds, near)) >= KERNEL.seconds(searcher.best)
        assert set(near) <= set(searcher.results)

    def test_it_begins_where_it_is_told(self):
        start = BOWL.space.project({"a": 24, "b": 6, "c": 48, "d": 2, "e": 14})
        searcher = CoordinateDescent(BOWL.space, start, np.random.default_rng(0))
        asked = run(searcher, BOWL.seconds, 1000)
        assert asked[1] == start and searcher.best["e"] == 12
        assert len(asked) < 60


class TestExhaustive(Contract):
    def make(self, landscape, seed):
        return Exhaustive(landscape.space, None, np.random.default_rng(seed), limit=256)

    def test_it_covers_a_small_space(self):
        assert len(run(self.make(FEW, 0), FEW.seconds, 100)) == 15


class TestExhaustiveWithModel(BeatsRandom):
    budget = 40

    def make(self, landscape, seed):
        rng = np.random.default_rng(seed)
        return Exhaustive(landscape.space, perfect(landscape), rng, limit=256, sample=128)

    def test_the_best_predicted_comes_right_after_the_default(self):
        _, second, *others = run(self.make(FEW, 0), FEW.seconds, 100)
        assert FEW.seconds(second) == FEW.optimum
        assert others == sorted(others, key=FEW.seconds)
