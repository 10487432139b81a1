"""Records as Markdown: ratios first, times beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from benchmarks.gpu.measure import OURS, Record
from benchmarks.gpu.problems import work_of
from benchmarks.protocol import Timing
from benchmarks.tables import markdown

Latest = dict[tuple[str, str, str], list[Record]]
"""By problem, precision and device: what was measured, the newest last."""


def gathered(records: Iterable[Record]) -> Latest:
    """Records of the same problem together, in order."""
    found: Latest = {}
    for record in records:
        found.setdefault((record.problem, record.precision, record.device), []).append(record)
    return found


def newest(records: Sequence[Record], contender: str) -> Record | None:
    """The last record with a contender."""
    return next((r for r in reversed(records) if contender in r.results), None)


def report(records: Sequence[Record], command: str) -> str:
    """Everything, for `benchmarks/results`.

    Args:
        records: as they were measured.
        command: that measured them.
    """
    if not records:
        return "# On a GPU\n\nNothing has been measured yet.\n"
    groups = gathered(records)
    names = dict.fromkeys(name for record in records for name in record.results)
    rivals = [name for name in names if name != OURS]
    parts = ["# On a GPU", f"`{command}`", _machines(records), _METHOD]
    for title, chosen in (
        ("## Networks", {k: v for k, v in groups.items() if not work_of(k[0])}),
        ("## Matrix products", {k: v for k, v in groups.items() if work_of(k[0])}),
    ):
        if chosen:
            parts += [title, _table(chosen, rivals)]
    problems = [
        f"- {r.problem}, {r.precision}: {_complaint(r, name)}"
        for group in groups.values()
        for name in names
        if (r := newest(group, name)) is not None and not r.right(name)
    ]
    if problems:
        parts += ["## What is missing", "\n".join(problems)]
    return "\n\n".join(parts) + "\n"


_METHOD = (
    "Ratios are a contender's time by ours, above 1 where ours is faster: the median over "
    "interleaved rounds, inputs on the device, timed by its own events. Behind ours: milliseconds, "
    "with the tenth and ninetieth percentile. Each was right beforehand, by float64 in PyTorch: up "
    "to 1e-4 of the largest output in fp32, 1e-2 in tf32 and fp16."
)


def _table(groups: Latest, rivals: Sequence[str]) -> str:
    products = all(work_of(problem) for problem, *_ in groups)
    present = [n for n in rivals if any(newest(g, n) is not None for g in groups.values())]
    speed = ["TFLOP/s"] if products else []
    header = ["", "precision", "ours ms", *speed, "error", *(f"{n}/ours" for n in present)]
    rows: list[list[str]] = []
    ratios: dict[tuple[str, str], list[float]] = {}
    for (problem, precision, device), group in groups.items():
        ours = newest(group, OURS)
        on = "" if device == "cuda" else f" ({device})"
        row = [problem + on, precision]
        if ours is not None and ours.right(OURS):
            timing = Timing(ours.results[OURS].samples)
            low, middle, high = (_digits(1e3 * t) for t in (timing.p10, timing.median, timing.p90))
            row.append(f"{middle} ({low}..{high})")
            row += [f"{work_of(problem) / timing.median / 1e12:.1f}"] if products else []
        else:
            row += ["-"] * (1 + products)
        error = ours.results[OURS].error if ours is not None else None
        row.append("-" if error is None else f"{error:.0e}")
        for name in present:
            record = newest(group, name)
            ratio = record.speedup(name) if record is not None else None
            row.append("-" if ratio is None else f"{ratio:.2f}")
            if ratio is not None:
                ratios.setdefault((precision, name), []).append(ratio)
        rows.append(row)
    for precision in dict.fromkeys(p for _, p, _ in groups):
        means = [_mean(ratios.get((precision, name), [])) for name in present]
        if any(mean != "-" for mean in means):
            rows.append(["geometric mean", precision, *[""] * (2 + products), *means])
    return markdown(header, rows)


def _mean(values: Sequence[float]) -> str:
    return f"{geometric_mean(values):.2f}" if values else "-"


def _digits(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _machines(records: Sequence[Record]) -> str:
    seen = dict.fromkeys(r.gpu or f"no GPU, device {r.device}" for r in records)
    versions = {name: v for record in records for name, v in record.versions.items()}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    first = next(iter(seen))
    more = f" (clocks differ between {len(seen)} readings)" if len(seen) > 1 else ""
    return f"{first}{more}; {said}"


def _complaint(record: Record, name: str) -> str:
    found = record.results[name]
    if found.problem is not None:
        return found.problem
    return f"{name} is wrong: its error is {found.error:.1e}"
