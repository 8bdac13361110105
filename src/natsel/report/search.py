"""A search for levels in one picture: how its best plan fared, and who gave how much meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from natsel.levels.result import WORDS
from natsel.report.svg import WIDTH, framed

LEFT, RIGHT = 170, 20
CURVE = (40, 150)
"""Between which heights the curve is drawn."""
ROWS = 260
"""Height of the levels of the communities, together, unless they are very many."""


class Row(NamedTuple):
    """One line of the map: a community, or one of its branches.

    Attributes:
        group: under which it stands.
        name: of it.
        gone: for each generation the share of it that is gone.
    """

    group: str
    name: str
    gone: tuple[float, ...]


def search_picture(found: Mapping[str, Any]) -> str:
    """Draw a search for levels.

    Above: the fitness of the best plan of each generation on the windows of that generation (so
    that it may rise), against the places that were judged by then. Below, a row a community and a
    column a generation: the darker, the more of it is gone. Of branches each has a row of its own.

    Args:
        found: what ``Levels.plain`` returns, as it stands in ``result.json``.

    Returns:
        The picture, as SVG.

    Raises:
        ValueError: if it is no search with a history.

    Example:
        >>> one = {"number": 0, "evaluations": 4, "tokens": 64, "best": 0.5, "vector": [3, [1]]}
        >>> two = {"number": 1, "evaluations": 8, "tokens": 96, "best": 0.4, "vector": [4, [0]]}
        >>> levels = {"a.mlp": [4, 8], "a:branches": [1, 2]}
        >>> search_picture({"history": [one, two], "levels": levels, "fitness": "kl"})[:4]
        '<svg'
    """
    history, levels = found.get("history"), found.get("levels")
    if not history or not isinstance(levels, Mapping):
        raise ValueError("found holds no history of a search for levels")
    rows = list(rows_of(history, levels))
    return framed(*_drawn(history, rows, str(found.get("fitness", "fitness"))))


def rows_of(history: Sequence[Mapping[str, Any]], levels: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what the map shows: communities that may differ in nothing are shown all the same.

    Example:
        >>> history = [{"vector": [3, [1]]}, {"vector": [4, [0, 1]]}]
        >>> for row in rows_of(history, {"x.mlp": [4, 8], "x:branches": [1, 2]}):
        ...     print(row.group, row.name, row.gone)
        mlp x (0.625, 0.5)
        x:branches 0 (0.0, 1.0)
        x:branches 1 (1.0, 1.0)
    """
    vectors = [generation["vector"] for generation in history]
    for place, (name, (_, size)) in enumerate(levels.items()):
        column = [vector[place] for vector in vectors]
        if isinstance(column[0], int):
            before, dot, last = name.rpartition(".")
            group, short = (last, before) if dot else ("", name)
            yield Row(group, short, tuple(1 - kept / size for kept in column))
            continue
        for branch in range(size):
            gone = tuple(float(branch in out) for out in column)
            yield Row(name, str(branch), gone)


def _drawn(
    history: Sequence[Mapping[str, Any]], rows: Sequence[Row], fitness: str
) -> tuple[float, list[str]]:
    count = len(history)
    across = (WIDTH - LEFT - RIGHT) / count
    parts = list(_curve(history, fitness))
    high = max(3.0, min(14.0, ROWS / len(rows)))
    y = CURVE[1] + 44.0
    parts.append(
        f'<text x="{LEFT}" y="{y - 8}">share gone, generations 0 to {count - 1}; '
        "darker is more; from the first layer down</text>"
    )
    ordered = sorted(rows, key=lambda row: list(dict.fromkeys(r.group for r in rows)).index(row[0]))
    for group, members in groupby(ordered, key=lambda row: row.group):
        y += 6
        held = list(members)
        parts.append(
            f'<text class="group" x="{LEFT - 12}" y="{y + 10:.1f}" text-anchor="end">'
            f"{escape(group[-22:])}</text>"
        )
        for row in held:
            parts.extend(_cells(row, y, across, high))
            y += high
        y += max(0.0, 14 - high * len(held))
    return y + 12, parts


def _cells(row: Row, y: float, across: float, high: float) -> Iterator[str]:
    """Draw a row: neighbours of one level are one rectangle."""
    start = 0
    for gone, run in groupby(row.gone):
        length = len(list(run))
        last = start + length - 1
        told = f"{row.name}, {row.group}: {gone:.0%} gone in generations {start} to {last}"
        yield (
            f'<rect class="dot" x="{LEFT + start * across:.1f}" y="{y:.1f}" '
            f'width="{length * across:.1f}" height="{high - 0.5:.1f}" '
            f'fill-opacity="{0.06 + 0.94 * gone:.2f}"><title>{escape(told)}</title></rect>'
        )
        start += length


def _curve(history: Sequence[Mapping[str, Any]], fitness: str) -> Iterator[str]:
    values = [float(generation["best"]) for generation in history]
    places = [float(generation["tokens"]) for generation in history]
    low, high = min(values), max(values)
    top, bottom = CURVE
    span = (high - low) or 1.0
    last = (places[-1] - places[0]) or 1.0
    points = [
        (
            LEFT + (p - places[0]) / last * (WIDTH - LEFT - RIGHT),
            bottom - (v - low) / span * (bottom - top),
        )
        for p, v in zip(places, values, strict=True)
    ]
    title = f"{WORDS.get(fitness, fitness)}: of the best plan, on the windows of its generation"
    yield f'<text x="8" y="20">{escape(title)}</text>'
    for value, level in ((high, top), (low, bottom)):
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>'
        yield f'<text x="{LEFT - 8}" y="{level + 4}" text-anchor="end">{value:.4g}</text>'
    yield f'<text x="{LEFT}" y="{bottom + 16}">{places[0]:,.0f}</text>'
    yield (
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 16}" text-anchor="end">'
        f"{places[-1]:,.0f} places judged</text>"
    )
    yield f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    for (x, y), generation in zip(points, history, strict=True):
        told = (
            f"generation {generation['number']}, {generation['evaluations']} evaluations: "
            f"{generation['best']:.4g}"
        )
        yield (
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(told)}</title></circle>"
        )
