from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.choices import Config, Decision, Default, Given, nearest, replay, tile_sizes
from tuner.errors import TuningError

EXTENTS = st.integers(1, 400)
ANSWERS = st.one_of(
    st.integers(),
    st.booleans(),
    st.text(),
    st.lists(st.integers()).map(tuple),
    st.lists(st.text()).map(tuple),
)


@given(EXTENTS)
def test_tile_sizes_are_the_smallest_for_their_number_of_parts(extent):
    assert tile_sizes(extent) == tuple(
        sorted({-(-extent // parts) for parts in range(1, extent + 1)})
    )


@given(EXTENTS, st.integers(1, 20), st.integers(1, 400))
def test_tile_sizes_keep_their_limits(extent, multiple_of, at_most):
    sizes = tile_sizes(extent, multiple_of=multiple_of, at_most=at_most)
    assert all(size % multiple_of == 0 and 1 <= size <= min(extent, at_most) for size in sizes)
    divisors = [size for size in range(1, extent + 1) if extent % size == 0]
    wanted = {d for d in divisors if d % multiple_of == 0 and d <= at_most}
    assert wanted <= set(sizes)
    assert bool(sizes) == (multiple_of <= min(extent, at_most))


@given(st.dictionaries(st.text(), ANSWERS))
def test_a_config_survives_json(answers):
    config = Config(answers)
    again = Config.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config and hash(again) == hash(config)
    assert [type(answer) for answer in again.values()] == [type(a) for a in config.values()]


def test_a_config_is_ordered_by_name_and_does_not_follow_what_it_was_made_of():
    source = {"b": 1, "a": 2}
    config = Config(source)
    source["c"] = 3
    assert list(config) == ["a", "b"]
    assert config == Config({"a": 2, "b": 1}) and len({config, Config({"a": 2, "b": 1})}) == 1
    assert config != Config({"a": 2, "b": True})
    with pytest.raises(AttributeError):
        config.update({"a": 3})


@pytest.mark.parametrize(
    "value",
    [3, None, [], {"a": None}, {"a": 1.5}, {"a": [1, "x"]}, {"a": {}}, {3: 4}, {"a": [True]}],
)
def test_what_is_no_config_is_refused(value):
    with pytest.raises(TuningError, match="configuration from JSON"):
        Config.from_json(value)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda choose: choose.tile("t", 8, default=9), "default 9 is not in 1..8"),
        (lambda choose: choose.tile("t", 8, default=0), "default 0 is not in 1..8"),
        (lambda choose: choose.one_of("o", (1, 2), default=True), "default True is not in"),
        (lambda choose: choose.one_of("o", (), default=1), "default 1 is not in"),
        (lambda choose: choose.one_of("o", (1, 1), default=1), "occurs twice"),
        (lambda choose: choose.order("o", ("a", "a")), "occurs twice"),
        (lambda choose: choose.order("o", ("a", "b"), ("a",)), "does not permute"),
        (lambda choose: [choose.tile("t", 8, default=2) for _ in range(2)], "asked twice"),
    ],
)
def test_bad_questions_are_refused(ask, message):
    with pytest.raises(TuningError, match=message):
        ask(Default())


def test_the_default_of_a_tile_is_an_option_whatever_the_limits():
    given = Given({"t": 7})
    assert given.tile("t", 100, default=7, at_most=4, multiple_of=2) == 7


def program(choose):
    tile = choose.tile("tile", 12, default=4)
    order = choose.order("order", ("a", "b", "c"))
    return tile, order, choose.one_of("flag", (True, False), default=False)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"tile": 4, "flag": True}, "no answer for order"),
        ({"tile": 5, "order": ("a", "b", "c"), "flag": True}, "tile may not be 5"),
        ({"tile": 4, "order": ("a", "b"), "flag": True}, "a permutation of"),
        ({"tile": 4, "order": ("a", "b", "c"), "flag": 1}, "flag may not be 1"),
        ({"tile": 4, "order": ("a", "b", "c"), "flag": True, "old": 1}, "asks for old"),
    ],
)
def test_strict_replay_names_what_is_wrong(answers, message):
    with pytest.raises(TuningError, match=message):
        replay(program, answers)


def test_loose_replay_repairs():
    given = Given({"tile": 5, "order": ("c", "a"), "flag": 1, "old": 1}, strict=False)
    # 5 is nearer to 6 than to 4 in ratio; b keeps its place; 1 is not a flag.
    assert program(given) == (6, ("c", "b", "a"), False)


@given(EXTENTS, st.integers(1, 10**6))
def test_nearest_tile_is_nearest_in_ratio(extent, answer):
    sizes = tile_sizes(extent)
    chosen = nearest(Decision("t", "tile", sizes, 1, 1), answer)
    assert max(chosen, answer) / min(chosen, answer) == min(
        max(size, answer) / min(size, answer) for size in sizes
    )
    assert chosen == answer or answer not in sizes


@pytest.mark.parametrize(
    ("options", "default", "answer", "expected"),
    [
        ((0, 16, 64), 64, 1, 0),
        ((0, 16, 64), 0, 30, 16),
        (((1, 8), (4, 4), (8, 1)), (1, 8), (5, 3), (4, 4)),
        (((1, 8), (4, 4)), (4, 4), (1, 2, 3), (4, 4)),
        (("x", "y"), "y", "z", "y"),
        ((True, False), True, 0, True),
    ],
)
def test_nearest_option(options, default, answer, expected):
    assert nearest(Decision("o", "one_of", options, default, default), answer) == expected
