"""Laws of spaces, over random programs: whatever they do, what comes out is in the space."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landscapes import BOWL, FEW, KERNEL, bowl

from tuner.choices import Config, Infeasible, replay
from tuner.errors import TuningError
from tuner.space import Space

TEXTS = ("x", "y", "z")
OPTIONS = st.sampled_from([(0, 16, 64), (True, False), TEXTS, ((1, 2), (2, 2)), (3,)])


@dataclass(frozen=True)
class Random:
    """A program made of questions: tiles of earlier tiles, questions behind answers, refusals."""

    questions: tuple[tuple[str, object, bool, int], ...]
    refused: int

    def __call__(self, choose):
        extent, far, ask = 12, 0, True
        for number, (kind, detail, nested, salt) in enumerate(self.questions):
            if nested and not ask:
                continue
            name = f"{kind}{number}"
            if kind == "tile":
                default = 1 + salt % extent
                extent = choose.tile(name, extent, default=default)
                far += abs(extent - default)
                ask = extent % 2 == 0
            elif kind == "option":
                default = salt % len(detail)
                place = detail.index(choose.one_of(name, detail, default=detail[default]))
                far += abs(place - default)
                ask = place == 0
            else:
                choose.order(name, TEXTS[: 1 + salt % 3])
        if self.refused and far % self.refused == 1:  # never the defaults: they are 0 away
            raise Infeasible("by the rule of this test")


QUESTIONS = st.tuples(
    st.sampled_from(["tile", "option", "order"]), OPTIONS, st.booleans(), st.integers(0, 20)
)
SPACES = st.builds(
    Random, st.lists(QUESTIONS, max_size=6).map(tuple), st.sampled_from([0, 0, 2, 3])
).map(Space)
SEEDS = st.integers(0, 2**32 - 1)


def in_space(space, config):
    """Replays to itself, strictly."""
    replay(space.program, config)
    return {each.name: each.answer for each in space.decisions(config)} == dict(config)


@given(SPACES, SEEDS)
def test_every_move_stays_in_the_space(space, seed):
    rng = np.random.default_rng(seed)
    one, other = space.sample(rng), space.sample(rng)
    moved = [
        space.default(),
        one,
        other,
        space.mutate(one, rng, rng.random()),
        space.crossover(one, other, rng),
        *space.neighbours(one),
    ]
    assert all(in_space(space, config) for config in moved)


@given(SPACES, SPACES, SEEDS)
def test_projecting_gives_a_legal_config_and_keeps_legal_ones(space, foreign, seed):
    rng = np.random.default_rng(seed)
    config = space.sample(rng)
    assert space.project(config) == config
    assert in_space(space, space.project(foreign.sample(rng)))
    assert space.project({}) == space.default()


@given(SPACES, SEEDS)
def test_a_config_of_a_space_survives_json(space, seed):
    config = space.sample(np.random.default_rng(seed))
    assert in_space(space, Config.from_json(config.to_json()))


@settings(deadline=None)
@given(SPACES, SEEDS)
def test_the_listing_holds_everything_once(space, seed):
    listed = space.enumerate(300)
    if listed is None:
        assert space.size_estimate() > 30
        return
    assert listed[0] == space.default() and len(set(listed)) == len(listed)
    assert all(in_space(space, config) for config in listed)
    rng = np.random.default_rng(seed)
    config = space.sample(rng)
    assert {config, *space.neighbours(config), space.mutate(config, rng, 0.5)} <= set(listed)


@settings(deadline=None)
@given(SPACES, SEEDS)
def test_encoded_configs_have_one_length_and_finite_entries(space, seed):
    rng = np.random.default_rng(seed)
    rows = [space.encode(space.sample(rng)) for _ in range(4)]
    assert len({row.shape for row in rows}) == 1 and np.isfinite(rows).all()


@pytest.mark.parametrize("landscape", [FEW, KERNEL])
def test_encoding_tells_configs_apart(landscape):
    listed = landscape.space.enumerate(20_000)
    assert len({landscape.space.encode(config).tobytes() for config in listed}) == len(listed)


def test_counting():
    assert len(FEW.space.enumerate(15)) == 15 == FEW.space.size_estimate()
    assert FEW.space.enumerate(14) is None
    sizes = len({-(-96 // parts) for parts in range(1, 97)})
    assert BOWL.space.size_estimate() == prod([sizes] * 5)
    listed = len(KERNEL.space.enumerate(20_000))
    assert 0.8 * listed < KERNEL.space.size_estimate(2000) < 1.25 * listed


def test_the_listing_is_what_a_nested_loop_gives():
    def program(choose):
        if choose.one_of("a", (1, 2, 3), default=2) == 3:
            choose.order("b", ("x", "y"))
        if choose.one_of("c", ("p", "q"), default="p") == "q":
            raise Infeasible("never q")

    wanted = {Config({"a": a, "c": "p"}) for a in (1, 2)} | {
        Config({"a": 3, "b": b, "c": "p"}) for b in product("xy", repeat=2) if len(set(b)) == 2
    }
    assert set(Space(program).enumerate(10)) == wanted


def test_neighbours_differ_by_one_step():
    config = BOWL.space.default()
    near = BOWL.space.neighbours(config)
    assert len(near) == 10
    assert all(sum(config[name] != other[name] for name in config) == 1 for other in near)
    assert {other["a"] for other in near} == {3, 4, 5}


def test_neighbours_of_an_order_are_swaps():
    space = Space(lambda choose: choose.order("o", ("a", "b", "c")))
    assert {config["o"] for config in space.neighbours(space.default())} == {
        ("b", "a", "c"),
        ("a", "c", "b"),
    }


def test_a_mutation_changes_something_and_its_rate_says_how_much():
    rng = np.random.default_rng(0)
    start = BOWL.space.default()

    def changed(rate):
        configs = [BOWL.space.mutate(start, rng, rate) for _ in range(200)]
        return np.mean([[config[name] != start[name] for name in start] for config in configs]) * 5

    assert 1.0 <= changed(0.0) < 1.2
    assert changed(1.0) > 4


def test_crossover_takes_each_answer_from_a_parent():
    rng = np.random.default_rng(0)
    one, other = BOWL.space.sample(rng), BOWL.space.sample(rng)
    children = [BOWL.space.crossover(one, other, rng) for _ in range(50)]
    assert all(child[name] in (one[name], other[name]) for child in children for name in child)
    assert len(set(children)) > 10


def test_projection_of_tiles_into_a_rebuilt_space():
    """What the joint stage does when a layout changes the extents."""

    def smaller(choose):
        for name in "abcde":
            choose.tile(name, 30, default=2)

    answers = {"a": 24, "b": 7, "c": 48, "old": 3}
    projected = Space(smaller).project(answers)
    assert projected == Config({"a": 30, "b": 8, "c": 30, "d": 2, "e": 2})
    assert Space(bowl).project(projected)["d"] == 2


def test_refusals_are_repaired_from_the_last_decision_on():
    config = KERNEL.space.project({"oc": 64, "oc_inner": 4, "unroll": 16})
    # 64 / 4 * 16 is refused; unroll, asked last, becomes its default, 4: 64 is allowed.
    assert (config["oc"], config["oc_inner"], config["unroll"]) == (64, 4, 4)


def test_a_space_that_refuses_its_defaults_says_so():
    def never(choose):
        raise Infeasible("never")

    with pytest.raises(TuningError, match="refuses it"):
        Space(never).default()
    with pytest.raises(TuningError, match="refuses it"):
        Space(never).sample(np.random.default_rng(0))


def test_a_space_that_refuses_nearly_everything_still_samples():
    def narrow(choose):
        answers = [choose.tile(name, 96, default=8) for name in "abcdef"]
        if sum(answer != 8 for answer in answers) > 1:
            raise Infeasible("at most one may differ")

    space = Space(narrow)
    rng = np.random.default_rng(0)
    assert len({space.sample(rng) for _ in range(20)}) > 5


def test_answers_that_are_not_in_the_space_are_not_contained():
    default = FEW.space.default()
    assert FEW.space.contains(default)
    for wrong in ({**default, "a": 5}, {**default, "c": 1}, {"a": 4}, {}):
        assert not FEW.space.contains(Config(wrong))
