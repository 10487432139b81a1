from __future__ import annotations

import numpy as np
import pytest
from landscapes import KERNEL

from tuner.boosted import Boosted
from tuner.cost_model import Group, pairwise_accuracy, throughputs
from tuner.errors import TuningError
from tuner.evolution import Evolution
from tuner.search import RandomSearch

BOTH = pytest.mark.parametrize("objective", ["throughput", "rank"])


def task(seed, rows=150, scale=1.0, noise=0.0):
    """Times that depend on an interaction of features; their scale says nothing."""
    rng = np.random.default_rng(seed)
    x = rng.random((rows, 6))
    seconds = scale * (0.2 + x[:, 0] * (x[:, 1] > 0.5) + (x[:, 2] - 0.3) ** 2)
    return Group(x, seconds * np.exp(noise * rng.standard_normal(rows)))


@BOTH
def test_it_ranks_candidates_of_a_task_it_has_not_seen(objective):
    model = Boosted(0, objective=objective)
    model.fit([task(seed, scale=10.0**-seed, noise=0.02) for seed in range(5)])
    unseen = task(99)
    assert pairwise_accuracy(model.predict(unseen.features), unseen.seconds) > 0.9
    shuffled = np.random.default_rng(0).permutation(unseen.seconds)
    assert 0.4 < pairwise_accuracy(model.predict(unseen.features), shuffled) < 0.6


@BOTH
def test_the_unit_of_a_task_does_not_matter(objective):
    models = [Boosted(0, objective=objective) for _ in range(2)]
    for model, scale in zip(models, (1.0, 2.0**-20), strict=True):
        model.fit([task(0), task(1, scale=scale)])
    one, other = (model.predict(task(2).features) for model in models)
    assert np.array_equal(one, other)


@BOTH
def test_the_seed_decides_and_threads_do_not(objective):
    def scores(seed, n_jobs):
        model = Boosted(seed, objective=objective, rounds=5, n_jobs=n_jobs)
        model.fit([task(0), task(1)])
        return model.predict(task(2).features)

    assert np.array_equal(scores(0, 1), scores(0, 1))
    assert np.allclose(scores(0, 1), scores(0, 2), atol=1e-5)
    assert not np.array_equal(scores(0, 1), scores(1, 1))


@BOTH
def test_old_records_help_a_task_with_few_of_its_own(objective):
    few = task(7, rows=8)
    cold, warm = Boosted(0, objective=objective), Boosted(0, objective=objective)
    cold.fit([few])
    warm.fit([few, *(task(seed) for seed in range(4))])
    unseen = task(8)
    accuracy = [pairwise_accuracy(m.predict(unseen.features), unseen.seconds) for m in (cold, warm)]
    assert accuracy[1] > max(0.85, accuracy[0])


@BOTH
def test_failures_rank_last(objective):
    group = task(0)
    failing = group.features[:, 5] > 0.5
    model = Boosted(0, objective=objective)
    model.fit([Group(group.features, np.where(failing, np.inf, group.seconds))])
    scores = model.predict(group.features)
    assert np.quantile(scores[failing], 0.9) < np.quantile(scores[~failing], 0.1)


def test_a_model_without_knowledge_has_no_opinion():
    model = Boosted(0)
    model.fit([])
    model.fit([Group(np.ones((1, 3)), np.ones(1)), Group(np.ones((4, 3)), np.full(4, np.inf))])
    assert model.predict(np.ones((5, 3))).tolist() == [0.0] * 5


def test_a_saved_model_predicts_the_same(tmp_path):
    model = Boosted(0)
    with pytest.raises(TuningError, match="fit it first"):
        model.save(tmp_path / "model.json")
    model.fit([task(0)])
    with pytest.raises(TuningError, match=r"\.json"):
        model.save(tmp_path / "model.bin")
    model.save(tmp_path / "model.json")
    again = Boosted.load(tmp_path / "model.json", seed=1)
    unseen = task(1).features
    assert np.array_equal(model.predict(unseen), again.predict(unseen))
    with pytest.raises(TuningError, match="fit it again"):
        again.predict(unseen[:, :3])


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.json"
    with pytest.raises(TuningError, match="not a saved model"):
        Boosted.load(path, seed=0)
    path.write_text("{nonsense")
    with pytest.raises(TuningError, match="not a saved model"):
        Boosted.load(path, seed=0)


@pytest.mark.parametrize(
    ("features", "seconds", "message"),
    [
        (np.ones((3, 2)), np.ones(2), "a row of features"),
        (np.ones(3), np.ones(3), "a row of features"),
        (np.ones((2, 2)), np.array([1.0, 0.0]), "positive"),
        (np.ones((2, 2)), np.array([1.0, np.nan]), "positive"),
    ],
)
def test_groups_that_would_teach_nonsense_are_refused(features, seconds, message):
    with pytest.raises(TuningError, match=message):
        Group(features, seconds)


def test_tasks_with_different_features_are_refused():
    with pytest.raises(TuningError, match=r"\[2, 6\] features"):
        Boosted(0).fit([task(0), Group(np.ones((4, 2)), np.ones(4))])


def test_throughput_is_relative_to_the_fastest_of_the_task():
    group = task(0, scale=3e-4)
    assert throughputs(group).max() == 1.0
    assert np.allclose(throughputs(group) * group.seconds, group.seconds.min())


def test_accuracy_counts_pairs():
    seconds = np.array([1.0, 1.01, 2.0])
    assert pairwise_accuracy(-seconds, seconds) == 1.0
    assert pairwise_accuracy(seconds, seconds) == 0.0
    assert pairwise_accuracy(np.zeros(3), seconds) == 0.5
    assert pairwise_accuracy(np.array([1.0, 5.0, 0.0]), seconds) == 1.0  # 1 % apart: no pair


def test_evolution_with_trees_beats_random_on_their_own_measurements():
    """The whole loop: ask, measure, tell, fit again."""
    space = KERNEL.space
    found = []
    for seed in range(3):
        model, rng = Boosted(seed, rounds=30), np.random.default_rng(seed)
        guided = Evolution(
            space, rng, lambda configs, m=model: m.predict(np.stack([*map(space.encode, configs)]))
        )
        random = RandomSearch(space, np.random.default_rng(seed))
        for _ in range(5):
            for searcher in (guided, random):
                searcher.tell([(each, KERNEL.seconds(each)) for each in searcher.ask(8)])
            rows = np.stack([space.encode(config) for config in guided.results])
            model.fit([Group(rows, np.array([*guided.results.values()], float))])
        found.append([KERNEL.seconds(each.best) for each in (guided, random)])
    guided, random = np.median(found, axis=0)
    assert guided < random
