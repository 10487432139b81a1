"""`alt.tune`: search layouts and loops of every kernel of a network, and log what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alt.compiler import Model, Progress, fused
from alt.cuda.gpu import Gpu
from alt.errors import AltError
from alt.finals import Finals, now
from alt.gpu_runner import GpuRunner, require_here
from alt.headers import header_of
from alt.messages import Timing
from alt.module import Module
from alt.policies import JOINT, LayoutPolicy, policy_of
from alt.processor import model_here
from alt.propagate import plan_layouts
from alt.remote import RemoteRunner
from alt.runner import Runner
from alt.select import Variant
from alt.servers import Servers
from alt.state import make_state_folder
from alt.target import physical_cores, resolve
from alt.tasks import KernelTask, tasks_of
from alt.verify import verify as compare
from tuner.boosted import Boosted
from tuner.driver import Outcome, Round, tune_tasks
from tuner.log import TuningLog, default_log_path
from tuner.options import Options

_STAGES = (
    "import",
    "simplify",
    "fuse",
    "prepare",
    "time conversions",
    "check the best on fresh inputs",
    "time the best within the network",
    "time the network",
    "verify",
)


@dataclass(frozen=True)
class Tuned:
    """What tuning a network found.

    Attributes:
        log: where the measurements are.
        variant: what the network uses: `joint`, `loops`, or `default` where nothing was faster.
        seconds: the time of a call of each variant, measured in turns.
        outcome: what the search of the tasks found.
        tasks: the tasks by key.
        module: the tuned network; None if the search was interrupted before it was built.
        unsaved: measurements that could not be written into the log.
    """

    log: Path
    variant: Variant
    seconds: Mapping[Variant, float]
    outcome: Outcome
    tasks: Mapping[str, KernelTask] = field(repr=False)
    module: Module | None = field(default=None, repr=False)
    unsaved: int = 0

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
    timing: Timing | None = None,
    others: Sequence[str | Path] = (),
    verify: bool = True,
    observe: Callable[[Round], None] | None = None,
    progress: Progress | None = None,
    rpc: str | None = None,
    key: str = "",
    precision: str = "fp32",
    device: int | str | None = None,
) -> Tuned:
    """Search the layouts and loops of a network's kernels; every measurement goes into a log.

    Args:
        model: a path, the bytes of a model, or a loaded one.
        target: what is measured on: `"llvm"` for this machine, `"cuda"` for its GPU, or what the
            servers at `rpc` are.
        minutes: how long to search; the network is then built and timed, which takes some more.
        trials: how many candidates to measure. Whichever of the two ends first ends the search;
            with neither it ends when nothing moves any more.
        log: a file of measurements. If it exists, the search goes on where it ended. Without one it
            is the log that the command line uses, too, `measurements.jsonl` in the folder of the
            user's state (`$XDG_STATE_HOME/alt` or `~/.local/state/alt`): what one network's tuning
            found out about a kernel serves every network that has it.
        shapes: shapes for inputs that have dynamic dimensions.
        constants: contents for inputs that are to be fixed.
        threads: threads to use; one a physical core by default.
        winograd: let 3x3 convolutions use Winograd's algorithm.
        layouts: which layouts there are; see `alt.policies`.
        options: shares of the budget and methods; its trials and seconds are overridden by
            `trials` and `minutes` where these are given.
        timing: how long and how often a candidate is run. What is measured with caches in another
            state than a network leaves them is kept apart in the log, and replay uses one or the
            other.
        others: more logs that the cost model learns from.
        verify: compare the tuned network with ONNX Runtime (or ONNX's reference).
        observe: called after every round of measurements.
        progress: called as (stage, done, total) when a stage begins.
        rpc: `host:port` of TVM's RPC tracker, to measure on its servers; see `alt.remote`. The
            whole network is timed and verified on one of them, too.
        key: that these servers were started with.
        precision: what a GPU may multiply, as for `alt.compile`; what is measured with one of them
            is no use for another.
        device: the GPU to measure on, by number or name; the first one by default.

    Raises:
        AltError: if the model cannot be compiled, the tuned network computes something else, there
            is no server or GPU to measure on, or no folder for a log that was not named.
        TuningError: if the log cannot be used.
    """

    def tell(stage: str) -> None:
        if progress is not None:
            progress(stage, _STAGES.index(stage), len(_STAGES))

    policy = policy_of(layouts)
    hardware = resolve(target, threads, precision, device)
    gpu = isinstance(hardware, Gpu)
    servers: Servers | None = None
    make: Callable[..., Runner] = Runner
    name = ""
    if gpu:
        if rpc is not None:
            raise AltError(
                f"kernels for a GPU ({hardware.arch}) are measured on this machine only: leave out "
                f"rpc={rpc!r}, and tune where the GPU is"
            )
        name, target = require_here(hardware, device), hardware
        make = partial(GpuRunner, device=device)
    elif device is not None:
        raise AltError(f"device={device!r} is for GPUs, and the target is a CPU: leave it out")
    elif rpc is not None:
        servers = Servers.parse(rpc, key)
        servers.require()
        threads = threads or hardware.cores
        make = partial(RemoteRunner, rpc=rpc, key=key)
    else:
        name = model_here()
    path = Path(log) if log is not None else default_log_path(make_state_folder())
    network = fused(
        model,
        target,
        shapes=shapes,
        constants=constants,
        threads=threads,
        precision=precision,
        tell=tell,
    )
    tell("prepare")
    machine = network.machine
    count = threads or min(machine.cores, physical_cores())
    header = header_of(machine, count, name, timing)
    records = TuningLog.open(path, header)
    learnt = [TuningLog.read(Path(p)) for p in others]
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
        timing=timing,
        precision=precision,
    ) as runner:
        outcome = tune_tasks(
            tasks,
            runner,
            records,
            header,
            chosen,
            clock=time.monotonic,
            stamp=now,
            observe=observe or (lambda _: None),
            model=Boosted(seed=chosen.seed),
            others=learnt,
        )
        finals = Finals(network, tasks, records, header, threads, policy, winograd, servers, device)
        if not outcome.interrupted:
            tell("time conversions")
            finals.time_conversions(runner)
            tell("check the best on fresh inputs")
            finals.check_best(runner, chosen.seed + 1, outcome.given_up)
    # A GPU's kernels run behind the host's back, and were timed as there: in a graph, with weights
    # as cold. What they make together is timed below, on a GPU, too.
    if not outcome.interrupted and not gpu:
        tell("time the best within the network")
        finals.time_in_place()
    tell("time the network")
    decided = finals.variants()
    modules = finals.assembled(decided)
    with finals.running(modules) as running:
        seconds = finals.time_in_turns(running, decided)
        variant = finals.fastest(decided)
        if verify:
            tell("verify")
            found = compare(model, running[variant], constants=constants)
            if not found.ok:
                raise AltError(f"tuned network: {found}; please report this model and its log")
    return Tuned(path, variant, seconds, outcome, tasks, modules[variant], records.unsaved)


def _with_budget(options: Options, minutes: float | None, trials: int | None) -> Options:
    if minutes is not None:
        options = replace(options, seconds=minutes * 60)
    return options if trials is None else replace(options, trials=trials)
