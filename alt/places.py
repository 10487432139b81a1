"""Candidates timed where they will run: between the other kernels of their network.

Alone, a kernel finds its weights and its input in the caches, since it has just used them itself.
In a network others have used the caches in between. Which of the fastest candidates is the fastest
there is measured there: the n-th candidates of all kernels together make the n-th network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alt.compiler import Fused
from alt.kernels import Kernel
from alt.module import Module
from alt.policies import LayoutPolicy
from alt.propagate import plan_layouts
from alt.select import Choices
from tuner.task import Candidate

ROUNDS, CALLS = 8, 5
"""The networks are timed in turns, so often, and by the median of so many calls."""

Places = dict[str, dict[Candidate, list[float]]]
"""By task: samples of its candidates, in seconds of a kernel call."""


def time_places(
    network: Fused,
    choices: Choices,
    chosen: Sequence[Mapping[Kernel, Candidate]],
    running: Sequence[Module],
    policy: LayoutPolicy,
    winograd: bool,
) -> Places:
    """Time the candidates of several networks that differ in nothing else.

    Args:
        network: that was fused.
        choices: what is known about its kernels.
        chosen: the candidates of each network.
        running: each network, compiled.
        policy: that it was compiled with.
        winograd: likewise.
    """
    owners = [_owners(network, choices.decided(each), policy, winograd) for each in chosen]
    found: Places = {}
    order = list(range(len(running)))
    for _ in range(ROUNDS):
        for n in order:
            medians = np.median(running[n].time_kernels(CALLS), axis=0)
            spent: dict[Kernel, float] = {}
            for owner, seconds in zip(owners[n], medians, strict=True):
                spent[owner] = spent.get(owner, 0.0) + float(seconds)
            samples: dict[tuple[str, Candidate], list[float]] = {}
            for kernel, candidate in chosen[n].items():
                key = choices.tasks[kernel].key
                samples.setdefault((key, candidate), []).append(spent[kernel])
            for (key, candidate), seconds in samples.items():
                each = found.setdefault(key, {}).setdefault(candidate, [])
                each.append(float(np.mean(seconds)))
        order = order[1:] + order[:1]
    return found


def _owners(
    network: Fused, kernels: list[Kernel], policy: LayoutPolicy, winograd: bool
) -> list[Kernel]:
    """For whose sake each kernel of the program runs, in order: what is put in is for the next."""
    of_output = {kernel.output: kernel for kernel in network.kernels}
    plan = plan_layouts(network.graph, kernels, network.machine, winograd, policy)
    found: list[Kernel] = []
    for kernel in reversed(plan.kernels):
        before = found[-1] if found else network.kernels[-1]
        found.append(of_output.get(kernel.output, before))
    return found[::-1]
