"""The end of tuning: from what was measured of every kernel alone to the whole network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import median
from typing import TypeVar

from alt.compiler import Fused, assemble
from alt.deployed import deployed
from alt.kernels import Kernel
from alt.module import Module
from alt.places import time_places
from alt.policies import LayoutPolicy
from alt.remote import WAIT_SECONDS
from alt.replay import (
    decide,
    fastest_variant,
    labels_of,
    measured_in,
    network_key,
    place_key,
    placed_in,
    program_of,
)
from alt.runner import Runner
from alt.select import RIVALS, VARIANTS, Choices, Label, Variant, choices_of
from alt.servers import Servers
from alt.tasks import KernelTask
from tuner.config import Config
from tuner.errors import Unmeasurable
from tuner.log import TuningLog
from tuner.records import Header
from tuner.task import Candidate, Measurement, Status

_LOGGER = logging.getLogger(__name__)

Name = TypeVar("Name")

ROUNDS = 25
"""How often the variants of the network are timed in turns."""


def now() -> str:
    """The time of day, for records."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Finals:
    """A network whose tasks were searched. Everything that is found out goes into the log.

    Attributes:
        network: that was fused.
        tasks: the tasks by key.
        log: what is known.
        header: of this machine and program.
        threads: that the network will use; one a physical core if not given.
        policy: which layouts there are.
        winograd: whether Winograd's algorithm may be used.
        servers: where networks run; here if there are none.
        device: the GPU that they run on.
    """

    network: Fused
    tasks: Mapping[str, KernelTask]
    log: TuningLog
    header: Header
    threads: int | None
    policy: LayoutPolicy
    winograd: bool
    servers: Servers | None
    device: int | str | None = None

    def check_best(self, runner: Runner, seed: int, given_up: Iterable[str] = ()) -> None:
        """Compare what the network is to use on fresh inputs; if it is wrong, the next fastest.

        Args:
            runner: that checks.
            seed: makes the inputs.
            given_up: tasks by key that cannot be checked.
        """
        unmeasurable = set(given_up)
        checked: set[tuple[str, Candidate]] = set()
        while used := [each for each in self._used() if each not in checked]:
            for key, candidate in used:
                if key in unmeasurable:
                    continue
                task = self.tasks[key]
                try:
                    measurement = runner.check(task, candidate, seed)
                except Unmeasurable as problem:
                    _LOGGER.warning("%s is not checked on fresh inputs: %s", task.name, problem)
                    unmeasurable.add(key)
                    continue
                self._note(key, candidate, measurement, task.name)
                if measurement.status is Status.wrong:
                    text = measurement.message
                    _LOGGER.warning("%s: %s; the next fastest is taken", task.name, text)
            checked.update(used)

    def _used(self) -> list[tuple[str, Candidate]]:
        """The candidate of each task in each layout that some variant gives it."""
        choices = self._choices()
        found: dict[tuple[str, Candidate], None] = {}
        for variant in VARIANTS:
            labels = labels_of(choices, variant, self.log, self.header)
            for kernel, candidate in choices.candidates(labels).items():
                found[choices.tasks[kernel].key, candidate] = None
        return list(found)

    def time_conversions(self, runner: Runner) -> None:
        """Measure what the assignment may ask for and the log does not know."""
        for conversion in self._choices().conversions():
            known = self.log.seen(conversion.key, self.header.target_id).get(conversion.candidate)
            if known is not None and known.ok:
                continue
            measurement = runner.time_conversion(
                conversion.shape, conversion.dtype, conversion.stored, conversion.wanted
            )
            self._note(conversion.key, conversion.candidate, measurement, "conversion")

    def time_in_place(self) -> None:
        """Time the fastest few of every task within the network; see `alt.places`."""
        choices, within = self._choices(), network_key(self.tasks)
        labellings: list[dict[Kernel, Label]] = []
        for variant in ("joint", "loops"):
            labels = labels_of(choices, variant, self.log, self.header)
            if labels not in labellings:
                labellings.append(labels)
        for labels in labellings:
            chosen = [choices.rival_candidates(labels, rank) for rank in range(RIVALS)]
            decided = {rank: choices.decided(each) for rank, each in enumerate(chosen)}
            with self.running(self.assembled(decided)) as modules:
                places = time_places(
                    self.network,
                    choices,
                    chosen,
                    list(modules.values()),
                    self.policy,
                    self.winograd,
                )
            for key, candidates in places.items():
                for candidate, samples in candidates.items():
                    name = self.tasks[key].name
                    self._note_samples(place_key(key, within), candidate, samples, name)

    def variants(self) -> dict[Variant, list[Kernel]]:
        """The kernels of every variant, as replaying the log would have them."""
        choices = self._choices()
        return {variant: decide(choices, variant, self.log, self.header) for variant in VARIANTS}

    def assembled(self, decided: Mapping[Name, list[Kernel]]) -> dict[Name, Module]:
        """Compiled networks by name; those of equal kernels are one and the same."""
        programs = self._programs(decided)
        given = self.threads, self.policy, self.winograd
        made: dict[str, Module] = {}
        for name, program in programs.items():
            if program not in made:
                made[program] = assemble(self.network, decided[name], *given, device=self.device)
        return {name: made[program] for name, program in programs.items()}

    def running(
        self, modules: Mapping[Name, Module]
    ) -> AbstractContextManager[Mapping[Name, Module]]:
        """Networks where they can run: here, or on one of the servers."""
        if self.servers is None:
            return nullcontext(modules)
        return deployed(modules, self.servers, WAIT_SECONDS)

    def fastest(self, decided: Mapping[Variant, list[Kernel]]) -> Variant:
        """What replaying the log would choose of these."""
        return fastest_variant(self.log, self.tasks, self.header, self._programs(decided))

    def _programs(self, decided: Mapping[Name, list[Kernel]]) -> dict[Name, str]:
        given = self.policy, self.winograd
        return {name: program_of(kernels, *given) for name, kernels in decided.items()}

    def time_in_turns(
        self, modules: Mapping[Variant, Module], decided: Mapping[Variant, list[Kernel]]
    ) -> dict[Variant, float]:
        """The median seconds of a call of every variant; a round times all, in changing order.

        They run as they will: on a GPU as CUDA graphs, the host waiting for each call.
        """
        samples: dict[Variant, list[float]] = {variant: [] for variant in modules}
        order = list(modules)
        for _ in range(ROUNDS):
            for variant in order:
                timed = modules[variant].benchmark(repeats=3, min_seconds=0.01)
                samples[variant].append(timed.median_seconds)
            order = order[1:] + order[:1]
        programs = self._programs(decided)
        for variant, seconds in samples.items():
            program = Config({"program": programs[variant]})
            candidate = Candidate(Config({"variant": variant}), program)
            self._note_samples(network_key(self.tasks), candidate, seconds, "the network")
        self.log.try_flush()
        return {variant: median(seconds) for variant, seconds in samples.items()}

    def _choices(self) -> Choices:
        measured = measured_in(self.log, self.tasks, self.header)
        placed = placed_in(self.log, self.tasks, self.header)
        graph, kernels = self.network.graph, self.network.kernels
        return choices_of(graph, kernels, self.tasks, measured, placed)

    def _note_samples(
        self, key: str, candidate: Candidate, samples: Sequence[float], name: str
    ) -> None:
        self._note(key, candidate, Measurement(Status.ok, tuple(samples)), name)

    def _note(self, key: str, candidate: Candidate, measurement: Measurement, name: str) -> None:
        self.log.append(self.header.record(key, candidate, measurement, now(), name))
