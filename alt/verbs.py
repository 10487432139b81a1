"""What each verb of the command line does: parsed arguments in, an answer out, nothing printed."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import alt
from alt.arguments import ArrayFile
from alt.arrays import Signature
from alt.checking import check
from alt.errors import AltError
from alt.module import Module, random_inputs
from alt.picture import draw, picture_of
from alt.watch import Progress

ARTIFACT_SUFFIX = ".alt"
SHOWN_VALUES = 5


@dataclass(frozen=True)
class Answer:
    """What a verb has to say, for people and for machines.

    Attributes:
        ok: False ends the command with exit code 1.
        interrupted: True ends it with 130: the user stopped it, and this is what there is.
    """

    text: str
    data: Mapping[str, Any]
    ok: bool = True
    interrupted: bool = False


def compile_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt compile`."""
    output = options.output or artifact_of(options.model)
    require_artifact(output)
    start = time.perf_counter()
    module = compiled(options, progress)
    seconds = time.perf_counter() - start
    module.save(output)
    size = output.stat().st_size
    lines = [
        f"compiled {options.model} in {seconds:.1f} s, for {module.runs_on}",
        *signature_lines(module),
        f"saved    {output} ({size / 1e6:.1f} MB)",
    ]
    data = {
        "artifact": str(output),
        "bytes": size,
        "compile_seconds": seconds,
        "threads": module.threads,
        "inputs": [_plain(s) for s in module.inputs],
        "outputs": [_plain(s) for s in module.outputs],
    }
    return Answer("\n".join(lines), data)


def run_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt run`."""
    given = {name: file.read() for name, file in options.input.items() if file is not None}
    if options.output is not None and not options.output.is_dir():
        if options.output.exists():
            raise AltError(f"cannot write outputs to {options.output}: it is not a folder")
        require_folder(options.output)
    module = _module(options, progress)
    known = [s.name for s in module.inputs]
    for name in options.input:
        if name not in known:
            raise AltError(f"there is no input {name!r}; the model takes {', '.join(known)}")
    inputs = {**random_inputs(module.inputs, options.seed), **given}
    result = module(*(inputs[name] for name in known))
    outputs = result if isinstance(result, tuple) else (result,)
    lines: list[str] = []
    drawn = [name for name in known if name not in given]
    if drawn:
        lines.append(f"random    {', '.join(drawn)} (seed {options.seed})")
    described: list[dict[str, Any]] = []
    files = _output_files(module, options.output)
    for signature, array, file in zip(module.outputs, outputs, files, strict=True):
        statistics = _statistics(array)
        if file is not None:
            _write_array(file, array)
        described.append({**_plain(signature), **statistics, "file": file and str(file)})
        numbers = "  ".join(
            f"{key} {value:.4g}" for key, value in statistics.items() if value is not None
        )
        lines.append(f"output    {signature}  {numbers}")
        shown = ", ".join(f"{value:.5g}" for value in array.flat[:SHOWN_VALUES])
        lines.append(f"  values  {shown}{', ...' if array.size > SHOWN_VALUES else ''}")
        lines += [f"  saved   {file}"] if file is not None else []
    return Answer("\n".join(lines), {"random_inputs": drawn, "outputs": described})


def explain_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt explain`."""
    if options.graph is not None:
        require_folder(options.graph)
    module = _module(options, progress)
    explanation = module.explain()
    text, data = str(explanation), explanation.to_dict()
    if options.graph is not None:
        draw(picture_of(module.header, [k.seconds for k in explanation.kernels]), options.graph)
        text += f"\npicture     {options.graph}"
        data["picture"] = str(options.graph)
    return Answer(text, data)


def check_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt check`."""
    report = check(options.model, shapes=options.shape, constants=constants_of(options))
    return Answer(f"{options.model}: {report}", report.to_dict(), report.supported)


