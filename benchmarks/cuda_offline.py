"""`python -m benchmarks cuda-offline`: every network compiled for a GPU, without one."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from alt.arguments import positive
from benchmarks.arguments import some_names_of
from benchmarks.cuda_program import Compiled, compile_offline
from benchmarks.machine import Machine, this_machine
from benchmarks.networks import NETWORKS, light_graph, light_names
from benchmarks.tables import markdown, plain

PRECISIONS = ("fp32", "tf32", "fp16")
"""As `alt.cuda.gpu` has them; importing that would take the time that is to be measured."""

HEADER = (
    "network",
    "precision",
    "launches",
    "kernels",
    "on tensor cores",
    "generated s",
    "nvcc s",
    "threads",
    "shared bytes",
    "registers",
    "spilled bytes",
    "legal",
)


@dataclass(frozen=True)
class Case:
    """A network to compile.

    Attributes:
        network: its name.
        build: makes it.
        precision: what is multiplied.
    """

    network: str
    build: Callable[[], onnx.ModelProto]
    precision: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: the case.
        compiled: what it takes; None if it failed.
        problem: why it failed; empty if it did not.
    """

    case: Case
    compiled: Compiled | None
    problem: str = ""


def cases_of(names: Sequence[str], precisions: Sequence[str], batch: int = 1) -> list[Case]:
    """The cases for networks by name, in order.

    Args:
        names: of `NETWORKS` or `light_names()`.
        precisions: each network is compiled with all of them.
        batch: images or sentences; the light graphs have one, whatever is asked.

    Example:
        >>> [(c.network, c.precision) for c in cases_of(["bert_tiny"], ["fp32", "tf32"])]
        [('bert_tiny', 'fp32'), ('bert_tiny', 'tf32')]
    """

    def builder(name: str) -> Callable[[], onnx.ModelProto]:
        if name in NETWORKS:
            return partial(NETWORKS[name], batch=batch)
        return partial(light_graph, name)

    return [Case(name, builder(name), precision) for name in names for precision in precisions]


def compiled_alone(case: Case, arch: str, with_nvcc: bool = True) -> Outcome:
    """Compile a case in a fresh process: nothing is cached, and a crash costs this case only."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        asked = pool.submit(compile_offline, case.build, arch, case.precision, with_nvcc)
        try:
            return Outcome(case, asked.result())
        except BrokenProcessPool:
            return Outcome(case, None, "the process died")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what there is to report
            first = (str(error).strip().splitlines() or [""])[0]
            return Outcome(case, None, f"{type(error).__name__}: {first}")


def row_of(outcome: Outcome) -> list[str]:
    """A row of the table; see `HEADER`."""
    case, made = outcome.case, outcome.compiled
    if made is None:
        return [case.network, case.precision, *["-"] * (len(HEADER) - 3), "failed"]
    seconds = (made.generate_seconds, made.nvcc_seconds)
    return [
        case.network,
        case.precision,
        str(made.launches),
        str(made.kernels),
        str(made.on_tensor_cores),
        *("-" if s is None else f"{s:.1f}" for s in seconds),
        str(made.threads),
        str(made.shared_bytes),
        *("-" if n is None else str(n) for n in (made.registers, made.spilled_bytes)),
        "proved",
    ]


def report(outcomes: Sequence[Outcome], machine: Machine, arch: str, command: str) -> str:
    """The page that is written: what was asked, what it means, and the table."""
    problems = [
        f"- {o.case.network}, {o.case.precision}: {o.problem}" for o in outcomes if o.problem
    ]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    text = f"""\
# CUDA without a device

`{command}`, on {machine.cpu}, {machine.physical_cores} cores; {versions}.

Each network was compiled for {arch} in a process of its own, with nothing cached. *generated s* is
from the ONNX model to CUDA C, the import of ALT and TVM included; *nvcc s* from there to machine
code. Seconds are wall time and depend on what else the machine does.
*launches* is how many kernels a call runs, *kernels* how many different ones there are,
and *on tensor cores* how many of these multiply with less than float32. *threads*
and *shared bytes* are those of a block, *registers* and *spilled bytes* those of a thread, of the
kernel that takes most of each. *legal* says `proved` if for every kernel it was checked, before
nvcc saw it, that all it writes is bound to blocks and threads, that the numbers of these, shared
memory and local memory are within the limits of {arch}, and that no barrier can be missed by some
threads; and afterwards that the registers of a block fit.

Nothing here says how fast the kernels are: no device ran them.

"""
    text += markdown(HEADER, [row_of(o) for o in outcomes]) + "\n"
    return text + ("\nFailed:\n" + "\n".join(problems) + "\n" if problems else "")


def _parser() -> argparse.ArgumentParser:
    every = [*NETWORKS, *light_names()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cuda-offline",
        description="Compile networks for a GPU that need not be there, each in each precision in "
        "a fresh process. Exits with 1 when one fails.",
    )
    add = parser.add_argument
    add("--arch", default="sm_90", help="default: %(default)s")
    add(
        "--only",
        type=partial(some_names_of, every),
        default=every,
        metavar="NAMES",
        help=f"comma-separated; any of {', '.join(every)}",
    )
    add(
        "--precision",
        type=partial(some_names_of, PRECISIONS),
        default=list(PRECISIONS),
        metavar="NAMES",
        help=f"comma-separated; any of {', '.join(PRECISIONS)}",
    )
    add("--batch", type=positive, default=1, help="of the five networks; default: %(default)s")
    add("--no-nvcc", dest="nvcc", action="store_false", help="CUDA C only")
    add("--markdown", type=Path, metavar="FILE.md", help="write a page, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    given = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(given)
    if options.nvcc and shutil.which("nvcc") is None:
        parser.error("nvcc is not on PATH; install the CUDA toolkit, or give --no-nvcc")
    if options.markdown is not None and not options.markdown.absolute().parent.is_dir():
        parser.error(f"--markdown {options.markdown}: no such folder; create it first")
    outcomes: list[Outcome] = []
    try:
        for case in cases_of(options.only, options.precision, options.batch):
            outcomes.append(compiled_alone(case, options.arch, options.nvcc))
            shown = outcomes[-1].problem or ", ".join(row_of(outcomes[-1])[2:])
            print(f"{case.network} {case.precision}: {shown}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(plain(HEADER, [row_of(o) for o in outcomes]))
    if options.markdown is not None:
        command = " ".join(["python -m benchmarks cuda-offline", *given])
        options.markdown.write_text(report(outcomes, this_machine(), options.arch, command))
    return 1 if any(o.problem for o in outcomes) else 0
