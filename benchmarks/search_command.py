"""The command line of `python -m benchmarks search`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import onnx

from alt.arguments import positive
from alt.compiler import fused
from alt.errors import AltError
from alt.propagate import plan_layouts
from alt.target import require_cpu
from alt.tasks import tasks_of
from benchmarks.arguments import some_names_of
from benchmarks.machine import physical_cores, this_machine
from benchmarks.metaschedule import search_by_metaschedule, search_network_by_metaschedule
from benchmarks.networks import NETWORKS
from benchmarks.operators import Operator, operators_of
from benchmarks.protocol import Plan
from benchmarks.search import (
    WAYS,
    Budget,
    compare_ways,
    duel,
    duels_table,
    ways_table,
)
from benchmarks.tables import markdown, plain

AGAINST = "metaschedule"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks search",
        description="Tune a network in several ways with equal budgets and time what was found in "
        "turns; or tune its operators, by us and by MetaSchedule. Exits with 1 when one fails.",
    )
    add = parser.add_argument
    add(
        "--network",
        type=_network,
        default="resnet18",
        metavar="NAME",
        help=f"{', '.join(NETWORKS)}, or a file; default: %(default)s",
    )
    add(
        "--trials",
        type=positive,
        help="candidates a search; default: 256 without minutes",
    )
    add("--minutes", type=float, help="time a search")
    add(
        "--ways",
        type=partial(some_names_of, list(WAYS)),
        default=list(WAYS),
        metavar="NAMES",
        help=f"comma-separated; any of {', '.join(WAYS)}",
    )
    add(
        "--searches",
        type=positive,
        default=1,
        metavar="N",
        help="by every way, each with another seed; default: %(default)s",
    )
    add(
        "--against",
        choices=[AGAINST, f"{AGAINST}-network"],
        help="tune operators, or the network, beside this tuner, which has so many trials for each "
        "function",
    )
    add("--operators", type=positive, metavar="N", help="only the first N operators")
    add("--threads", type=positive, default=physical_cores(), help="default: physical cores")
    add("--repeats", type=positive, default=20, help="rounds in the end; default: %(default)s")
    add("--sample-ms", type=positive, default=50, help="least sample; default: %(default)s")
    add("--seed", type=int, default=0, help="of searches, weights and order; default: %(default)s")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--json", type=Path, metavar="PATH", help="also write every sample to this file")
    return parser


def _network(text: str) -> str:
    if text not in NETWORKS and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"{text} is no file; choose from {', '.join(NETWORKS)}, or name a file"
        )
    return text


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 when a search failed or found something wrong."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.minutes is not None and options.minutes <= 0:
        parser.error(f"--minutes {options.minutes}: give more than 0")
    if options.against and options.minutes is not None:
        parser.error(
            f"--against {options.against} takes --trials: its seconds are the other budget"
        )
    chosen = options.ways != list(WAYS) or options.searches > 1
    if options.against and chosen:
        parser.error("--ways and --searches are for comparing ways, not for --against")
    if options.operators and options.against != AGAINST:
        parser.error(f"--operators is for --against {AGAINST}")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: no such folder; create it first")
    trials = options.trials or (256 if options.minutes is None else None)
    plan = Plan(options.repeats, options.sample_ms / 1e3, options.sample_ms / 1e3)
    render = markdown if options.markdown else plain
    common = {"threads": options.threads, "seed": options.seed, "progress": _progress}
    try:
        model = _model(options.network, options.seed)
        if options.against:
            if options.against == AGAINST:
                operators = _operators(model, options.threads)[: options.operators]
                contests = [
                    (o.name, o.model(options.seed), partial(search_by_metaschedule, o), o.count)
                    for o in operators
                ]
            else:
                search = partial(search_network_by_metaschedule, model)
                contests = [(options.network, model, search, 1)]
            results = [
                duel(name, each, search, trials or 256, plan, count=count, **common)
                for name, each, search, count in contests
            ]
            table = duels_table(results)
            failed = any(f.problem for d in results for f in (d.metaschedule, d.trials, d.seconds))
        else:
            budget = Budget(trials, options.minutes)
            ways = [WAYS[name] for name in options.ways]
            results = compare_ways(model, ways, budget, plan, searches=options.searches, **common)
            table = ways_table(results)
            failed = any(found.problem for found in results)
    except AltError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(render(*table))
    print(f"\n{this_machine().cpu}, {options.threads} threads, {plan.rounds} interleaved rounds")
    if options.json is not None:
        data = {"network": options.network, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return 1 if failed else 0


def _operators(model: onnx.ModelProto, threads: int) -> list[Operator]:
    network = fused(model, threads=threads)
    machine = require_cpu(network.machine)
    rules = plan_layouts(network.graph, network.kernels, machine)
    tasks = tasks_of(network.kernels, network.graph.constants, machine, rules)
    return operators_of(tasks.values())


def _model(network: str, seed: int) -> onnx.ModelProto:
    return NETWORKS[network](seed=seed) if network in NETWORKS else onnx.load(network)


if __name__ == "__main__":
    sys.exit(main())
