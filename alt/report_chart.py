"""Charts of times that fall in steps, as SVG in text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10
from sys import float_info

WIDTH, HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 40


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others: 1, 2 or 5 times a power of ten apart.

    Example:
        >>> ticks(0.0, 23.0)
        [0.0, 5.0, 10.0, 15.0, 20.0]
        >>> ticks(0.41, 0.47, 3)
        [0.42, 0.44, 0.46]
    """
    rough = (high - low) / about
    if not rough > float_info.min:
        return [low]
    power = 10.0 ** floor(log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = -int(-low // step) if low > 0 else 0
    count = int((high + step * 1e-6) // step) - first + 1
    digits = max(0, -floor(log10(step)))
    found = [round((first + k) * step, digits) for k in range(count)]
    return found or ticks(low, high, 2 * about)


def steps(
    points: Sequence[tuple[float, float]],
    end: float,
    *,
    across: str,
    up: str,
    default: float | None = None,
) -> str:
    """A chart of a value that holds from each point to the next.

    Args:
        points: (x, y), by x.
        end: x up to which the last value holds.
        across: what x is.
        up: what y is.
        default: a value to compare with, drawn as a dashed line.
    """
    if not points:
        return '<p class="quiet">Nothing was ok.</p>'
    values = [y for _, y in points] + ([default] if default is not None else [])
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * high or 1.0
    low, high = max(0.0, low - margin), high + margin
    start = min(0.0, points[0][0])
    span = max(end, points[-1][0]) - start or 1.0

    def x_of(x: float) -> float:
        return _LEFT + (x - start) / span * (WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(up)}">']
    for value in ticks(low, high, 6):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{value:g}</text>')
    for value in ticks(start, start + span):
        parts.append(
            f'<text x="{x_of(value):.1f}" y="{bottom + 16}" class="middle">{value:g}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" class="middle">{escape(across)}</text>')
    turned = f"rotate(-90 12 {(bottom + _TOP) / 2})"
    place = f'x="12" y="{(bottom + _TOP) / 2}" transform="{turned}"'
    parts.append(f'<text {place} class="middle">{escape(up)}</text>')
    if default is not None:
        y = y_of(default)
        parts.append(f'<line class="default" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{right}" y="{y - 5:.1f}" class="end">default</text>')
    parts.append(_path([(x_of(x), y_of(y)) for x, y in points], x_of(start + span)))
    for x, y in points:
        name = f"{escape(across)} {x:.5g}: {y:.4g}"
        parts.append(
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"><title>{name}</title></circle>'
        )
    return "".join(parts) + "</svg>"


def sparkline(points: Sequence[tuple[float, float]], end: float) -> str:
    """The same as a small picture without numbers, for the cell of a table."""
    if not points:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    width, height = 90.0, 20.0
    across, up = max(end, points[-1][0]) or 1.0, (high - low) or 1.0
    drawn = [(x / across * width, 2 + (high - y) / up * (height - 4)) for x, y in points]
    path = _path(drawn, width)
    return (
        f'<svg class="small" viewBox="0 0 {width:.0f} {height:.0f}" aria-hidden="true">{path}</svg>'
    )


def _path(points: Sequence[tuple[float, float]], end: float) -> str:
    x, y = points[0]
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
    return f'<path class="series" d="M{x:.1f} {y:.1f}{steps}H{end:.1f}"/>'
