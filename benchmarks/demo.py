"""`make demo`: one real network, from an ONNX file to a saved artifact that runs elsewhere.

Every step says what it shows. The exit code is 1 when any of them fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

import alt
from benchmarks.baselines import Arrays, OnnxRuntime, Ours
from benchmarks.machine import physical_cores, this_machine
from benchmarks.networks import inputs_for, light_graph, light_names
from benchmarks.protocol import Comparison, Plan, compare
from benchmarks.tables import machine_lines, plain, problem_lines, speed_table

STEPS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Returns:
        The exit code.
    """
    options = _parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _demonstrate(options, Path(folder))
        except (alt.AltError, subprocess.CalledProcessError) as error:
            print(f"demo: error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("demo: interrupted", file=sys.stderr)
            return 130


def _demonstrate(options: argparse.Namespace, folder: Path) -> int:
    path, artifact = folder / f"{options.network}.onnx", folder / f"{options.network}.alt"

    _step(1, f"Take the {options.network} graph from the onnx package, with random weights")
    model = light_graph(options.network, options.seed)
    onnx.save(model, path)
    inputs = inputs_for(model, options.seed)
    _tell(f"{len(model.graph.node)} nodes, {_megabytes(path)} of weights")
    del model

    _step(2, "Compile it for this CPU: nothing is measured, nothing is tuned")
    start = time.perf_counter()
    module = alt.compile(path, threads=options.threads)
    _tell(f"alt.compile took {time.perf_counter() - start:.1f} s")

    _step(3, f"Check and time it against ONNX Runtime, {options.rounds} rounds side by side")
    comparison = _compare(options, path, inputs)
    contenders = ["ours", "onnxruntime"]
    for line in machine_lines(this_machine(), options.threads):
        _tell(line)
    print("\n" + plain(*speed_table([comparison], contenders)) + "\n")
    for line in problem_lines([comparison]):
        _tell(line)
    if (speedup := comparison.speedup("onnxruntime")) is not None:
        error = comparison.results["ours"].error
        _tell(f"Same answers (relative error {error:.1e}), {speedup:.2f}x as fast")

    _step(4, "Save the artifact, load it in a fresh process, run it there")
    expected = _outputs(module, inputs)
    module.save(artifact)
    identical = _runs_elsewhere(artifact, inputs, expected, options.threads)
    _tell(f"{_megabytes(artifact)}; outputs {'are identical' if identical else 'DIFFER'}")

    correct = all(result.correct for result in comparison.results.values())
    return 0 if correct and identical else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    add = parser.add_argument
    add("--network", choices=light_names(), default="light_resnet50", metavar="NAME")
    add("--rounds", type=int, default=20, help="default: %(default)s")
    add("--threads", type=int, default=physical_cores(), help="default: physical cores")
    add("--seed", type=int, default=0, help="of weights and inputs; default: %(default)s")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return options


def _compare(options: argparse.Namespace, path: Path, inputs: Arrays) -> Comparison:
    return compare(
        options.network,
        path,
        inputs,
        [Ours(), OnnxRuntime()],
        threads=options.threads,
        plan=Plan(rounds=options.rounds),
        seed=options.seed,
    )


def _runs_elsewhere(
    artifact: Path, inputs: Arrays, expected: Sequence[np.ndarray], threads: int
) -> bool:
    """Whether `alt run`, which knows nothing but the artifact, gives the same bits."""
    folder = artifact.parent
    command = [sys.executable, "-m", "alt", "run", str(artifact), "--threads", str(threads)]
    for position, (name, array) in enumerate(inputs.items()):
        file = folder / f"input_{position}.npy"
        np.save(file, array)
        command += ["--input", f"{name}={file}"]
    command += ["--output", str(folder / "outputs"), "--json"]
    _tell(" ".join(["alt", *(part.replace(f"{folder}/", "") for part in command[3:])]))
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    files = [output["file"] for output in json.loads(answer.stdout)["outputs"]]
    return len(files) == len(expected) and all(
        np.array_equal(np.load(file), array) for file, array in zip(files, expected, strict=True)
    )


def _outputs(module: alt.Module, inputs: Arrays) -> Sequence[np.ndarray]:
    outputs = module(**inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def _step(number: int, text: str) -> None:
    print(f"[{number}/{STEPS}] {text}", flush=True)


def _tell(text: str) -> None:
    print(f"      {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
