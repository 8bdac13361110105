"""Accuracy against sparsity, as figures: which method keeps what when how much is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from natsel.report.facts import as_real
from natsel.report.figures import Figure, Row, axis, label, layout

NUM_SERIES_COLOURS = 10
ZOOM = 0.03
FAMILIES = ("dynamic", "one-shot", "scratch", "control", "paper")
DASHES = {"one-shot": "dash", "scratch": "longdash", "control": "dot", "paper": "dashdot"}
MARKERS = {"one-shot": "square", "scratch": "triangle-up", "control": "x", "paper": "diamond"}


def method_colours(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Give each (family, method) its colour, the same in every picture of a page."""
    fixed = {"scratch": "@muted", "control": "@faint", "paper": "@ink"}
    colours: dict[tuple[str, str], str] = {}
    num_coloured = 0
    for name in sorted({method_name(r): None for r in rows}, key=lambda n: family_order(n[0])):
        if name[0] in fixed:
            colours[name] = fixed[name[0]]
        else:
            colours[name] = f"@series-{num_coloured % NUM_SERIES_COLOURS}"
            num_coloured += 1
    return colours


def accuracy_figures(
    rows: Sequence[Row],
    colours: Mapping[tuple[str, str], str],
    own: Row | None = None,
    top: float | None = None,
) -> list[tuple[str, Figure]]:
    """Draw accuracy against sparsity, once whole and once near the top where that helps.

    Args:
        rows: of a ``table.json``.
        colours: of every method, from :func:`method_colours`.
        own: ``{"sparsity", "mean", "low", "high"}`` of a point to mark, if there is one.
        top: an accuracy to draw as a level line (the dense network's).

    Returns:
        (caption, figure) pairs; none if no row has both a sparsity and a mean.
    """
    drawn = [r for r in rows if _point(r) is not None]
    points = [p for p in map(_point, [*drawn, own or {}]) if p is not None]
    if not points:
        return []
    means = [y for _, y in points]
    figures = [("The whole range.", _accuracy_figure(drawn, colours, own, top, None))]
    best = max([*means, *([top] if top is not None else [])])
    if min(means) < best - 2 * ZOOM:
        window = [best - ZOOM, best + ZOOM / 8]
        caption = "The same, near the top: lines that leave the picture fall below it."
        figures.append((caption, _accuracy_figure(drawn, colours, own, top, window)))
    return figures


def _accuracy_figure(
    rows: Sequence[Row],
    colours: Mapping[tuple[str, str], str],
    own: Row | None,
    top: float | None,
    window: list[float] | None,
) -> Figure:
    traces: list[Row] = []
    for name, colour in colours.items():
        mine = [r for r in rows if method_name(r) == name]
        if mine:
            mine.sort(key=lambda r: float(r["sparsity"]))
            traces += _method_traces(*name, mine, colour)
    if top is not None:
        sparsities = [float(r["sparsity"]) for r in [*rows, *([own] if own else [])]]
        traces.insert(0, _level(min([0.0, *sparsities]), max(sparsities, default=1.0), top))
    if own is not None and _point(own) is not None:
        traces.append(_own_point(own))
    num_entries = sum(1 for t in traces if t.get("showlegend", True))
    ticks = {"tickformat": ".0%"} if window is None else {"tickformat": ".1%", "range": window}
    return {
        "data": traces,
        "layout": layout(
            height=370 + 14 * num_entries,
            hovermode="closest",
            xaxis=axis("sparsity: share of populations removed", tickformat=".0%"),
            yaxis=axis("test accuracy", **ticks),
            legend={"orientation": "h", "y": -0.2, "yanchor": "top", "font": {"size": 11}},
        ),
    }


def _method_traces(family: str, method: str, rows: list[Row], colour: str) -> list[Row]:
    x = [float(r["sparsity"]) for r in rows]
    lows = [as_real(r.get("low")) for r in rows]
    highs = [as_real(r.get("high")) for r in rows]
    name = label(f"{method} ({family})")
    group = f"{family}/{label(method)}"
    traces: list[Row] = []
    banded = [
        (s, a, b) for s, a, b in zip(x, lows, highs, strict=True) if a is not None and b is not None
    ]
    if len(banded) > 1:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [s for s, _, _ in banded] + [s for s, _, _ in reversed(banded)],
                "y": [b for _, _, b in banded] + [a for _, a, _ in reversed(banded)],
                "fill": "toself",
                "fillcolor": f"{colour}/0.14",
                "line": {"width": 0},
                "hoverinfo": "skip",
                "legendgroup": group,
                "showlegend": False,
            }
        )
    intervals = [
        "" if a is None or b is None else f"<br>95 % interval {100 * a:.2f} to {100 * b:.2f} %"
        for a, b in zip(lows, highs, strict=True)
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "legendgroup": group,
            "x": x,
            "y": [float(r["mean"]) for r in rows],
            "customdata": intervals,
            "line": {"color": colour, "width": 2, "dash": DASHES.get(family, "solid")},
            "marker": {"size": 7, "symbol": MARKERS.get(family, "circle"), "color": colour},
            "hovertemplate": f"{name}<br>%{{x:.1%}} removed: %{{y:.2%}}%{{customdata}}"
            "<extra></extra>",
        }
    )
    return traces


def _level(left: float, right: float, accuracy: float) -> Row:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "dense network",
        "x": [left, right],
        "y": [accuracy, accuracy],
        "line": {"color": "@faint", "width": 1},
        "hovertemplate": "dense network: %{y:.2%}<extra></extra>",
    }


def _own_point(own: Row) -> Row:
    low, high = as_real(own.get("low")), as_real(own.get("high"))
    mean = float(own["mean"])
    point: Row = {
        "type": "scatter",
        "mode": "markers",
        "name": "this run, extinct removed",
        "x": [own["sparsity"]],
        "y": [mean],
        "marker": {"symbol": "star", "size": 15, "color": "@survivor"},
        "hovertemplate": "this run: %{x:.1%} removed, %{y:.2%}<extra></extra>",
    }
    if low is not None and high is not None:
        point["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - mean],
            "arrayminus": [mean - low],
            "color": "@survivor",
            "thickness": 1.5,
            "width": 5,
        }
    return point


def _point(row: Row) -> tuple[float, float] | None:
    x, y = as_real(row.get("sparsity")), as_real(row.get("mean"))
    return None if x is None or y is None else (x, y)


def method_name(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells a row's line from the others: (family, method)."""
    return str(row.get("family", "")), str(row.get("method", ""))


def family_order(family: str) -> int:
    """Order families as they are shown, unknown ones last."""
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
