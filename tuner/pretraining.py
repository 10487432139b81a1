"""The agent of a tuning run: where it comes from, and where it is kept.

All `ppo` searchers of a run share one, whatever they propose and for which task: its actors belong
to decisions by name, and its critic sees what kind of decision it judges. So what was learnt on one
task helps with the next.

Source: ALT (EuroSys 2023, arXiv 2210.12415), section on layout tuning: one critic for all actors,
which may be pre-trained and used again; that analytic estimates are what they are trained on, and
that they may propose loops, too, is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.actor_critic import new_agent, pretrain, saved_agent
from tuner.choices import Config
from tuner.errors import TuningError
from tuner.options import Options
from tuner.search import Rng
from tuner.space import Space
from tuner.task import Candidate, Task

if TYPE_CHECKING:
    from tuner.agent import Agent

_LOGGER = logging.getLogger(__name__)


def agent_of(options: Options, tasks: Sequence[Task], rng: Rng) -> Agent | None:
    """What the searchers of a run share: the agent of a file, or a new one that is pre-trained.

    A new one is written at once: what cannot be written is better known before the search. One that
    was loaded is asleep: it is to be woken once the searches know what a log has, which it has
    mostly learnt before.

    Args:
        options: who proposes, and the file.
        tasks: what will be searched.
        rng: decides.

    Returns:
        None if no searcher has an agent.

    Raises:
        TuningError: torch is not installed, or the file is no agent, or cannot be written.
    """
    if not options.has_agent:
        return None
    path = Path(options.agent) if options.agent is not None else None
    if path is not None and path.exists():
        agent = saved_agent(path, rng)
        agent.asleep = True
        return agent
    agent = new_agent(rng)
    estimated = [each for task in tasks for each in _estimated(task, options)]
    pretrain(agent, [each for each in estimated if each[0].default()], rng)
    if path is not None:
        agent.save(path)
    return agent


def keep(agent: Agent | None, path: str | Path | None) -> None:
    """Write what was learnt, if there is a file for it; that it fails costs only that."""
    if agent is None or path is None:
        return
    agent.study()
    try:
        agent.save(Path(path))
    except TuningError as error:
        _LOGGER.warning("%s; what this search has taught it is lost", error)


def _estimated(task: Task, options: Options) -> Iterator[tuple[Space, Callable[[Config], float]]]:
    """The spaces of a task that `ppo` proposes in, each with what it expects them to take."""
    own = task.layouts.default()
    if options.layouts == "ppo":
        yield (
            task.layouts,
            lambda layout: task.estimate(Candidate(layout, task.loops(layout).default())),
        )
    if options.loops == "ppo":
        yield task.loops(own), lambda loops: task.estimate(Candidate(own, loops))
