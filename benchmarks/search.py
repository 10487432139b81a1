"""`python -m benchmarks search`: what searching layouts with loops is worth, at equal budgets.

Every variant of the search tunes the same network from nothing with the same budget; then the
networks they found are timed in turns. With `--against metaschedule` single operators are tuned
instead, by us and by TVM's own tuner, with `--against metaschedule-network` the whole network.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import onnx

import alt
from alt.errors import AltError
from alt.module import Module
from alt.target import resolve
from alt.verify import verify
from benchmarks.metaschedule import Called, Scheduled
from benchmarks.protocol import TOLERANCE, Plan, Timing, interleave, median_ratio
from tuner.errors import TuningError
from tuner.options import Options

Progress = Callable[[str], None]

THEM = "MetaSchedule"
UNTUNED = "untuned"


@dataclass(frozen=True)
class Way:
    """A way to search.

    Attributes:
        name: for tables.
        policy: which layouts there are, see `alt.policies`.
        options: who proposes, and the shares of the stages.
    """

    name: str
    policy: str = "joint"
    options: Options = field(default_factory=Options)


WAYS = {
    way.name: way
    for way in (
        Way("joint"),
        Way("OL NCHW", "NCHW", Options(joint_share=0.0)),
        Way("OL NHWC", "NHWC", Options(joint_share=0.0)),
        Way("OL NCHWc", "NCHWc", Options(joint_share=0.0)),
        Way("WP", "none"),
        Way("forward-only", "forward-only"),
        Way("backward-only", "backward-only"),
        Way("layouts by evolution", options=Options(layouts="evolution")),
        Way("layouts by ppo", options=Options(layouts="ppo")),
        Way("layouts at random", options=Options(layouts="random")),
        Way("loops at random", options=Options(loops="random")),
    )
}
"""The search itself first; OL and WP are the paper's variants: loops only, without propagation."""


@dataclass(frozen=True)
class Budget:
    """What each search may take; whichever ends first ends it."""

    trials: int | None
    minutes: float | None


