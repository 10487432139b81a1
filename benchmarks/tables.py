"""Comparisons as text: for a terminal, for a README, and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.machine import Machine
from benchmarks.protocol import TOLERANCE, Comparison, Plan, Result

Row = Sequence[str]


def plain(header: Row, rows: Sequence[Row]) -> str:
    """Columns aligned with spaces: the first to the left, numbers to the right.

    Example:
        >>> print(plain(["network", "ms"], [["resnet18", "7.2"], ["bert", "61.6"]]))
        network     ms
        resnet18   7.2
        bert      61.6
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def markdown(header: Row, rows: Sequence[Row]) -> str:
    """The same as a Markdown table.

    Example:
        >>> print(markdown(["network", "ms"], [["resnet18", "7.2"]]))
        | network | ms |
        |---|---:|
        | resnet18 | 7.2 |
    """
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "|".join(ruler) + "|", *lines[1:]])


def _number(value: float) -> str:
    """Three significant digits, without exponent for what a time or ratio can be."""
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def _time(result: Result | None) -> str:
    if result is None or result.timing is None:
        return "failed" if result is not None and result.problem else "-"
    timing = result.timing
    low, middle, high = (_number(1e3 * t) for t in (timing.p10, timing.median, timing.p90))
    return f"{middle} ({low}..{high})"


def _verdict(result: Result | None) -> str:
    if result is None:
        return "-"
    if result.problem is not None:
        return "failed"
    return "ok" if result.correct else "wrong"


def _ratio(value: float | None) -> str:
    return "-" if value is None else _number(value)


def speed_table(
    comparisons: Sequence[Comparison], contenders: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: times in ms with their 10th to 90th percentile, speedups, errors.

    Without `ours` among `contenders`, times only, and the errors of each baseline.
    """
    baselines = [name for name in contenders if name != "ours"]
    with_ours = "ours" in contenders
    header = ["network", *(f"{name} ms" for name in contenders)]
    if with_ours:
        header += [f"{name}/ours" for name in baselines]
        header += ["best/ours"] if len(baselines) > 1 else []
    judged = ["ours"] if with_ours else baselines
    for name in judged:
        header += ["max rel error", "result"] if with_ours else [f"{name} result"]
    rows: list[list[str]] = []
    for comparison in comparisons:
        results = comparison.results
        row = [comparison.network, *(_time(results.get(name)) for name in contenders)]
        if with_ours:
            row += [_ratio(comparison.speedup(name)) for name in baselines]
            row += [_ratio(comparison.speedup_over_best())] if len(baselines) > 1 else []
        for name in judged:
            result = results.get(name)
            error = None if result is None else result.error
            row += ["-" if error is None else f"{error:.1e}"] if with_ours else []
            row.append(_verdict(result))
        rows.append(row)
    return header, rows


def cost_table(
    comparisons: Sequence[Comparison], contenders: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: compile time and peak memory while compiling, of each contender."""
    header = ["network", *(f"{name} compile s" for name in contenders)]
    header += [f"{name} peak MB" for name in contenders]
    rows: list[list[str]] = []
    for comparison in comparisons:
        results = [comparison.results.get(name) for name in contenders]
        seconds = [None if r is None else r.compile_seconds for r in results]
        peaks = [None if r is None else r.compile_peak_bytes for r in results]
        rows.append(
            [
                comparison.network,
                *("-" if s is None else _number(s) for s in seconds),
                *("-" if p is None else f"{p / 1e6:.0f}" for p in peaks),
            ]
        )
    return header, rows


def problem_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One line for each contender that failed, or disagreed with the reference."""
    lines: list[str] = []
    for comparison in comparisons:
        for result in comparison.results.values():
            if result.problem is not None:
                lines.append(f"{comparison.network}: {result.problem}")
            elif not result.correct:
                lines.append(
                    f"{comparison.network}: {result.contender} differs from "
                    f"{comparison.reference}: relative error {result.error:.1e} is above "
                    f"{TOLERANCE:g}, so it has no speedup"
                )
    return lines


def machine_lines(machine: Machine, threads: int) -> list[str]:
    """What the times were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = f"{machine.physical_cores} physical cores, {machine.logical_cores} logical"
    memory = f"{machine.memory_bytes / 2**30:.0f} GiB"
    return [
        f"CPU: {machine.cpu}, {cores}; {threads} threads used",
        f"System: {machine.system}, {memory}; Python {machine.python}; {versions}",
    ]


def report(
    comparisons: Sequence[Comparison],
    contenders: Sequence[str],
    machine: Machine,
    plan: Plan,
    threads: int,
    *,
    as_markdown: bool = False,
) -> str:
    """Everything that a reader needs: machine, method, tables, and what went wrong."""
    table = markdown if as_markdown else plain
    method = (
        f"Median (p10..p90) of {plan.rounds} interleaved rounds; ratios within a round, "
        f"above 1 when ours is faster; errors up to {TOLERANCE:g} are ok."
    )
    problems = problem_lines(comparisons)
    blocks = [
        "\n".join([*machine_lines(machine, threads), method]),
        table(*speed_table(comparisons, contenders)),
        table(*cost_table(comparisons, contenders)),
    ]
    return "\n\n".join([*blocks, "\n".join(problems)] if problems else blocks)


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def as_json(
    comparisons: Sequence[Comparison], machine: Machine, plan: Plan, threads: int
) -> dict[str, Any]:
    """The same as plain data, every sample included; times in seconds, memory in bytes."""
    return {
        "machine": asdict(machine),
        "threads": threads,
        "plan": asdict(plan),
        "tolerance": TOLERANCE,
        "networks": [
            {
                "network": comparison.network,
                "reference": comparison.reference,
                "speedup_over_best": comparison.speedup_over_best(),
                "contenders": {
                    name: {
                        "correct": result.correct,
                        "problem": result.problem,
                        "relative_error": _finite(result.error),
                        "median_seconds": result.timing and result.timing.median,
                        "p10_seconds": result.timing and result.timing.p10,
                        "p90_seconds": result.timing and result.timing.p90,
                        "samples_seconds": result.timing and result.timing.samples,
                        "speedup_of_ours": comparison.speedup(name),
                        "compile_seconds": result.compile_seconds,
                        "compile_peak_bytes": result.compile_peak_bytes,
                        "peak_bytes": result.peak_bytes,
                    }
                    for name, result in comparison.results.items()
                },
            }
            for comparison in comparisons
        ],
    }
