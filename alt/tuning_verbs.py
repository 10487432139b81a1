"""What `alt tune`, `alt replay` and `alt report` do; as in `alt.verbs`, nothing is printed."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import alt
from alt.arguments import ArrayFile
from alt.compiler import assemble, fused
from alt.errors import AltError
from alt.messages import Timing
from alt.policies import JOINT, policy_of
from alt.report import reports_of
from alt.report_page import page
from alt.state import make_state_folder
from alt.target import Machine, last_cache_bytes, physical_cores, resolve
from alt.verbs import (
    Answer,
    artifact_of,
    constants_of,
    require_artifact,
    require_folder,
    signature_lines,
)
from alt.watch import Budget, Progress, milliseconds
from tuner.log import TuningLog
from tuner.options import Options

_USED = {
    "joint": "layouts and loops",
    "loops": "loops only",
    "default": "nothing was faster than what the compiler does by itself",
}
_STAGES = ("import", "simplify", "fuse", "layouts", "build")


def tune_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt tune`."""
    methods = _methods(options)
    if options.log == options.usual_log:
        make_state_folder()
    else:
        require_folder(options.log)
    if options.agent is not None:
        require_folder(options.agent)
    if options.rpc is not None and isinstance(machine := resolve(options.target), Machine):
        # The servers' cores, not this machine's.
        options.threads = options.threads or machine.cores
    timing = _timing(options)
    seconds = options.minutes * 60 if options.minutes is not None else None
    progress.tuning(Budget(options.trials, seconds))
    rounds = 0

    def observe(each: Any) -> None:
        nonlocal rounds
        rounds += 1
        progress.round(each)

    start = time.perf_counter()
    try:
        with _interruptible(progress):
            tuned = alt.tune(
                options.model,
                options.target,
                minutes=options.minutes,
                trials=options.trials,
                log=options.log,
                shapes=options.shape,
                constants=constants_of(options),
                threads=options.threads,
                winograd=options.winograd,
                layouts=options.layouts,
                options=methods,
                timing=timing,
                others=options.also_learn_from,
                verify=options.verify,
                observe=observe,
                progress=progress,
                rpc=options.rpc,
                key=options.key,
                precision=options.precision,
                device=options.device,
            )
    except KeyboardInterrupt:
        return _stopped(options, rounds)
    except ModuleNotFoundError as error:
        raise AltError(
            f"tune {options.model}: the module {error.name} is missing; "
            "install it with pip install 'alt-compiler[tune]'"
        ) from error
    return _found(options, tuned, time.perf_counter() - start)


