"""The command line of `python -m benchmarks gpu`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import onnx

from alt.arguments import positive
from benchmarks.arguments import names_of
from benchmarks.gpu.measure import OURS, Record, measure, right_outputs
from benchmarks.gpu.problems import BATCHES, NAMES, PRODUCTS, Problem, networks, operators
from benchmarks.gpu.rivals import PRECISIONS, Cublas, OnDevice, Ours, Torch, TorchCompile
from benchmarks.gpu.runtimes import MetaSchedule, OnnxRuntime, TensorRt
from benchmarks.gpu.tables import gathered, newest, report
from benchmarks.networks import inputs_for
from benchmarks.protocol import Plan
from benchmarks.worker import TOOK_LONGER, WorkerError

RESULTS = Path(__file__).parent.parent / "results"
RIVALS: dict[str, type[OnDevice]] = {
    "torch": Torch,
    "torch.compile": TorchCompile,
    "onnxruntime": OnnxRuntime,
    "tensorrt": TensorRt,
    "metaschedule": MetaSchedule,
    "cublas": Cublas,
}
LAYOUTS = ("NCHW", "NHWC", "NCHWc")
"""Layouts that ours may be held to, each a contender: `ours-NHWC`."""

TUNED = "ours-tuned"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description="Compile, check and time networks and matrix products on a GPU, ours beside "
        "others. What was measured is kept in a file, and not measured again: when the minutes are "
        "over, start it once more. Exits with 3 when something is left then, and with 1 when ours "
        "failed or was wrong.",
    )
    add = parser.add_argument
    add("--networks", type=partial(names_of, NAMES), default=list(NAMES), metavar="NAMES",
        help=f"comma-separated, may be empty; default: {','.join(NAMES)}")  # fmt: skip
    add("--operators", action="store_true", help="matrix products instead")
    add("--products", type=positive, default=len(PRODUCTS), metavar="N", help="only the first N")
    add("--batch", type=partial(names_of, [str(b) for b in range(1, 257)]), metavar="SIZES",
        default=[str(b) for b in BATCHES], help="comma-separated; default: 1,16")  # fmt: skip
    add("--precision", type=partial(names_of, list(PRECISIONS)), default=["fp32"], metavar="NAMES",
        help=f"comma-separated, any of {','.join(PRECISIONS)}; default: fp32")  # fmt: skip
    add("--rivals", type=partial(names_of, [*RIVALS, TUNED, *(f"ours-{x}" for x in LAYOUTS)]),
        metavar="NAMES", help="comma-separated, may be empty; default: "
        "torch,torch.compile,onnxruntime,tensorrt, and torch,cublas for products")  # fmt: skip
    add("--trials", type=positive, default=0, help="for metaschedule: candidates to measure")
    add("--tune-minutes", type=float, default=10.0, metavar="MINUTES",
        help="for ours-tuned, beside what its log knows; default: %(default)s")  # fmt: skip
    add("--minutes", type=float, default=9.0, help="start nothing after; default: %(default)s")
    add("--rounds", type=positive, default=15, help="default: %(default)s")
    add("--sample-ms", type=positive, default=100, help="least sample; default: %(default)s")
    add("--device", choices=["cuda", "cpu"], default="cuda",
        help="cpu tries the benchmark, with small networks")  # fmt: skip
    add("--results", type=Path, default=RESULTS, metavar="FOLDER",
        help="where gpu.jsonl is kept and gpu.md written")  # fmt: skip
    add("--again", action="store_true", help="measure what was measured before, too")
    add("--seed", type=int, default=0, help="of weights, inputs and order; default: %(default)s")
    return parser


def contender(name: str, precision: str, options: argparse.Namespace) -> OnDevice:
    """A contender by name."""
    # The others have graphs of their own, which cannot be recorded.
    recorded = options.operators and name in (OURS, TUNED, "torch", "cublas")
    shared = {"precision": precision, "device": options.device, "recorded": recorded}
    if name == OURS:
        return Ours(**shared)
    if name == TUNED:
        log = options.results / "gpu-tuning.jsonl"
        return Ours(**shared, name=name, minutes=options.tune_minutes, log=log)
    if name.startswith("ours-"):
        return Ours(**shared, name=name, layouts=name.removeprefix("ours-"))
    if name == "metaschedule":
        return MetaSchedule(
            **shared, trials=options.trials, folder=Path(tempfile.mkdtemp(prefix="metaschedule-"))
        )
    return RIVALS[name](**shared)


def read_records(path: Path) -> list[Record]:
    """What was measured before; a line that a killed run left half-written is skipped."""
    if not path.exists():
        return []
    found: list[Record] = []
    for line in path.read_text().splitlines():
        try:
            found.append(Record.parse(json.loads(line)))
        except (json.JSONDecodeError, TypeError, KeyError):
            _tell(f"{path}: skips a line that is no record: {line[:60]}")
    return found


def missing(records: Sequence[Record], problem: str, precision: str, device: str,
            names: Sequence[str]) -> list[str]:  # fmt: skip
    """The contenders that have not been measured, ours among them if it is needed beside them."""
    group = gathered(records).get((problem, precision, device), [])
    left = [name for name in names if not _is_settled(newest(group, name), name)]
    return [OURS, *(n for n in left if n != OURS)] if left else []


def _is_settled(record: Record | None, name: str) -> bool:
    """Whether to measure somebody again would tell nothing new."""
    if record is None or OURS not in record.results or not record.results[OURS].samples:
        return False
    problem = record.results[name].problem
    return problem is None or TOOK_LONGER not in problem


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def why_not_here(device: str) -> str | None:
    """Why nothing can be measured on a device, in words; None if it can."""
    try:
        import torch
    except ImportError:
        return "this benchmark needs PyTorch: install it with CUDA"
    if device != "cuda":
        return None
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use; --device cpu tries the benchmark without one"
    from alt.cuda.gpu import device_of

    if not device_of(None).exist:
        return "there is no GPU that TVM can use: is the CUDA runtime of its wheel there?"
    return None


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("alt-compiler", "apache-tvm", "torch", "onnxruntime-gpu", "tensorrt"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _selected(options: argparse.Namespace) -> list[Problem]:
    if options.operators:
        small = [(64, 32, 48)] if options.device == "cpu" else PRODUCTS[: options.products]
        return operators(small)
    return networks(options.networks, [int(b) for b in options.batch], options.device == "cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        1 when ours failed or was wrong, 2 where it cannot run, 3 when something is left to do.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes}: give more than 0")
    if not options.results.is_dir():
        parser.error(f"--results {options.results}: no such folder; create it first")
    reason = why_not_here(options.device)
    if reason is not None:
        _tell(reason)
        return 2
    usual = ["torch", "cublas"] if options.operators else list(RIVALS)[:4]
    names = [OURS]
    for name in usual if options.rivals is None else options.rivals:
        absent = None if name.startswith("ours") else RIVALS[name].absent(options.device)
        if absent is None:
            names.append(name)
        else:
            _tell(f"without {name}: {absent}")
    try:
        ok, left = _run(options, names)
    except KeyboardInterrupt:
        _tell("interrupted; what was measured is kept")
        return 130
    if left:
        _tell(f"{left} measurements are left: the minutes are over, start it again")
    return 3 if left else 1 if not ok else 0


def _run(options: argparse.Namespace, names: Sequence[str]) -> tuple[bool, int]:
    """Measure until all is done or the time is over: whether ours is right, and what is left."""
    end = time.monotonic() + 60 * options.minutes
    log = options.results / "gpu.jsonl"
    seconds = options.sample_ms / 1e3
    plan = Plan(options.rounds, seconds, seconds)
    ok, left = True, 0
    for problem in _selected(options):
        records = read_records(log)
        todo = {
            precision: names
            if options.again
            else missing(records, problem.title, precision, options.device, names)
            for precision in options.precision
        }
        todo = {precision: wanted for precision, wanted in todo.items() if wanted}
        if todo and time.monotonic() > end:
            left += len(todo)
            continue
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            model = problem.build(options.seed)
            onnx.save(model, path)
            inputs = inputs_for(model, options.seed)
            del model  # hundreds of megabytes
            _tell(f"{problem.title}: what is right")
            try:
                expected = right_outputs(path, inputs, options.device, _left(end))
            except WorkerError as error:
                _tell(f"{problem.title}: {error}")
                ok = False
                continue
            for precision, wanted in todo.items():
                if time.monotonic() > end:
                    left += 1
                    continue
                results, state = measure(
                    path,
                    inputs,
                    [contender(name, precision, options) for name in wanted],
                    expected,
                    plan,
                    lambda: _left(end),
                    lambda said: _tell(f"{problem.title} {precision}: {said}"),  # noqa: B023
                    options.seed,
                )
                shared = (problem.title, precision, options.device)
                record = Record(*shared, results, state, _versions())
                with log.open("a") as stream:
                    stream.write(json.dumps(record.to_dict()) + "\n")
                ok = ok and record.right(OURS)
                _write_report(options.results, read_records(log))
    _write_report(options.results, read_records(log))
    return ok, left


def _left(end: float) -> float:
    """Seconds for what has been started: some more than there are, so that it is not in vain."""
    return max(end - time.monotonic(), 0.0) + 30.0


def _write_report(folder: Path, records: Sequence[Record]) -> None:
    text = report(records, "python -m benchmarks gpu")
    (folder / "gpu.md").write_text(text)
