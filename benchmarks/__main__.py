"""`python -m benchmarks networks`: whole networks, ours beside ONNX Runtime and OpenVINO.

`python -m benchmarks layouts`: what a layout alone is worth, operator by operator.
`python -m benchmarks search`: what searching layouts with loops is worth, at equal budgets.
`python -m benchmarks cuda-offline`: every network compiled for a GPU that is not there.
`python -m benchmarks gpu`: networks and matrix products on a GPU, ours beside PyTorch and others.
`python -m benchmarks gpu-session`: everything that needs a GPU, in order of value.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx

from alt.arguments import positive
from benchmarks.arguments import names_of
from benchmarks.baselines import BASELINES, CONTENDERS
from benchmarks.machine import physical_cores, this_machine
from benchmarks.networks import NETWORKS, inputs_for, light_graph, light_names
from benchmarks.protocol import Comparison, Plan, compare
from benchmarks.tables import as_json, report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    networks = commands.add_parser(
        "networks",
        help="time whole networks",
        description="Compile, check and time whole networks with every contender, interleaved. "
        "Exits with 1 when a contender fails or its outputs are wrong.",
    )
    commands.add_parser("layouts", help="what a layout alone is worth, operator by operator")
    commands.add_parser("search", help="what searching is worth, at equal budgets")
    commands.add_parser("cuda-offline", help="every network compiled for a GPU that is not there")
    commands.add_parser("gpu", help="networks and matrix products on a GPU")
    commands.add_parser("gpu-session", help="everything that needs a GPU, in order of value")
    every = [*NETWORKS, *light_names()]
    add = networks.add_argument
    add(
        "--only",
        type=partial(names_of, every),
        metavar="NAMES",
        help=f"comma-separated; any of {', '.join(every)}",
    )
    add("--light", action="store_true", help="the nine graphs of the onnx package instead")
    add("--threads", type=positive, default=physical_cores(), help="default: physical cores")
    add("--repeats", type=positive, default=20, help="rounds; default: %(default)s")
    add("--sample-ms", type=positive, default=50, help="least sample; default: %(default)s")
    add("--ours", action=argparse.BooleanOptionalAction, default=True, help="measure ours")
    add(
        "--baselines",
        type=partial(names_of, BASELINES),
        default=list(BASELINES),
        metavar="NAMES",
        help=f"comma-separated, may be empty; default: {','.join(BASELINES)}",
    )
    add("--seed", type=int, default=0, help="of weights, inputs and order; default: %(default)s")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--json", type=Path, metavar="PATH", help="also write every sample to this file")
    return parser


def _selected(
    only: Sequence[str] | None, light: bool, seed: int
) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Builders by name, in the order of the tables."""
    builders: dict[str, Callable[[], onnx.ModelProto]] = {
        name: partial(build, seed=seed) for name, build in NETWORKS.items()
    }
    light_builders = {name: partial(light_graph, name, seed) for name in light_names()}
    if only is not None:
        builders |= light_builders
        return {name: builders[name] for name in only}
    return light_builders if light else builders


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _measure(
    arguments: argparse.Namespace, contenders: Sequence[str], plan: Plan
) -> list[Comparison]:
    comparisons: list[Comparison] = []
    builders = _selected(arguments.only, arguments.light, arguments.seed)
    for name, build in builders.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.onnx")
            model = build()
            onnx.save(model, path)
            inputs = inputs_for(model, arguments.seed)
            del model  # hundreds of megabytes
            comparison = compare(
                name,
                path,
                inputs,
                [CONTENDERS[contender]() for contender in contenders],
                threads=arguments.threads,
                plan=plan,
                seed=arguments.seed,
                on_progress=_progress,
            )
        comparisons.append(comparison)
    return comparisons


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] == "layouts":
        from benchmarks.layouts import main as layouts  # imports TVM

        return layouts(given[1:])
    if given and given[0] == "search":
        from benchmarks.search_command import main as search  # imports TVM

        return search(given[1:])
    if given and given[0] == "cuda-offline":
        from benchmarks.cuda_offline import main as cuda_offline

        return cuda_offline(given[1:])
    if given and given[0] == "gpu":
        from benchmarks.gpu.command import main as gpu

        return gpu(given[1:])
    if given and given[0] == "gpu-session":
        from benchmarks.gpu.session import main as session

        return session(given[1:])
    parser = _parser()
    arguments = parser.parse_args(given)
    contenders = [*(["ours"] if arguments.ours else []), *arguments.baselines]
    if not contenders:
        parser.error("nothing to measure: --no-ours and no baselines")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: no such folder; create it first")
    plan = Plan(rounds=arguments.repeats, sample_seconds=arguments.sample_ms / 1e3)
    try:
        comparisons = _measure(arguments, contenders, plan)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    machine, threads = this_machine(), arguments.threads
    print(report(comparisons, contenders, machine, plan, threads, as_markdown=arguments.markdown))
    if arguments.json is not None:
        data = as_json(comparisons, machine, plan, threads)
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")
    right = all(result.correct for c in comparisons for result in c.results.values())
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
