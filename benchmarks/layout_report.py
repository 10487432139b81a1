"""What was measured of layouts, as tables and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

from benchmarks.layout_contest import Contest
from benchmarks.layout_families import families_of
from benchmarks.layout_operators import Convolution
from benchmarks.machine import this_machine
from benchmarks.protocol import Plan
from benchmarks.tables import markdown, plain


def gains_table(contests: Sequence[Contest], peak: float) -> tuple[list[str], list[list[str]]]:
    """A row a shape, a column a family: gain over the first family, and percent of the peak.

    Below come the geometric means of the gains, network by network. All contests must have the
    same families.

    Args:
        contests: what was measured.
        peak: floating-point operations a second that the machine can do.
    """
    families = families_of(contests[0].op)
    header = ["shape", f"{families[0]} us", *families, "best"]
    rows: list[list[str]] = []
    for one in contests:
        base = one.timings.get(families[0])
        row = [one.op.name, "-" if base is None else f"{1e6 * base.median:.1f}"]
        for family in families:
            gain, share = one.gain(family), one.share(family, peak)
            row.append("-" if gain is None or share is None else f"{gain:.2f} ({share:.0%})")
        rows.append([*row, one.best or "-"])
    networks = dict.fromkeys(name for one in contests for name in one.networks)
    for network in networks:
        its = [one for one in contests if network in one.networks]
        row = [f"geomean {network}", "", *(_mean(its, family) for family in families)]
        rows.append([*row, _mean(its, None)])
    return header, rows


def _mean(contests: Sequence[Contest], family: str | None) -> str:
    """Geometric mean of a family's gains; of the best ones' if none is named."""
    gains = [one.gain(family or one.best or "") for one in contests]
    known = [gain for gain in gains if gain is not None]
    return f"{geometric_mean(known):.2f}" if known else "-"


def _kinds(contests: Sequence[Contest]) -> list[list[Contest]]:
    """Those of convolutions and those of products, as far as there are any."""
    convolutions = [one for one in contests if isinstance(one.op, Convolution)]
    products = [one for one in contests if not isinstance(one.op, Convolution)]
    return [some for some in (convolutions, products) if some]


def report(
    contests: Sequence[Contest], peak: float, threads: int, plan: Plan, *, as_markdown: bool = False
) -> str:
    """Everything for a reader: tables, how it was measured, what went wrong."""
    machine = this_machine()
    render = markdown if as_markdown else plain
    parts: list[str] = []
    parts.extend(render(*gains_table(some, peak)) for some in _kinds(contests))
    parts.append(
        f"{machine.cpu}, {threads} threads, {plan.rounds} interleaved rounds; time of the first "
        f"family by each family's, and part of the peak of {peak / 1e9:.0f} GFLOP/s; "
        f"candidates measured: {sum(sum(one.tried.values()) for one in contests)}"
    )
    for one in contests:
        for family, count in one.wrong.items():
            parts.append(f"{one.op.name}: {family}: {count} candidates computed something else")
        for family in families_of(one.op):
            if family not in one.timings:
                count, why = one.refused.get(family, (0, "no candidates"))
                parts.append(f"{one.op.name}: {family}: none ran, {count} refused: {why}")
    return "\n\n".join(parts)


def draw(contests: Sequence[Contest], path: Path) -> None:
    """Draw the gains: a line of dots for each shape, a colour for each family."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    kinds = [
        [one for one in contests if isinstance(one.op, Convolution) is k] for k in (True, False)
    ]
    shown = [some for some in kinds if some]
    heights = [len(some) + 1 for some in shown]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(9, 1.2 + 0.28 * sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axis, some in zip(axes[:, 0], shown, strict=True):
        rows = range(len(some))
        for family in families_of(some[0].op):
            gains = [one.gain(family) for one in some]
            axis.scatter([math.nan if g is None else g for g in gains], rows, s=22, label=family)
        axis.set_yticks(list(rows), [one.op.name for one in some], fontsize=7)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_ylim(len(some) - 0.3, -0.7)
        axis.grid(alpha=0.3)
        axis.set_xlabel(f"times as fast as {families_of(some[0].op)[0]}")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with mpl.rc_context({"svg.fonttype": "none"}):  # text as text: a quarter of the size
        figure.savefig(path)
    plt.close(figure)
