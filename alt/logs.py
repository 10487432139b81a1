"""`alt logs`: what tuning logs hold, joined and thinned out; `tuner.log` says what a log is."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alt.arguments import positive
from alt.errors import AltError
from alt.verbs import Answer, Progress
from tuner.config import Config
from tuner.errors import TuningError
from tuner.log import TuningLog, default_log_path, load
from tuner.records import Header
from tuner.tidy import Tidied, merge, prune

EXAMPLES = """\
examples:
  alt logs show resnet18.jsonl                            what was measured, on which machine?
  alt logs best resnet18.jsonl --json                     the best candidate of every task
  alt logs merge laptop.jsonl server.jsonl -o all.jsonl   each measurement once, by time
  alt logs prune all.jsonl --keep 5                       only the five best of every layout
"""


def declare(parser: argparse.ArgumentParser, state: Path) -> None:
    """Add the verbs under `alt logs`.

    Args:
        state: the folder of the user's own log, which is meant where none is named.
    """
    usual = default_log_path(state)
    commands = parser.add_subparsers(dest="logs_verb", required=True, metavar="verb", title="verbs")

    def verb(
        name: str, action: Callable[[argparse.Namespace, Progress], Answer], summary: str
    ) -> argparse.ArgumentParser:
        described = summary[0].upper() + summary[1:] + "."
        added = commands.add_parser(name, help=summary, description=described)
        added.add_argument("--json", action="store_true", help="answer in JSON")
        added.add_argument(
            "--verbose", "-v", action="store_true", help="show the log, and tracebacks of errors"
        )
        added.set_defaults(action=action, quiet=True)
        return added

    for name, action, summary in (
        ("show", show_logs, "say what was measured, and what cannot be read"),
        ("best", best_of_log, "say which candidate of every task is the fastest"),
    ):
        add = verb(name, action, summary).add_argument
        default = f"default: {usual}".replace("%", "%%")
        add("logs", type=Path, nargs="*", metavar="LOG", default=[usual], help=default)
    add = verb("merge", merge_logs, "write one log with the measurements of several, each once")
    add.add_argument("logs", type=Path, nargs="+", metavar="LOG")
    output = "a new file, or one of the logs"
    add.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=output)
    add = verb("prune", prune_logs, "leave only the measurements of the best candidates")
    add.add_argument("logs", type=Path, nargs="+", metavar="LOG")
    keep = "candidates of each task in each layout; default: %(default)s"
    add.add_argument("--keep", type=positive, default=10, metavar="N", help=keep)


def show_logs(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt logs show`."""
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    for path, log in _read(options.logs):
        tasks = _tasks(log)
        what = (
            f"{_count(log.records, 'measurement')} of {_count({t['task'] for t in tasks}, 'task')}"
        )
        lines += ["", f"{path}: {what}"]
        lines += [f"  target {h.target_id}: {_entries(h)}" for h in log.headers.values()]
        rows = [("task", "target", "measured", "ok", "failed", "best")]
        for task in tasks:
            failed = ", ".join(f"{n} {name}" for name, n in task["failed"].items())
            counts = str(task["measurements"]), str(task["ok"])
            rows.append((task["name"], task["target"], *counts, failed, _time(task["seconds"])))
        lines += _table(rows) if tasks else []
        lines += [f"  line {line} cannot be read: {why}" for line, why in log.skipped]
        data.append(
            {
                "log": str(path),
                "headers": [
                    {"target_id": h.target_id, "target": h.target, "versions": h.versions}
                    for h in log.headers.values()
                ],
                "tasks": tasks,
                "skipped": [{"line": line, "why": why} for line, why in log.skipped],
            }
        )
    return Answer("\n".join(lines[1:]), {"logs": data})


def best_of_log(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt logs best`."""
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    for path, log in _read(options.logs):
        for task in _tasks(log):
            best = log.best(task["task"], task["target"])
            where = f"{task['name']} on target {task['target']}, {path}"
            if best is None:
                lines.append(f"{where}: no candidate is ok")
                continue
            candidate, samples = best.candidate, best.measurement.seconds
            lines.append(f"{where}: {_time(best.measurement.best)}, {len(samples)} samples")
            lines += [f"  layout  {_answers(candidate.layout)}"]
            lines += [f"  loops   {_answers(candidate.loops)}"]
            entry = {name: task[name] for name in ("task", "name", "target", "seconds")}
            data.append(
                {
                    "log": str(path),
                    **entry,
                    "samples": list(samples),
                    "layout": candidate.layout.to_json(),
                    "loops": candidate.loops.to_json(),
                }
            )
    return Answer("\n".join(lines) or "no measurements", {"best": data})


def merge_logs(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt logs merge`."""
    with _translated():
        return _tidied(merge(options.logs, options.output), options.output)


def prune_logs(options: argparse.Namespace, progress: Progress) -> Answer:
    """`alt logs prune`."""
    with _translated():
        answers = [_tidied(prune(path, options.keep), path) for path in options.logs]
    data = {"logs": [answer.data for answer in answers]}
    return Answer("\n".join(answer.text for answer in answers), data)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TuningError as error:
        raise AltError(str(error)) from error


def _read(paths: Sequence[Path]) -> Iterator[tuple[Path, TuningLog]]:
    with _translated():
        # Not by TuningLog.read, which would also warn of what is skipped.
        yield from [(path, TuningLog(load(path)[0], path)) for path in paths]


def _tasks(log: TuningLog) -> list[dict[str, Any]]:
    """Every task on every target, by name."""
    found = {(r.task, r.target): r.name or r.task for r in log.records}
    rows: list[dict[str, Any]] = []
    for (task, target), name in sorted(found.items(), key=lambda item: (item[1], item[0])):
        counts = Counter(
            r.measurement.status.value for r in log.of_task(task) if r.target == target
        )
        best = log.best(task, target)
        rows.append(
            {
                "task": task,
                "name": name,
                "target": target,
                "measurements": counts.total(),
                "ok": counts.pop("ok", 0),
                "failed": dict(counts.most_common()),
                "seconds": best and best.measurement.best,
            }
        )
    return rows


def _tidied(done: Tidied, path: Path) -> Answer:
    lines = [f"{path}: {_count(range(done.kept), 'measurement')} kept, {done.dropped} dropped"]
    lines += [f"  {log}, line {s.line} could not be read: {s.why}" for log, s in done.skipped]
    skipped = [{"log": str(log), "line": s.line, "why": s.why} for log, s in done.skipped]
    data = {"log": str(path), "kept": done.kept, "dropped": done.dropped, "skipped": skipped}
    return Answer("\n".join(lines), data)


def _count(items: Sized, name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"


def _entries(header: Header) -> str:
    def text(entries: Mapping[str, Any]) -> str:
        return " ".join(
            f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in entries.items()
        )

    return f"{text(header.target)}; measured with {text(header.versions)}"


def _answers(config: Config) -> str:
    def text(answer: object) -> str:
        return ",".join(map(str, answer)) if isinstance(answer, tuple) else str(answer)

    return " ".join(f"{name}={text(answer)}" for name, answer in config.items()) or "as it is"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.4g} ms"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
