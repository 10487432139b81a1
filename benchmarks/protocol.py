"""How contenders are compared: interleaved rounds, ratios within a round, outputs checked.

A machine's speed drifts by more than the differences that we look for. So in every round each
contender is sampled once, in an order drawn anew; a ratio is taken between neighbours in time,
inside a round, and the median of those ratios is what is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Arrays, Contender
from benchmarks.worker import Worker, WorkerError

TOLERANCE = 1e-4
"""Largest `relative_error` of a float32 network that counts as right."""


class Sampler(Protocol):
    """What can be timed."""

    @property
    def name(self) -> str: ...

    def sample(self, seconds: float) -> float: ...


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: samples of each contender.
        sample_seconds: least duration of a sample.
        warm_up_seconds: how long each contender runs before the first round.
    """

    rounds: int = 20
    sample_seconds: float = 0.05
    warm_up_seconds: float = 0.5


@dataclass(frozen=True)
class Timing:
    """Seconds per inference, one sample a round.

    Example:
        >>> Timing((3.0, 1.0, 2.0)).median
        2.0
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return float(np.median(self.samples))

    @property
    def p10(self) -> float:
        """The tenth percentile: what an undisturbed run takes."""
        return float(np.percentile(self.samples, 10))

    @property
    def p90(self) -> float:
        """The ninetieth percentile."""
        return float(np.percentile(self.samples, 90))


@dataclass(frozen=True)
class Result:
    """What one contender did on one network; a failure is a result too."""

    contender: str
    timing: Timing | None = None
    error: float | None = None
    compile_seconds: float | None = None
    compile_peak_bytes: int | None = None
    peak_bytes: int | None = None
    problem: str | None = None

    @property
    def correct(self) -> bool:
        """Whether it ran, and agreed with the reference."""
        return self.problem is None and self.error is not None and self.error <= TOLERANCE


@dataclass(frozen=True)
class Comparison:
    """All contenders on one network.

    Attributes:
        reference: the contender whose outputs the others are compared with.
    """

    network: str
    reference: str | None
    results: Mapping[str, Result] = field(default_factory=dict)

    def speedup(self, over: str, of: str = "ours") -> float | None:
        """Median over rounds of `over`'s time by `of`'s; above 1 when `of` is faster.

        Wrong answers have no speed: None then, and when either did not run.
        """
        theirs, ours = self.results.get(over), self.results.get(of)
        if theirs is None or ours is None or not (theirs.correct and ours.correct):
            return None
        if theirs.timing is None or ours.timing is None:
            return None
        return median_ratio(theirs.timing.samples, ours.timing.samples)

    def speedup_over_best(self, of: str = "ours") -> float | None:
        """The smallest speedup over any other contender."""
        ratios = (self.speedup(name, of) for name in self.results if name != of)
        return min((ratio for ratio in ratios if ratio is not None), default=None)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios round by round, which a drift of the machine's speed leaves alone.

    Example:
        >>> median_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
        2.0
    """
    return float(np.median([a / b for a, b in zip(numerators, denominators, strict=True)]))


def relative_error(actual: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Largest of max|a - b| / max|b| over all outputs; infinite where they cannot be compared.

    Example:
        >>> relative_error([np.array([1.0, 5.0])], [np.array([1.0, 4.0])])
        0.25
        >>> relative_error([np.zeros(3)], [np.zeros(4)])
        inf
    """
    if len(actual) != len(expected):
        return math.inf
    worst = 0.0
    for a, b in zip(actual, expected, strict=True):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return math.inf
        if b.size == 0:
            continue
        difference = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        scale = float(np.abs(b.astype(np.float64)).max())
        worst = max(worst, difference / scale if scale else math.inf if difference else 0.0)
    return worst


def interleave(
    samplers: Sequence[Sampler], plan: Plan, rng: np.random.Generator
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time all samplers in rounds; one that fails leaves the rest of the rounds to the others.

    Returns:
        Timings of those that came through, and what was wrong with the others, both by name.
    """
    samples: dict[str, list[float]] = {sampler.name: [] for sampler in samplers}
    problems: dict[str, str] = {}
    running = list(samplers)
    for round_ in range(-1, plan.rounds):
        seconds = plan.warm_up_seconds if round_ < 0 else plan.sample_seconds
        for index in rng.permutation(len(running)):
            sampler = running[index]
            try:
                sample = sampler.sample(seconds)
            except WorkerError as error:
                problems[sampler.name] = str(error)
                continue
            if round_ >= 0:
                samples[sampler.name].append(sample)
        running = [sampler for sampler in running if sampler.name not in problems]
    timings = {s.name: Timing(tuple(samples[s.name])) for s in running}
    return timings, problems


def compare(
    network: str,
    model: Path,
    inputs: Arrays,
    contenders: Sequence[Contender],
    *,
    threads: int,
    plan: Plan,
    seed: int,
    reference: str = "onnxruntime",
    on_progress: Callable[[str], None] = lambda message: None,
) -> Comparison:
    """Compile, check and time `model` with every contender, each in its own process.

    Args:
        reference: whose outputs are right; the first contender that runs if this one does not.
    """
    results: dict[str, Result] = {}
    outputs: dict[str, list[NDArray[Any]]] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for contender in contenders:
            worker = stack.enter_context(closing(Worker(contender)))
            try:
                on_progress(f"{network}: {contender.name} compiles")
                seconds = worker.prepare(model, threads, inputs)
                compile_peak = worker.peak_bytes()
                outputs[worker.name] = worker.outputs()
            except WorkerError as error:
                results[worker.name] = Result(worker.name, problem=str(error))
                worker.close()
                continue
            workers[worker.name] = worker
            results[worker.name] = Result(
                worker.name, compile_seconds=seconds, compile_peak_bytes=compile_peak
            )

        on_progress(f"{network}: {plan.rounds} rounds of {', '.join(workers)}")
        timings, problems = interleave(list(workers.values()), plan, np.random.default_rng(seed))
        judge = reference if reference in outputs else next(iter(outputs), None)
        for name, worker in workers.items():
            assert judge is not None
            before = results[name]
            results[name] = Result(
                name,
                timing=timings.get(name),
                error=relative_error(outputs[name], outputs[judge]),
                compile_seconds=before.compile_seconds,
                compile_peak_bytes=before.compile_peak_bytes,
                peak_bytes=None if name in problems else worker.peak_bytes(),
                problem=problems.get(name),
            )
    return Comparison(network, judge, results)