def bench_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt bench`."""
    module = _module(options, progress)
    times = module.benchmark(
        repeats=options.repeats, inputs=random_inputs(module.inputs, options.seed)
    )
    p10, median, p90 = (
        1e3 * t for t in (times.p10_seconds, times.median_seconds, times.p90_seconds)
    )
    text = (
        f"{median:.3f} ms median, {p10:.3f} to {p90:.3f} ms from the 10th to the 90th percentile "
        f"of {len(times.samples_seconds)} calls on {module.runs_on}"
    )
    data = {
        "median_seconds": times.median_seconds,
        "p10_seconds": times.p10_seconds,
        "p90_seconds": times.p90_seconds,
        "samples_seconds": list(times.samples_seconds),
        "threads": module.threads,
    }
    return Answer(text, data)


def _module(options: argparse.Namespace, progress: Progress) -> Module:
    """The model named on the command line: an artifact is loaded, anything else compiled."""
    if options.model.suffix != ARTIFACT_SUFFIX:
        return compiled(options, progress)
    if options.shape or options.constant:
        raise AltError(
            f"{options.model} is compiled already, its shapes and constants are fixed; "
            "give --shape and --constant when you compile the ONNX model"
        )
    if options.log is not None:
        raise AltError(
            f"{options.model} is compiled already, --log {options.log} changes nothing; "
            "give it when you compile the ONNX model"
        )
    if options.precision != "fp32":
        raise AltError(
            f"{options.model} is compiled already, --precision {options.precision} changes "
            "nothing; give it when you compile the ONNX model"
        )
    return alt.load(options.model, threads=options.threads, device=options.device)


def compiled(options: argparse.Namespace, progress: Progress) -> Module:
    """The ONNX model named on the command line, compiled with the options given there."""
    device = getattr(options, "device", None)
    return alt.compile(
        options.model,
        getattr(options, "target", "llvm" if device is None else "cuda"),
        shapes=options.shape,
        constants=constants_of(options),
        threads=options.threads,
        verify=getattr(options, "verify", False),
        winograd=getattr(options, "winograd", True),
        layouts=options.layouts,
        log=options.log,
        allow_partial=options.allow_partial,
        device=device,
        precision=options.precision,
        progress=progress,
    )


def constants_of(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Contents of `--constant`, read where they are in files."""
    return {
        name: value.read() if isinstance(value, ArrayFile) else value
        for name, value in options.constant.items()
    }


def signature_lines(module: Module) -> list[str]:
    """Its inputs and outputs, a line each."""
    return [
        *(f"input    {signature}" for signature in module.inputs),
        *(f"output   {signature}" for signature in module.outputs),
    ]


def _plain(signature: Signature) -> dict[str, Any]:
    return {
        "name": signature.name,
        "shape": list(signature.shape),
        "dtype": signature.dtype,
    }


def _statistics(array: np.ndarray) -> dict[str, float | None]:
    """Smallest, mean and largest element; None where that is no finite number."""
    if not array.size or array.dtype.kind not in "fiub":
        return dict.fromkeys(("min", "mean", "max"))
    values = (array.min(), array.mean(dtype=np.float64), array.max())
    finite = (float(v) if np.isfinite(v) else None for v in values)
    return dict(zip(("min", "mean", "max"), finite, strict=True))


def artifact_of(model: Path) -> Path:
    """Where the artifact of a model is written if nothing else is said."""
    return Path(model.with_suffix(ARTIFACT_SUFFIX).name)


def require_artifact(output: Path) -> None:
    """Refuse, before any work, a file that an artifact cannot be written to.

    Raises:
        AltError: its name is no artifact's, or its folder does not exist.
    """
    if output.suffix != ARTIFACT_SUFFIX:
        raise AltError(f"cannot write {output}: the name of an artifact ends in {ARTIFACT_SUFFIX}")
    if output.is_dir():
        raise AltError(f"cannot write {output}: it is a folder")
    require_folder(output)


def require_folder(path: Path) -> None:
    """Refuse, before any work, a file in a folder that does not exist."""
    if not path.absolute().parent.is_dir():
        raise AltError(f"cannot write {path}: there is no folder {path.parent}; create it first")


def _output_files(module: Module, folder: Path | None) -> list[Path | None]:
    """A file for each output, called after it as far as a file can be."""
    if folder is None:
        return [None] * len(module.outputs)
    files: list[Path | None] = []
    for position, signature in enumerate(module.outputs):
        name = re.sub(r"[^\w.-]+", "_", signature.name).strip("._") or f"output_{position}"
        file = folder / f"{name}.npy"
        files.append(folder / f"{name}_{position}.npy" if file in files else file)
    return files


def _write_array(path: Path, array: np.ndarray) -> None:
    """Save under a temporary name and rename, so that no file is ever half there."""
    temporary: str | None = None
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            np.save(stream, array)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        raise AltError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
