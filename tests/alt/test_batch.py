"""Who does what next: nothing is lost, and nothing else happens while something is timed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from alt.batch import Batch
from tuner.task import Measurement, Status

FAILED = Measurement(Status.crash, message="crashed")


@given(
    count=st.integers(0, 8),
    hands=st.integers(1, 3),
    rounds=st.integers(1, 3),
    overlap=st.booleans(),
    together=st.integers(1, 4),
    data=st.data(),
)
def test_every_candidate_gets_a_result_whatever_dies(count, hands, rounds, overlap, together, data):
    batch = Batch(count, rounds, overlap, hands, together)
    doing, holds, runs, deaths, parted = {}, {}, Counter(), 0, set()
    for _ in range(1000):
        for hand in range(hands):
            if hand in doing:
                continue
            if numbers := batch.to_build():
                assert len(numbers) <= together
                assert not parted or len(numbers) == 1
                doing[hand] = ("build", numbers)
            elif (number := batch.to_run(hand, bool(doing))) is not None:
                assert holds[number] == hand
                assert overlap or not doing
                doing[hand] = ("run", number)
        if not doing:
            break
        hand = data.draw(st.sampled_from(sorted(doing)))
        what, number = doing.pop(hand)
        end = data.draw(st.sampled_from(["well", "badly", "dead"] if deaths < 5 else ["well"]))
        if end == "dead":
            deaths += 1
            holds = {n: h for n, h in holds.items() if h != hand}
            batch.lose(hand)
        if what == "build" and end == "well":
            for each in number:
                holds[each] = hand
                batch.built(hand, each)
        elif what == "build" and len(number) > 1:
            parted |= set(number)
            batch.separate(number)
        elif what == "build":
            batch.finish(number[0], FAILED)
        else:
            runs[number] += 1
            batch.ran(number, Measurement(Status.ok, (float(number),)) if end == "well" else FAILED)
    assert batch.done
    assert sorted(batch.results) == list(range(count))
    for number, result in batch.results.items():
        if result.ok:
            assert result.seconds == (float(number),) * rounds
            assert runs[number] == rounds


def test_rounds_take_turns():
    batch = Batch(3, rounds=2)
    for number in range(3):
        batch.built("AB"[number % 2], *batch.to_build())
    order = []
    while not batch.done:
        asked = {hand: batch.to_run(hand, busy=False) for hand in "AB"}
        (number,) = (n for n in asked.values() if n is not None)
        order.append(number)
        batch.ran(number, Measurement(Status.ok, (1.0,)))
    assert order == [0, 1, 2, 0, 1, 2]


def test_workers_that_build_several_at_once_end_at_the_same_time():
    batch = Batch(16, hands=2, together=8)
    builds = []
    while numbers := batch.to_build():
        builds.append(numbers)
    assert [n for numbers in builds for n in numbers] == list(range(16))
    assert len(builds[0]) > 2
    assert [len(numbers) for numbers in builds[-2:]] == [1, 1]