@dataclass(frozen=True)
class Found:
    """What one search found for one model.

    Attributes:
        way: its name.
        variant: of the network, see `alt.tuning.Tuned`.
        trials: candidates measured.
        seconds: of the search, with building and timing the network in the end.
        error: of the network's outputs against ONNX Runtime.
        timing: a sample a round; None if it did not come to that.
        problem: why not.
        seed: of the search.
    """

    way: str
    variant: str = ""
    trials: int = 0
    seconds: float = 0.0
    error: float = math.inf
    timing: Timing | None = None
    problem: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Of a way and of one search by it."""
        return f"{self.way}, seed {self.seed}" if self.seed else self.way


@dataclass(frozen=True, eq=False)
class Network:
    """A tuned network that can be timed."""

    name: str
    module: Module

    def sample(self, seconds: float) -> float:
        """Seconds of a call."""
        return self.module.benchmark(repeats=1, min_seconds=seconds).median_seconds


def searched(
    model: onnx.ModelProto, way: Way, budget: Budget, threads: int, seed: int
) -> tuple[Found, Network | None]:
    """Tune a model one way, from nothing; a failure is a result too."""
    start = time.monotonic()
    try:
        # With a log of its own: what others found would be an advantage.
        with tempfile.TemporaryDirectory() as folder:
            tuned = alt.tune(
                model,
                trials=budget.trials,
                minutes=budget.minutes,
                log=Path(folder) / "log.jsonl",
                threads=threads,
                layouts=way.policy,
                options=replace(way.options, seed=seed),
                verify=False,
            )
    except (AltError, TuningError) as error:
        return Found(way.name, problem=str(error), seed=seed), None
    if tuned.module is None or tuned.outcome.interrupted:
        raise KeyboardInterrupt
    verdict = verify(model, tuned.module)
    found = Found(
        way.name,
        tuned.variant,
        tuned.outcome.trials,
        time.monotonic() - start,
        max((d.error for d in verdict.differences), default=0.0),
        problem="" if verdict.ok else f"wrong: {verdict}",
        seed=seed,
    )
    return found, Network(found.name, tuned.module)


def compare_ways(
    model: onnx.ModelProto,
    ways: Sequence[Way],
    budget: Budget,
    plan: Plan,
    *,
    threads: int,
    seed: int,
    progress: Progress,
    searches: int = 1,
) -> list[Found]:
    """Search in every way, then time what was found in turns, and what needs no search.

    Args:
        model: the network.
        ways: the ways.
        budget: of each search.
        plan: of the timing in the end.
        threads: of every network.
        seed: of the first search of a way, and of the order of timing.
        progress: told what is being done.
        searches: so many of every way, with one seed after the other: two searches of one way find
            different networks, and how different is what the ways have to be compared with.
    """
    start = time.monotonic()
    module = alt.compile(model, threads=threads)
    verdict = verify(model, module)
    error = max((d.error for d in verdict.differences), default=0.0)
    problem = "" if verdict.ok else f"wrong: {verdict}"
    seconds = time.monotonic() - start
    results = [Found(UNTUNED, "default", seconds=seconds, error=error, problem=problem)]
    networks = [] if problem else [Network(UNTUNED, module)]
    for turn in range(searches):
        # Back and forth, so that a machine that slows down is no way's disadvantage.
        for way in ways[:: -1 if turn % 2 else 1]:
            progress(f"{way.name}, seed {seed + turn}")
            found, network = searched(model, way, budget, threads, seed + turn)
            progress(f"  {found.trials} trials, {found.seconds:.0f} seconds")
            results.append(found)
            if network is not None and not found.problem:
                networks.append(network)
    timings, _ = interleave(networks, plan, np.random.default_rng(seed))
    return [replace(found, timing=timings.get(found.name)) for found in results]


@dataclass(frozen=True)
class Duel:
    """An operator or a network, tuned by MetaSchedule and by us.

    Attributes:
        name: of what was tuned.
        metaschedule: what it found; its trials and seconds are the budgets.
        trials: what we found with as many trials.
        seconds: what we found in as many seconds.
        count: how often an operator occurs in its network.
    """

    name: str
    metaschedule: Found
    trials: Found
    seconds: Found
    count: int = 1

    def gain(self, ours: Found) -> float | None:
        """How much faster ours is: the median of ratios in a round."""
        if self.metaschedule.timing is None or ours.timing is None:
            return None
        return median_ratio(self.metaschedule.timing.samples, ours.timing.samples)


def duel(
    name: str,
    model: onnx.ModelProto,
    search: Callable[..., Scheduled],
    trials: int,
    plan: Plan,
    *,
    threads: int,
    seed: int,
    progress: Progress,
    count: int = 1,
) -> Duel:
    """Tune a model with MetaSchedule, then with as many trials and as many seconds of ours.

    Args:
        name: for tables.
        model: an operator or a network.
        search: MetaSchedule's search of it, see `benchmarks.metaschedule`.
        trials: that MetaSchedule has, of a network for every function.
        plan: of the timing in the end.
        threads: of everything.
        seed: of both searches, the operands, and the order of timing.
        progress: told what is being done.
        count: how often an operator occurs in its network.
    """
    samplers: list[Called] = []
    progress(f"{name}: MetaSchedule")
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = resolve("llvm", threads).target
            theirs = search(target, Path(folder), trials=trials, threads=threads, seed=seed)
    except AltError as error:
        them, seconds = Found(THEM, problem=str(error)), 60.0
    else:
        wrong = "" if theirs.error <= TOLERANCE else "wrong"
        them = Found(THEM, "", theirs.trials, theirs.seconds, theirs.error, problem=wrong)
        trials, seconds = theirs.trials, theirs.seconds
        samplers += [] if wrong else [theirs.called(THEM)]
    ours: list[Found] = []
    for way, budget in (("trials", Budget(trials, None)), ("seconds", Budget(None, seconds / 60))):
        progress(f"{name}: ours with equal {way}")
        found, network = searched(model, Way(way), budget, threads, seed)
        ours.append(found)
        if network is not None and not found.problem:
            module = network.module
            samplers.append(Called(found.name, module.library.mod, module.bound(), module.threads))
    timings, _ = interleave(samplers, plan, np.random.default_rng(seed))
    by_trials, by_seconds = (replace(f, timing=timings.get(f.name)) for f in ours)
    return Duel(name, replace(them, timing=timings.get(THEM)), by_trials, by_seconds, count)


# --- tables -------------------------------------------------------------------------------------


def ways_table(results: Sequence[Found]) -> tuple[list[str], list[list[str]]]:
    """A row a search, with how many times as fast as the first it is; then the mean of each way."""
    header = ["search", "ms", "gain", "network", "trials", "seconds", ""]
    rows: list[list[str]] = []
    first = results[0].timing if results else None
    gains: dict[str, list[float]] = {}
    for found in results:
        ratio = "-"
        if first is not None and found.timing is not None:
            gain = median_ratio(first.samples, found.timing.samples)
            gains.setdefault(found.way, []).append(gain)
            ratio = f"{gain:.3f}"
        spent = [str(found.trials), f"{found.seconds:.0f}"]
        rows.append([found.name, _ms(found), ratio, found.variant, *spent, found.problem])
    for way, several in gains.items():
        every = sum(found.way == way for found in results)
        if every > 1:
            name = f"geomean of {way}, {len(several)} of {every}"
            rows.append([name, "", f"{geometric_mean(several):.3f}", "", "", "", ""])
    return header, rows


def duels_table(duels: Sequence[Duel]) -> tuple[list[str], list[list[str]]]:
    """A row an operator, or one for a network: how many times as fast ours is; then the means.

    Trials and seconds are those of MetaSchedule's search. Ours may take no more; building and
    timing whole programs in the end comes on top, on both sides.
    """
    header = ["tuned", "MetaSchedule ms", "trials", "seconds", "equal trials", "equal seconds", ""]
    rows: list[list[str]] = []
    for one in duels:
        them = one.metaschedule
        gains = [_ratio(one.gain(ours)) for ours in (one.trials, one.seconds)]
        problems = "; ".join(f.problem for f in (them, one.trials, one.seconds) if f.problem)
        spent = [str(them.trials), f"{them.seconds:.0f}"]
        rows.append([one.name, _ms(them), *spent, *gains, problems])
    both = [[one.gain(one.trials) for one in duels], [one.gain(one.seconds) for one in duels]]
    if len(duels) > 1:
        rows.append(["geomean", "", "", "", *(_ratio(_mean(gains)) for gains in both), ""])
        sums = [_whole(duels, lambda one: one.trials), _whole(duels, lambda one: one.seconds)]
        rows.append(["sum, each as often as it occurs", "", "", "", *map(_ratio, sums), ""])
    return header, rows


def _whole(duels: Sequence[Duel], ours: Callable[[Duel], Found]) -> float | None:
    """How many times as fast ours are together; None if one is missing."""
    them = us = 0.0
    for one in duels:
        timing, other = ours(one).timing, one.metaschedule.timing
        if timing is None or other is None:
            return None
        them += one.count * other.median
        us += one.count * timing.median
    return them / us if us else None


def _ms(found: Found) -> str:
    return "-" if found.timing is None else f"{found.timing.median * 1e3:.3f}"


def _ratio(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:.2f}"


def _mean(gains: Sequence[float | None]) -> float | None:
    known = [gain for gain in gains if gain is not None]
    return geometric_mean(known) if known else None
