"""Two kinds of static pictures, as SVG that follows the light or dark scheme of its reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from natsel.report.svg import WIDTH, framed

COLOURS = ("#0b7a66", "#5b55b5", "#c2571a", "#b8327e", "#a9820b")
LEFT, RIGHT, TOP, ROW = 210, 60, 40, 19


class Dot(NamedTuple):
    """One row: a median with its quartiles, under the name of its group."""

    group: str
    name: str
    value: float
    low: float
    high: float


class Line(NamedTuple):
    """A named line of (x, y), both positive."""

    name: str
    points: list[tuple[float, float]]


def dots(rows: Sequence[Dot], *, title: str, marked: float, least: float | None = None) -> str:
    """Draw medians with quartiles, one row each, groups under their names.

    Args:
        rows: in the order in which they are shown.
        title: what is measured.
        marked: where a dashed line stands.
        least: where the axis begins; a little under the smallest value if it is not given.

    Returns:
        The picture.
    """
    values = [v for row in rows for v in (row.low, row.high)] + [marked]
    step = _step(max(values) - (min(values) if least is None else least))
    first = math.floor(min(values) / step) * step if least is None else least
    last = math.ceil(max(values) / step) * step

    def across(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    drawn: list[str] = []
    y = TOP
    for group, members in groupby(rows, key=lambda row: row.group):
        y += ROW
        drawn.append(f'<text class="group" x="8" y="{y + 4}">{escape(group)}</text>')
        for row in members:
            y += ROW
            told = f"{row.name}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
            drawn.append(
                f'<g><title>{escape(told)}</title><text class="name" x="{LEFT - 12}" y="{y + 4}" '
                f'text-anchor="end">{escape(row.name)}</text><line class="bar" '
                f'x1="{across(row.low):.1f}" x2="{across(row.high):.1f}" y1="{y}" y2="{y}"/>'
                f'<circle class="dot" cx="{across(row.value):.1f}" cy="{y}" r="4"/>'
                f'<text x="{WIDTH - RIGHT + 12}" y="{y + 4}">{row.value:.2f}</text></g>'
            )
    bottom = y + ROW
    axis = [f'<text x="{LEFT}" y="16">{escape(title)}</text>']
    for number in range(round((last - first) / step) + 1):
        x = across(first + number * step)
        axis.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
            f'<text x="{x:.1f}" y="{TOP - 6}" text-anchor="middle">{first + number * step:.4g}'
            "</text>"
        )
    x = across(marked)
    axis.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
    return framed(bottom + 8, [*axis, *drawn])


def lines(rows: Sequence[Line], *, across: str, up: str) -> str:
    """Draw lines over two logarithmic axes, each named at its end.

    Args:
        rows: the lines.
        across: what x is.
        up: what y is.

    Returns:
        The picture.
    """
    height, left, right, bottom = 340, 60, 170, 300
    xs = [math.log10(x) for row in rows for x, _ in row.points]
    ys = [math.log10(y) for row in rows for _, y in row.points]
    x_first, x_last = math.floor(min(xs)), math.ceil(max(xs))
    y_first, y_last = math.floor(min(ys)), math.ceil(max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        u = (math.log10(x) - x_first) / (x_last - x_first)
        v = (math.log10(y) - y_first) / (y_last - y_first)
        return left + u * (WIDTH - left - right), bottom - v * (bottom - TOP)

    drawn = [
        f'<text x="{(left + WIDTH - right) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{escape(across)}</text>",
        f'<text x="8" y="20">{escape(up)}</text>',
    ]
    for power in range(x_first, x_last + 1):
        x, _ = at(10.0**power, 10.0**y_first)
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">1e{power}</text>'
        )
    for power in range(y_first, y_last + 1):
        _, y = at(10.0**x_first, 10.0**power)
        drawn.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>'
        )
    ends = _apart([at(*row.points[-1])[1] for row in rows], 16.0)
    for row, colour, end in zip(rows, COLOURS, ends, strict=False):
        places = [at(x, y) for x, y in row.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        told = "; ".join(f"{x:.0e}: {y:.1f}" for x, y in row.points)
        drawn.append(
            f"<g><title>{escape(f'{row.name}: {told}')}</title>"
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            + "".join(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places
            )
            + f'<line x1="{places[-1][0] + 5:.1f}" y1="{places[-1][1]:.1f}" '
            f'x2="{WIDTH - right + 12}" y2="{end:.1f}" stroke="{colour}" stroke-opacity="0.4"/>'
            f'<text class="name" x="{WIDTH - right + 16}" y="{end + 4:.1f}">{escape(row.name)}'
            "</text></g>"
        )
    return framed(height, drawn)


def _step(span: float) -> float:
    """Return a round distance of ticks: six of them or fewer.

    Example:
        >>> _step(0.31), _step(2.6)
        (0.1, 0.5)
    """
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(round(m * power, 12) for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _apart(places: Sequence[float], least: float) -> list[float]:
    """Move places down until each is a least distance from the next.

    Example:
        >>> _apart([10.0, 12.0, 60.0], 16.0)
        [10.0, 26.0, 60.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved, last = list(places), -math.inf
    for index in order:
        moved[index] = last = max(places[index], last + least)
    return moved
