"""`python -m benchmarks gpu-session`: everything that needs a GPU, the most valuable first.

For a machine that is there for some minutes at a time: each call goes on where the last one stopped
as long as the folder of results is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.arguments import some_names_of
from benchmarks.gpu.command import RESULTS, why_not_here

UNFINISHED = 3
"""What `python -m benchmarks gpu` returns when its minutes were over first."""

NOT_HERE = 2
"""What it returns where there is no GPU, or no PyTorch."""

STOPPED = 124
"""Exit code of tests that had to be stopped."""

_LEAST_SECONDS = 45.0
"""Nothing is started for less."""


@dataclass(frozen=True)
class Step:
    """Something to run.

    Attributes:
        name: for the log.
        command: arguments for Python.
        minutes: it may take at most.
    """

    name: str
    command: tuple[str, ...]
    minutes: float

    @property
    def is_benchmark(self) -> bool:
        """Whether it can be told how much time there is, and where its results belong."""
        return self.command[:3] == _GPU


_GPU = ("-m", "benchmarks", "gpu")
_TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu and not slow",
          "--continue-on-collection-errors", "tests/cuda")  # fmt: skip

STEPS = (
    Step("kernels", _TESTS, 5),
    Step("fp32", (*_GPU, "--rivals", "torch"), 9),
    Step("products", (*_GPU, "--operators", "--precision", "fp16,tf32,fp32"), 5),
    Step("precisions", (*_GPU, "--precision", "fp16,tf32", "--rivals", "torch"), 9),
    Step("compiled", (*_GPU, "--precision", "fp32", "--rivals", "torch.compile"), 9),
    Step(
        "compiled-precisions",
        (*_GPU, "--precision", "fp16,tf32", "--rivals", "torch.compile"),
        9,
    ),
    Step("others", (*_GPU, "--rivals", "onnxruntime,tensorrt"), 9),
    Step(
        "layouts",
        (*_GPU, "--precision", "fp16", "--networks", "resnet18,mobilenet_v2,resnet3d18",
         "--rivals", "ours-NCHW,ours-NHWC,ours-NCHWc"),
        5,
    ),
    Step(
        "tuned",
        (*_GPU, "--networks", "resnet18,bert_tiny", "--batch", "1", "--precision", "fp16",
         "--rivals", "ours-tuned,torch.compile", "--tune-minutes", "2.5"),
        9,
    ),
    Step(
        "metaschedule",
        (*_GPU, "--networks", "resnet18,bert_tiny", "--batch", "1", "--rivals", "metaschedule",
         "--trials", "256"),
        9,
    ),
)  # fmt: skip


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    minutes: float,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run what has not been run before, in order, until the time is over; how many failed.

    Args:
        steps: what there is.
        folder: for results, logs, and what was done.
        minutes: for all of them.
        tell: is told what happens.
        clock: seconds.
    """
    end = clock() + 60 * minutes
    state = folder / "gpu-session.json"
    done: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
    failed = 0
    for step in steps:
        if step.name in done:
            tell(f"{step.name}: was done before, exit code {done[step.name]}")
            continue
        seconds = min(60 * step.minutes, end - clock())
        if seconds < _LEAST_SECONDS:
            tell(f"{step.name}: no time left; start it again")
            break
        tell(f"{step.name}: {seconds / 60:.1f} minutes at most")
        code = _run(step, folder, seconds)
        if code == UNFINISHED or (code is None and step.is_benchmark):
            tell(f"{step.name}: its time was over; the next call goes on with it")
            continue
        if code == NOT_HERE and step.is_benchmark:
            tell(f"{step.name}: it cannot run here; see its log")
            failed += 1
            continue
        done[step.name] = code = STOPPED if code is None else code
        state.write_text(json.dumps(done, indent=2) + "\n")
        tell(f"{step.name}: exit code {code}; see {folder / f'gpu-session-{step.name}.log'}")
        failed += code != 0
    return failed


def _run(step: Step, folder: Path, seconds: float) -> int | None:
    """The exit code of a step; None if it was stopped."""
    command = [sys.executable, *step.command]
    if step.is_benchmark:  # some seconds are for what it has begun
        minutes = max(seconds - 40, 1) / 60
        command += ["--minutes", f"{minutes:.2f}", "--results", str(folder)]
    with (folder / f"gpu-session-{step.name}.log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its contenders, too
                process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 when a step failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu-session",
        description="Tests of kernels, then networks, products, precisions, layouts and tuners on "
        "a GPU, the most valuable first. Start it again until all is done.",
    )
    names = [step.name for step in STEPS]
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="for this call; default: %(default)s")
    add(
        "--only",
        type=partial(some_names_of, names),
        default=names,
        metavar="NAMES",
        help=f"comma-separated; any of {', '.join(names)}",
    )
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args(argv)
    if not options.results.is_dir():
        parser.error(f"--results {options.results}: no such folder; create it first")
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes}: give more than 0")
    if reason := why_not_here("cuda"):
        print(reason, file=sys.stderr)
        return NOT_HERE
    steps = [step for step in STEPS if step.name in options.only]

    def tell(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    return 1 if run_steps(steps, options.results, options.minutes, tell) else 0