def replay_model(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt replay`."""
    if options.output is not None:
        require_artifact(options.output)

    def tell(stage: str) -> None:
        progress(stage, _STAGES.index(stage), len(_STAGES))

    from alt.replay import network_of_log

    network = fused(
        options.model,
        options.target,
        shapes=options.shape,
        constants=constants_of(options),
        threads=options.threads,
        precision=options.precision,
        device=options.device,
        tell=tell,
    )
    tell("layouts")
    policy = policy_of(options.layouts)
    threads = options.threads or min(network.machine.cores, physical_cores())
    found = network_of_log(
        network,
        options.log,
        threads,
        policy=policy,
        winograd=options.winograd,
        allow_partial=options.allow_partial,
        device=options.device,
    )
    module = assemble(
        network,
        found.kernels,
        options.threads,
        policy,
        options.winograd,
        lambda: tell("build"),
        device=options.device,
    )
    total, used = found.applied + len(found.missing), _USED[found.variant]
    lines = [
        f"{found.applied}/{total} tasks applied from {options.log}"
        + (f": {used}" if found.applied else ""),
        *(f"missing  {name}" for name in found.missing),
        *signature_lines(module),
    ]
    data: dict[str, Any] = {
        "log": str(options.log),
        "applied": found.applied,
        "tasks": total,
        "missing": list(found.missing),
        "variant": found.variant if found.applied else None,
        "threads": module.threads,
    }
    if options.output is not None:
        module.save(options.output)
        lines.append(f"saved    {options.output}, for {module.runs_on}")
        data["artifact"] = str(options.output)
    return Answer("\n".join(lines), data)


def report_log(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt report`."""
    output = options.output or Path(options.log.with_suffix(".html").name)
    if output.suffix not in (".html", ".htm"):
        raise AltError(f"cannot write {output}: the report is a page, its name ends in .html")
    require_folder(output)
    log = TuningLog.read(options.log)
    reports = reports_of(log)
    if not reports:
        raise AltError(f"{options.log} holds no measurements; alt tune makes some")
    try:
        output.write_text(page(options.log.name, reports), encoding="utf-8")
    except OSError as error:
        raise AltError(f"cannot write {output}: {error.strerror}") from error
    tasks = sum(len(r.tasks) for r in reports)
    measured = sum(r.trials for r in reports)
    data = {"page": str(output), "targets": len(reports), "tasks": tasks, "measurements": measured}
    return Answer(f"{output}: {tasks} tasks, {measured} measurements", data)


def _methods(options: argparse.Namespace) -> Options:
    return Options(
        batch=options.batch,
        joint_share=options.joint_share,
        layouts=options.layout_search,
        loops=options.loop_search,
        seed=options.seed,
        agent=options.agent,
    )


def _timing(options: argparse.Namespace) -> Timing:
    flushed = 0
    if options.flush_cache:
        if options.rpc is not None:
            raise AltError(
                "--flush-cache needs the size of a cache, and those of servers are not known here: "
                "leave it out, or give alt.tune timing=alt.Timing(flush_bytes=...)"
            )
        if options.min_milliseconds is not None:
            raise AltError(
                f"--min-milliseconds {options.min_milliseconds:g} is for samples of many calls, "
                "and with --flush-cache a sample is one call: leave out one of them"
            )
        machine = resolve(options.target, device=options.device)
        flushed = last_cache_bytes() if isinstance(machine, Machine) else machine.l2_bytes
    timing = Timing(repeats=options.repeats, flush_bytes=flushed)
    if options.min_milliseconds is not None:
        timing = replace(timing, min_seconds=options.min_milliseconds * 1e-3)
    return timing


@contextmanager
def _interruptible(progress: Progress) -> Generator[None, None, None]:
    """Say on Ctrl-C what happens now: the best so far is still built, which takes seconds."""

    def interrupt(number: int, frame: Any) -> None:
        progress.note("alt: ending the search, building the best so far; Ctrl-C again to stop now")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _found(options: argparse.Namespace, tuned: alt.Tuned, seconds: float) -> Answer:
    outcome = tuned.outcome
    partial = len(outcome.best) < len(tuned.tasks)
    command = _compile_command(options, partial)
    before, after = tuned.seconds.get("default"), tuned.seconds.get(tuned.variant)
    how = "ended by you" if outcome.interrupted else outcome.reason
    made = f"{outcome.trials} trials of {len(tuned.tasks)} tasks"
    lines = [f"tuned    {options.model} in {seconds:.0f} s: {made}; {how}"]
    if before is not None and after is not None:
        gain = f"{tuned.gain:.2f} times as fast: {_USED[tuned.variant]}"
        lines.append(f"before   {milliseconds(before)} ms a call")
        lines.append(f"after    {milliseconds(after)} ms a call, {gain}")
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in outcome.where.items())
    lines += [f"spent    {spent}"] if spent else []
    for key, reason in outcome.given_up.items():
        lines.append(f"given up {tuned.tasks[key].name}: {reason}")
    if tuned.unsaved:
        lines.append(
            f"unsaved  {tuned.unsaved} measurements could not be written: make room, tune again"
        )
    lines += [f"log      {options.log}", f"next     {shlex.join(command)}"]
    data = {
        "model": str(options.model),
        "log": str(options.log),
        "variant": tuned.variant,
        "seconds": dict(tuned.seconds),
        "before_seconds": before,
        "after_seconds": after,
        "gain": tuned.gain,
        "trials": outcome.trials,
        "interrupted": outcome.interrupted,
        "unsaved": tuned.unsaved,
        "reason": outcome.reason,
        "elapsed_seconds": seconds,
        "where_seconds": dict(outcome.where),
        "tasks": [
            {
                "key": key,
                "name": task.name,
                "occurs": task.weight,
                "default_seconds": _finite(outcome.default.get(key)),
                "best_seconds": outcome.best[key].seconds if key in outcome.best else None,
                "given_up": outcome.given_up.get(key),
            }
            for key, task in tuned.tasks.items()
        ],
        "next": command,
    }
    return Answer("\n".join(lines), data, interrupted=outcome.interrupted)


def _stopped(options: argparse.Namespace, rounds: int) -> Answer:
    """Interrupted before the network was built and timed."""
    if not rounds:
        text = "interrupted before anything was measured"
        return Answer(text, {"interrupted": True, "next": None}, interrupted=True)
    command = _compile_command(options, partial=True)
    lines = [
        "interrupted before the network was built; what was measured is kept",
        f"log      {options.log}",
        f"next     {shlex.join(command)}",
    ]
    data = {"interrupted": True, "log": str(options.log), "next": command}
    return Answer("\n".join(lines), data, interrupted=True)


def _compile_command(options: argparse.Namespace, partial: bool) -> list[str]:
    """What compiles the same network with what was found."""
    words = ["alt", "compile", str(options.model)]
    for name, shape in options.shape.items():
        words += ["--shape", f"{name}={','.join(map(str, shape))}"]
    for name, value in options.constant.items():
        text = f"@{value.path}" if isinstance(value, ArrayFile) else json.dumps(value.tolist())
        words += ["--constant", f"{name}={text}"]
    if options.target != "llvm":
        named = isinstance(options.target, Mapping)
        words += ["--target", json.dumps(options.target) if named else options.target]
    words += ["--threads", str(options.threads)] if options.threads else []
    words += ["--device", str(options.device)] if options.device is not None else []
    words += ["--precision", options.precision] if options.precision != "fp32" else []
    words += [] if options.winograd else ["--no-winograd"]
    words += ["--layouts", options.layouts] if options.layouts != JOINT.name else []
    words += ["--log", str(options.log)]
    words += ["--allow-partial"] if partial else []
    return [*words, "-o", str(artifact_of(options.model))]


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
