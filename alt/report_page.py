"""The report on tuning as one page of HTML: styles and pictures inside, no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from math import inf

from alt.report import Point, Report, TaskReport
from alt.report_chart import sparkline, steps
from alt.watch import counted, milliseconds
from tuner.config import Config
from tuner.task import Status

_STYLE = """
:root { color-scheme: light dark; --text: #212529; --quiet: #6c757d; --line: #dee2e6;
  --back: #fff; --raised: #f8f9fa; --series: #1c7ed6; --bad: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --text: #e9ecef; --quiet: #adb5bd; --line: #373a40;
  --back: #16181b; --raised: #202327; --series: #4dabf7; --bad: #ff8787; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
a { color: var(--series); } h1 { margin-bottom: 0; } h2 { margin: 2.2rem 0 .4rem; }
.quiet { color: var(--quiet); } .bad { color: var(--bad); }
.tiles, .charts { display: grid; gap: 1rem; }
.tiles { margin-top: 1rem; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); }
.tile { background: var(--raised); border-radius: 8px; padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.5rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 500; white-space: nowrap; }
.pairs td:first-child { white-space: nowrap; width: 1%; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: 12.5px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); padding: .4rem 0; } summary { cursor: pointer; }
.bar { background: var(--series); height: .8rem; border-radius: 2px; min-width: 1px; }
td.bars { width: 40%; min-width: 120px; vertical-align: middle; }
svg { width: 100%; height: auto; } svg.small { width: 90px; height: 20px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--line); } .axis { stroke: var(--quiet); }
.default { stroke: var(--quiet); stroke-dasharray: 5 4; }
.series { fill: none; stroke: var(--series); stroke-width: 2; } circle { fill: var(--series); }
"""

_WHOLE = (
    "The sum of the best times known so far, each task once. It rises where the fastest were "
    "measured again and turned out slower."
)

LAYOUTS_SHOWN = 12
"""So many layouts of a task are listed, the fastest ones."""


def page(name: str, reports: Sequence[Report]) -> str:
    """A page about a log.

    Args:
        name: of the log.
        reports: one for each target in it.
    """
    title = f"Tuning: {escape(name)}"
    body = "".join(_section(report) for report in reports)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>{body}</body></html>\n"
    )


def _section(report: Report) -> str:
    return "\n".join(
        [
            _target(report),
            _tiles(report),
            "<h2>The whole</h2>",
            f'<p class="quiet">{_WHOLE}</p>',
            _charts(report.whole, report),
            "<h2>Tasks</h2>",
            _tasks(report),
            "<h2>Where the time went</h2>",
            _time_spent(report),
            "<h2>Each task</h2>",
            *(_task(task, report) for task in _slowest_first(report.tasks)),
            _conversions(report),
        ]
    )


def _target(report: Report) -> str:
    if report.header is None:
        return f"<p>target {escape(report.target)}; what it is was lost with the log's header</p>"
    target = report.header.target
    main = ", ".join(
        f"{name} {target[name]}"
        for name in ("mcpu", "device", "threads", "cores", "flush_bytes")
        if name in target
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.header.versions.items())
    rows = [(_text(name), _text(_short(value))) for name, value in target.items()]
    return (
        f'<p class="quiet">{escape(main or report.target)}; {escape(versions)}; '
        f"{_day(report.first)} to {_day(report.last)}</p>"
        f"<details><summary>The target, {escape(report.target)}</summary>"
        f"{_table(('', ''), rows)}</details>"
    )


def _tiles(report: Report) -> str:
    before = sum(task.default for task in report.tasks)
    after = sum(task.seconds for task in report.tasks)
    tiles = [
        (f"{report.trials}", f"measurements of {len(report.tasks)} tasks"),
        (_duration(report.elapsed), _ran(report)),
        (f"{milliseconds(after)} ms", f"sum of tasks, was {milliseconds(before)} ms"),
    ]
    for variants in report.networks:
        name, seconds = min(variants.items(), key=lambda item: item[1], default=("", inf))
        was = milliseconds(variants.get("default", inf))
        tiles.append((f"{milliseconds(seconds)} ms", f"a network ({escape(name)}), was {was} ms"))
    shown = "".join(f'<div class="tile"><b>{value}</b>{what}</div>' for value, what in tiles)
    wrong = report.statuses[Status.wrong]
    note = f'<p class="bad">{wrong} results were wrong and are not used.</p>' if wrong else ""
    return f'<div class="tiles">{shown}</div>{note}'


def _ran(report: Report) -> str:
    again = f", taken up again {report.pauses} times" if report.pauses > 1 else ""
    again = ", taken up again once" if report.pauses == 1 else again
    return f"{counted(report.statuses)}{again}"


def _charts(points: Sequence[Point], report: Report, default: float | None = None) -> str:
    scaled = 1e3 * default if default is not None and default < inf else None
    by_trial = [(float(p.trial), 1e3 * p.seconds) for p in points]
    by_time = [(p.elapsed, 1e3 * p.seconds) for p in points]
    up = "best so far, ms"
    first = steps(by_trial, report.trials, across="measurements", up=up, default=scaled)
    if not points:
        return first
    across = "seconds since the first measurement"
    second = steps(by_time, report.elapsed, across=across, up=up, default=scaled)
    return f'<div class="charts"><div>{first}</div><div>{second}</div></div>'


def _tasks(report: Report) -> str:
    heads = ("task", "best so far", "*default ms", "*best ms", "*gain", "*trials", "*ok", "*wrong")
    rows: list[tuple[str, ...]] = []
    for task in _slowest_first(report.tasks):
        total, ok = task.statuses.total(), task.statuses[Status.ok]
        wrong = task.statuses[Status.wrong]
        curve = [(float(p.trial), p.seconds) for p in task.curve]
        failed = f"{total - ok - wrong}"
        rows.append(
            (
                f'<a href="#{_anchor(task, report)}">{_text(task.name)}</a>',
                sparkline(curve, report.trials),
                milliseconds(task.default),
                milliseconds(task.seconds),
                "-" if task.gain is None else f"{task.gain:.2f}",
                f"{total}",
                f"{ok}",
                f'<span class="bad">{wrong}</span>' if wrong else "0",
                failed,
                _chosen(task),
            )
        )
    note = (
        '<p class="quiet">Default: the candidate that was measured first, the compiler\'s own '
        "choice unless the log was thinned out. Gain: default by best.</p>"
    )
    return note + _table((*heads, "*failed", "layout and loops chosen"), rows)


def _chosen(task: TaskReport) -> str:
    if task.best is None:
        return "-"
    candidate = task.best.candidate
    loops = f'<span class="quiet">{_text(_answers(candidate.loops))}</span>'
    return f"{_text(_answers(candidate.layout))}<br>{loops}"


def _time_spent(report: Report) -> str:
    rows = [(_text(t.name), t.elapsed) for t in report.tasks]
    rows = sorted(rows, key=lambda row: row[1], reverse=True)
    rows.append(("conversions of layouts, and networks as a whole", report.other_elapsed))
    building = sum(report.build_seconds.values())
    wasted = building - report.build_seconds.get(Status.ok, 0.0)
    text = (
        f"<p>{_duration(report.elapsed)} between the first measurement and the last, without "
        f"pauses. Building candidates took {_duration(building)}, added up over workers that build "
        f"side by side; {_duration(wasted)} of it for candidates that failed or were wrong. "
        "The rest is searching, checking and timing, which the log does not tell apart.</p>"
    )
    return text + _bars("task", rows)


def _task(task: TaskReport, report: Report) -> str:
    best = task.best
    chosen = "<p>No candidate was ok.</p>"
    if best is not None:
        samples = best.measurement.seconds
        spread = f"{milliseconds(min(samples))} to {milliseconds(max(samples))} ms"
        time = f"{milliseconds(task.seconds)} ms, the median of {len(samples)} samples of {spread}"
        layout, loops = (
            _text(_answers(best.candidate.layout)),
            _text(_answers(best.candidate.loops)),
        )
        chosen = _table(("", ""), [("layout", layout), ("loops", loops), ("time", time)])
    gain = f", {task.gain:.2f} times as fast" if task.gain is not None else ""
    shown = task.layouts[:LAYOUTS_SHOWN]
    rows = [
        (_text(_answers(each.layout)), f"{each.trials}", milliseconds(each.best)) for each in shown
    ]
    more = len(task.layouts) - len(shown)
    ended = ", ".join(f"{count} {status.value}" for status, count in task.statuses.most_common())
    return (
        f'<details id="{_anchor(task, report)}"><summary>{_text(task.name)} '
        f'<span class="quiet">{milliseconds(task.seconds)} ms{gain}</span></summary>'
        f'<p class="quiet"><code>{escape(task.key)}</code>; {ended}</p>{chosen}'
        f"{_charts(task.curve, report, task.default)}"
        f"{_table(('layouts tried', '*trials', '*best ms'), rows)}"
        f"{f'<p>and {more} slower ones</p>' if more else ''}</details>"
    )


def _conversions(report: Report) -> str:
    if not report.conversions:
        return ""
    rows = [(_text(what), _text(how), milliseconds(s)) for what, how, s in report.conversions]
    return "<h2>Conversions of layouts</h2>" + _table(("tensor", "block of channels", "*ms"), rows)


def _slowest_first(tasks: Iterable[TaskReport]) -> list[TaskReport]:
    return sorted(tasks, key=lambda t: t.seconds, reverse=True)


def _anchor(task: TaskReport, report: Report) -> str:
    return f"{report.target}-{report.tasks.index(task)}"


def _bars(head: str, rows: Sequence[tuple[str, float]]) -> str:
    most = max((value for _, value in rows), default=0.0) or 1.0
    cells = [
        (name, _duration(value), f'<div class="bar" style="width:{100 * value / most:.1f}%"></div>')
        for name, value in rows
    ]
    return _table((head, "*time", "|"), cells)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML texts; columns whose head begins with a star hold numbers."""
    kinds = [
        ' class="number"' if h.startswith("*") else ' class="bars"' if h == "|" else ""
        for h in heads
    ]
    named = "".join(f"<th{kind}>{h.strip('*|')}</th>" for h, kind in zip(heads, kinds, strict=True))
    top = f"<tr>{named}</tr>" if any(h.strip("*|") for h in heads) else ""
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    plain = "" if top else ' class="pairs"'
    return f'<div class="wide"><table{plain}>{top}{body}</table></div>'


def _text(value: object) -> str:
    return f"<code>{escape(str(value))}</code>"


def _answers(config: Config) -> str:
    def text(answer: object) -> str:
        return ",".join(map(str, answer)) if isinstance(answer, tuple) else str(answer)

    return " ".join(f"{name}={text(answer)}" for name, answer in config.items()) or "as it is"


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _day(when: str) -> str:
    # Python 3.10 does not know Z.
    return f"{datetime.fromisoformat(when.replace('Z', '+00:00')):%Y-%m-%d %H:%M}"
