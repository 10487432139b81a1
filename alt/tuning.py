"""`alt.tune`: search layouts and loops of every kernel of a network, and log what was found."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alt.compiler import Model, assemble, fused
from alt.deployed import deployed
from alt.errors import AltError
from alt.module import Module
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.propagate import plan_layouts
from alt.remote import WAIT_SECONDS, RemoteRunner
from alt.replay import decide, fastest_variant, header_of, measured_in, network_key
from alt.runner import Runner
from alt.select import VARIANTS, Choices, Variant, choices_of
from alt.servers import Servers
from alt.target import physical_cores, require_cpu, resolve
from alt.tasks import KernelTask, tasks_of
from alt.verify import verify as compare
from tuner.boosted import Boosted
from tuner.config import Config
from tuner.contents import Contents
from tuner.driver import Outcome, Round, tune_tasks
from tuner.log import TuningLog
from tuner.options import Options
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status

_LOGGER = logging.getLogger(__name__)

FINAL_ROUNDS = 15
"""How often the variants of the network are timed in turns at the end."""


@dataclass(frozen=True)
class Tuned:
    """What tuning a network found.

    Attributes:
        log: where the measurements are; None if they were kept in memory only.
        variant: what the network uses: `joint`, `loops`, or `default` where nothing was faster.
        seconds: the time of a call of each variant, measured in turns.
        outcome: what the search of the tasks found.
        tasks: the tasks by key.
        module: the tuned network; None if the search was interrupted before it was built.
    """

    log: Path | None
    variant: Variant
    seconds: Mapping[str, float]
    outcome: Outcome
    tasks: Mapping[str, KernelTask] = field(repr=False)
    module: Module | None = field(default=None, repr=False)

    @property
    def gain(self) -> float:
        """The default's time over the tuned network's: 1 if nothing was gained."""
        if not self.seconds:
            return 1.0
        return self.seconds["default"] / self.seconds[self.variant]


def tune(
    model: Model,
    target: Any = "llvm",
    *,
    minutes: float | None = None,
    trials: int | None = None,
    log: str | Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    winograd: bool = True,
    layouts: str | LayoutPolicy = JOINT,
    options: Options | None = None,
    others: Sequence[str | Path] = (),
    verify: bool = True,
    observe: Callable[[Round], None] | None = None,
    rpc: str | None = None,
    key: str = "",
) -> Tuned:
    """Search the layouts and loops of a network's kernels; every measurement goes into a log.

    Args:
        model: a path, the bytes of a model, or a loaded one.
        target: what is measured on: `"llvm"` for this machine, or what the servers at `rpc` are.
        minutes: how long to search; the network is then built and timed, which takes some more.
        trials: how many candidates to measure. Whichever of the two ends first ends the search;
            with neither it ends when nothing moves any more.
        log: a file of measurements. If it exists, the search goes on where it ended.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        threads: threads to use; one a physical core by default.
        winograd: let 3x3 convolutions use Winograd's algorithm.
        layouts: which layouts there are; see `alt.policies`.
        options: shares of the budget and methods; its trials and seconds are overridden by
            `trials` and `minutes` where these are given.
        others: more logs that the cost model learns from.
        verify: compare the tuned network with ONNX Runtime (or ONNX's reference).
        observe: called after every round of measurements.
        rpc: `host:port` of TVM's RPC tracker, to measure on its servers; see `alt.remote`. The
            whole network is timed and verified on one of them, too.
        key: that these servers were started with.

    Raises:
        AltError: if the model cannot be compiled, the tuned network computes something else, or
            there is no server to measure on.
        TuningError: if the log cannot be used.
    """
    policy = policy_of(layouts)
    servers, make = None, Runner
    if rpc is not None:
        servers = Servers.parse(rpc, key)
        servers.require()
        threads = threads or resolve(target).cores
        make = partial(RemoteRunner, rpc=rpc, key=key)
    network = fused(model, target, shapes=shapes, constants=constants, threads=threads)
    machine = require_cpu(network.machine)
    count = threads or min(machine.cores, physical_cores())
    header = header_of(machine, count)
    path = Path(log) if log is not None else None
    records = TuningLog.open(path, header) if path is not None else TuningLog(Contents({}, (), ()))
    chosen = _with_budget(options or Options(), minutes, trials)
    plan = plan_layouts(network.graph, network.kernels, machine, winograd, policy)
    tasks = tasks_of(network.kernels, network.graph.constants, machine, plan, policy, winograd)
    with make(
        model,
        target,
        shapes=shapes,
        constants=constants,
        threads=threads,
        winograd=winograd,
        layouts=policy,
    ) as runner:
        outcome = tune_tasks(
            tasks,
            runner,
            records,
            header,
            chosen,
            clock=time.monotonic,
            stamp=_now,
            observe=observe or (lambda _: None),
            model=Boosted(seed=chosen.seed),
            others=[TuningLog.read(Path(p)) for p in others],
        )
        if not outcome.interrupted:
            _check_best(tasks, runner, records, header, chosen.seed + 1)
        measured = measured_in(records, tasks, header)
        choices = choices_of(network.graph, network.kernels, tasks, measured)
        if not outcome.interrupted:
            _time_conversions(choices, runner, records, header)
    modules: dict[Variant, Module] = {}
    for each in VARIANTS:
        kernels = decide(choices, each, records, header)
        modules[each] = assemble(network, kernels, threads, policy, winograd)
    there = nullcontext(modules) if servers is None else deployed(modules, servers, WAIT_SECONDS)
    with there as running:
        seconds = _time_in_turns(running)
        for variant, samples in seconds.items():
            candidate = Candidate(Config({"variant": variant}), Config({}))
            measurement = Measurement(Status.ok, tuple(samples))
            records.append(
                header.record(network_key(tasks), candidate, measurement, _now(), "the network")
            )
        records.flush()
        variant = fastest_variant(records, tasks, header)
        if verify:
            found = compare(model, running[variant], constants=constants)
            if not found.ok:
                raise AltError(f"tuned network: {found}; please report this model and its log")
    times = {name: median(samples) for name, samples in seconds.items()}
    return Tuned(path, variant, times, outcome, tasks, modules[variant])


def _with_budget(options: Options, minutes: float | None, trials: int | None) -> Options:
    if minutes is not None:
        options = replace(options, seconds=minutes * 60)
    return options if trials is None else replace(options, trials=trials)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _check_best(
    tasks: Mapping[str, KernelTask], runner: Runner, log: TuningLog, header: Header, seed: int
) -> None:
    """Compare the fastest candidate of each task on fresh inputs; if wrong, the next fastest."""
    for key, task in tasks.items():
        while (best := log.best(key, header.target_id)) is not None:
            measurement = runner.check(task, best.candidate, seed)
            log.append(header.record(key, best.candidate, measurement, _now(), task.name))
            if measurement.status is not Status.wrong:
                break
            _LOGGER.warning("%s: %s; the next fastest is taken", task.name, measurement.message)


def _time_conversions(choices: Choices, runner: Runner, log: TuningLog, header: Header) -> None:
    """Measure what the assignment may ask for and the log does not know."""
    for conversion in choices.conversions():
        if conversion.candidate in log.seen(conversion.key, header.target_id):
            continue
        measurement = runner.time_conversion(
            conversion.shape, conversion.dtype, conversion.stored, conversion.wanted
        )
        log.append(
            header.record(conversion.key, conversion.candidate, measurement, _now(), "conversion")
        )


def _time_in_turns(modules: Mapping[Variant, Module]) -> dict[Variant, list[float]]:
    """Samples of every variant, in seconds a call: each round times all, in changing order."""
    samples: dict[Variant, list[float]] = {variant: [] for variant in modules}
    order = list(modules)
    for _ in range(FINAL_ROUNDS):
        for variant in order:
            timed = modules[variant].benchmark(repeats=5, min_seconds=0.01)
            samples[variant].append(timed.median_seconds)
        order = order[1:] + order[:1]
    return samples
