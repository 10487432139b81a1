"""`python -m benchmarks layouts`: what a layout alone is worth, operator by operator.

For each distinct convolution and product with weights in the networks, every family of layouts
gets the best loops found for it among the same number of candidates, all written by one recipe.
Inputs come padded and weights packed, as they do in a compiled network; they lie in cache as far
as they fit. Every candidate is checked before it is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from alt.arguments import positive
from alt.canonical import canonicalize
from alt.frontend import import_model
from alt.peak import peak_flops
from alt.relax_graph import to_graph
from alt.target import physical_cores, resolve
from alt.threads import use_threads
from benchmarks.layout_contest import Contest, contest, operators_of
from benchmarks.layout_families import families_of
from benchmarks.layout_operators import Operator
from benchmarks.layout_report import draw, report
from benchmarks.networks import NETWORKS
from benchmarks.protocol import Plan

Progress = Callable[[str], None]


def operators_of_networks(names: Sequence[str], progress: Progress) -> dict[Operator, list[str]]:
    """The operators of some of the benchmark's networks, and which networks have them."""
    found: dict[Operator, list[str]] = {}
    for name in names:
        progress(f"{name}: its operators")
        imported = import_model(NETWORKS[name]())
        graph = canonicalize(to_graph(imported.module, imported.weights, len(imported.inputs)))
        for op in operators_of(graph):
            found.setdefault(op, []).append(name)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks layouts`."""
    add = parser.add_argument
    add(
        "--only",
        type=_networks,
        default=list(NETWORKS),
        metavar="NAMES",
        help=f"comma-separated networks; any of {', '.join(NETWORKS)}",
    )
    add("--shapes", type=positive, metavar="N", help="only the first N shapes")
    add("--trials", type=positive, default=12, help="candidates a family; default: %(default)s")
    add("--repeats", type=positive, default=20, help="rounds; default: %(default)s")
    add("--sample-ms", type=positive, default=20, help="least sample; default: %(default)s")
    add("--threads", type=positive, default=physical_cores(), help="default: physical cores")
    add("--seed", type=int, default=0, help="of inputs and order; default: %(default)s")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--json", type=Path, metavar="PATH", help="also write every sample to this file")
    add("--plot", type=Path, metavar="PATH", help="also draw the gains: .svg, .png or .pdf")


def _networks(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in NETWORKS]:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; choose from {', '.join(NETWORKS)}"
        )
    return names


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 when a candidate was wrong or a family had none that ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks layouts", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"--{name} {path}: no such folder; create it first")
    machine, threads = resolve("llvm", options.threads), options.threads
    use_threads(threads, max(threads, physical_cores()))
    plan = Plan(options.repeats, options.sample_ms / 1e3, options.sample_ms / 1e3)
    contests: list[Contest] = []
    try:
        found = list(operators_of_networks(options.only, _progress).items())[: options.shapes]
        for number, (op, networks) in enumerate(found, 1):
            _progress(f"{number}/{len(found)} {op.name}")
            contests.append(
                contest(
                    op,
                    networks,
                    machine,
                    trials=options.trials,
                    threads=threads,
                    plan=plan,
                    seed=options.seed,
                )
            )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    peak = peak_flops(str(machine.target), machine.lanes(), machine.registers, threads)
    print(report(contests, peak, threads, plan, as_markdown=options.markdown))
    if options.json is not None:
        data = {"peak_flops": peak, "threads": threads, "contests": [asdict(c) for c in contests]}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    if options.plot is not None:
        draw(contests, options.plot)
    complete = all(set(c.timings) == set(families_of(c.op)) and not c.wrong for c in contests)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
