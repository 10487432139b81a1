"""Replay: the network that a log of measurements stands for, with no search.

Everything is read from the log: which candidates are best, what conversions cost, whether the tuned
network was faster than the untuned one. So the same log gives the same program.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

import numpy as np

from alt.compiler import Fused
from alt.headers import header_for_replay, with_caches
from alt.kernels import Kernel
from alt.policies import JOINT, LayoutPolicy
from alt.propagate import plan_layouts
from alt.select import MARGIN, VARIANTS, Choices, Conversion, Label, Variant, choices_of
from alt.tasks import KernelTask, tasks_of
from tuner.log import TuningLog
from tuner.records import Header
from tuner.replay import choose_best
from tuner.task import Candidate, Measurement

_LOGGER = logging.getLogger(__name__)

MOST = 0.7
"""Of 25 rounds, so many are won by chance once in 50 times by what is as fast."""

UNMEASURED = 1e9
"""Bytes a second: what a conversion that was not measured is taken to move, which is little."""


@dataclass(frozen=True)
class Replayed:
    """A network as a log has it.

    Attributes:
        kernels: with what was decided about each.
        variant: how much of what was found they use.
        applied: how many tasks the log decides about.
        missing: names of the others, which are left to the compiler.
    """

    kernels: list[Kernel]
    variant: Variant
    applied: int
    missing: tuple[str, ...]


def network_of_log(
    network: Fused,
    log: str | Path,
    threads: int,
    *,
    policy: LayoutPolicy = JOINT,
    winograd: bool = True,
    allow_partial: bool = False,
    device: int | str | None = None,
) -> Replayed:
    """The kernels of a network with what a log says about each.

    Args:
        network: fused, undecided.
        log: a file of measurements.
        threads: that the network will use.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
        allow_partial: leave kernels that the log does not know to the compiler.
        device: the GPU that the network will run on.

    Raises:
        TuningError: if the log cannot be read, or does not cover the network.
    """
    machine = network.machine
    records = TuningLog.read(Path(log))
    plan = plan_layouts(network.graph, network.kernels, machine, winograd, policy)
    tasks = tasks_of(network.kernels, network.graph.constants, machine, plan, policy, winograd)
    plain = header_for_replay(records, machine, threads, device)
    header = with_caches(plain, records, tasks, network_key(tasks))
    measured, placed = measured_in(records, tasks, header), placed_in(records, tasks, header)
    choices = choices_of(network.graph, network.kernels, tasks, measured, placed)
    applied = choose_best(
        records,
        list(tasks.values()),
        header,
        allow_partial=allow_partial,
        usable={
            choices.tasks[kernel].key: {c for rivals in labels.values() for c in rivals}
            for kernel, labels in choices.rivals.items()
        },
    )
    made: dict[Variant, list[Kernel]] = {
        variant: decide(choices, variant, records, header) for variant in VARIANTS
    }
    programs: dict[Variant, str] = {
        variant: program_of(each, policy, winograd) for variant, each in made.items()
    }
    variant = fastest_variant(records, tasks, header, programs)
    _LOGGER.info("what the network uses of it: %s", variant)
    missing = tuple(task.name for key, task in tasks.items() if key not in applied)
    return Replayed(made[variant], variant, len(applied), missing)


def measured_in(
    log: TuningLog, tasks: Mapping[str, KernelTask], header: Header
) -> dict[str, dict[Candidate, Measurement]]:
    """What was measured of each task alone."""
    return {key: log.seen(key, header.target_id) for key in tasks}


def placed_in(
    log: TuningLog, tasks: Mapping[str, KernelTask], header: Header
) -> dict[str, dict[Candidate, Measurement]]:
    """What was measured of each task within this network."""
    within = network_key(tasks)
    return {key: log.seen(place_key(key, within), header.target_id) for key in tasks}


def decide(choices: Choices, variant: Variant, log: TuningLog, header: Header) -> list[Kernel]:
    """The kernels of a variant."""
    return choices.decided(choices.candidates(labels_of(choices, variant, log, header)))


def labels_of(
    choices: Choices, variant: Variant, log: TuningLog, header: Header
) -> dict[Kernel, Label]:
    """The layouts of a variant; conversions that were not measured are taken to be slow."""
    if variant != "joint":
        return choices.assigned(variant, {})
    seconds: dict[Conversion, float] = {}
    unknown = 0
    for conversion in choices.conversions():
        known = log.seen(conversion.key, header.target_id).get(conversion.candidate)
        if known is not None and known.ok:
            seconds[conversion] = known.best
        else:
            unknown += 1
            size = prod(conversion.shape) * np.dtype(conversion.dtype).itemsize
            seconds[conversion] = size / UNMEASURED
    if unknown:
        total = len(seconds)
        _LOGGER.warning("%d of %d conversions were not measured: taken to be slow", unknown, total)
    return choices.assigned(variant, seconds)


def place_key(task: str, network: str) -> str:
    """The name in a log of a task within a network."""
    return f"within {network.removeprefix('network ')} {task}"


def network_key(tasks: Mapping[str, KernelTask]) -> str:
    """The name of the whole network in a log: its tasks and how often each occurs."""
    text = "\n".join(f"{key} {task.weight}" for key, task in tasks.items())
    return f"network {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def program_of(kernels: Sequence[Kernel], policy: LayoutPolicy, winograd: bool) -> str:
    """The name in a log of a network's kernels as they were decided upon."""
    attrs = [kernel.anchor.attrs if kernel.anchor is not None else {} for kernel in kernels]
    answers = [(each.get("layout"), each.get("loops")) for each in attrs]
    return hashlib.sha256(f"{policy} {winograd} {answers}".encode()).hexdigest()[:16]


def fastest_variant(
    log: TuningLog,
    tasks: Mapping[str, KernelTask],
    header: Header,
    programs: Mapping[Variant, str],
) -> Variant:
    """The variant of the network that was fastest; the joint one if no tuned one was timed.

    Of variants that are about as fast, the one that departs least from the compiler's choices: more
    has to be faster by 1 % in the median of rounds, and in most of them. The last time each was
    timed counts: then all were, in turns.

    Args:
        log: with measurements.
        tasks: of the network.
        header: of the machine.
        programs: each variant by `program_of`: what was timed before the log knew more may have
            been another program. Old records do not say, and count for any.
    """
    samples: dict[Variant, Sequence[float]] = {}
    for record in log.of_task(network_key(tasks)):
        if record.target == header.target_id and record.measurement.ok:
            variant: Variant = next(v for v in VARIANTS if v == record.candidate.layout["variant"])
            if record.candidate.loops.get("program", programs[variant]) == programs[variant]:
                samples[variant] = record.measurement.seconds
    if not samples.keys() - {"default"}:
        return "joint"
    timed: list[Variant] = [variant for variant in reversed(VARIANTS) if variant in samples]
    best = timed[0]
    for variant in timed[1:]:
        if _is_faster(samples[variant], samples[best]):
            best = variant
    return best


def _is_faster(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether something is worth departing from another; both were timed in turns."""
    ratios = [seconds / others for seconds, others in zip(one, other, strict=False)]
    won = sum(ratio < 1 for ratio in ratios)
    return median(ratios) < MARGIN and won >= MOST * len(ratios)
