"""Figures as plain data in the words of plotly, in the colours of the page: plot.js draws them.

A colour is a token, ``@survivor`` or ``@survivor/0.2`` (with its opacity): the page's script puts
the colour of the light or the dark scheme there. Names come from users and are read as a small
HTML, so they are escaped.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from natsel.report.trajectories import (
    MAX_LINES,
    MAX_POINTS,
    NUM_DEATH_COLOURS,
    Trajectories,
    death_colours,
    sample_lines,
    sample_steps,
)

Figure = dict[str, Any]
Row = dict[str, Any]

NUM_BINS = 40
DIVERGING_SCALE = [[0, "@dead/0.7"], [0.5, "@dead/0.02"], [0.5, "@survivor/0.02"]]
DIVERGING_SCALE += [[1, "@survivor/0.6"]]
"""From least to most, with nothing in the middle."""


def label(text: object, limit: int = 40) -> str:
    """Escape a name, and shorten it.

    Example:
        >>> label("<b>")
        '&lt;b&gt;'
    """
    name = str(text)
    return html.escape(name if len(name) <= limit else name[: limit - 1] + "…")


def trajectory_figure(
    trajectories: Trajectories, *, num_lines: int = MAX_LINES, num_points: int = MAX_POINTS
) -> Figure:
    """Draw mass over steps, one thin line per population, coloured by fate.

    Args:
        trajectories: of one community.
        num_lines: how many populations are drawn at most.
        num_points: how many points a line has at most.

    Returns:
        The figure.
    """
    records = sample_steps(len(trajectories.steps), num_points)
    steps = trajectories.steps[records].tolist()
    lines = sample_lines(trajectories, num_lines)
    fates = death_colours(trajectories)
    traces: list[Row] = []
    # Lines of one colour share a trace, with gaps between: hundreds of traces are slow to draw.
    for fate in sorted(set(fates[lines].tolist()), key=lambda f: (f >= 0, -f)):
        x: list[int | None] = []
        y: list[float | None] = []
        who: list[int | None] = []
        for population in lines[fates[lines] == fate].tolist():
            x += [*steps, None]
            y += [*_reals(trajectories.masses[records, population]), None]
            who += [population] * len(steps) + [None]
        colour = "@survivor/0.55" if fate < 0 else f"@death-{fate}/0.7"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "survivor" if fate < 0 else "went extinct",
                "x": x,
                "y": y,
                "customdata": who,
                "line": {"color": colour, "width": 1},
                "hovertemplate": "population %{customdata}<br>step %{x}<br>mass %{y}",
                "showlegend": False,
            }
        )
    if trajectories.num_extinct:
        traces.append(_death_scale(trajectories))
    return {
        "data": traces,
        "layout": layout(
            height=400,
            hovermode="closest",
            xaxis=axis("training step"),
            yaxis=axis("mass", rangemode="tozero"),
        ),
    }


def _death_scale(trajectories: Trajectories) -> Row:
    first, last = int(trajectories.steps[0]), int(trajectories.steps[-1])
    positions = [i / (NUM_DEATH_COLOURS - 1) for i in range(NUM_DEATH_COLOURS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "hoverinfo": "skip",
        "showlegend": False,
        "marker": {
            "color": [first],
            "cmin": first,
            "cmax": max(last, first + 1),
            "colorscale": [[p, f"@death-{i}"] for i, p in enumerate(positions)],
            "showscale": True,
            "colorbar": {
                "title": {"text": "died at step", "side": "right", "font": {"size": 11}},
                "thickness": 8,
                "outlinewidth": 0,
                "len": 0.9,
                "tickfont": {"size": 10},
                "nticks": 5,
            },
        },
    }


def living_figure(trajectories: Trajectories, *, num_points: int = MAX_POINTS) -> Figure:
    """Draw the number of living populations over steps."""
    records = sample_steps(len(trajectories.steps), num_points)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "x": trajectories.steps[records].tolist(),
                "y": trajectories.living()[records].tolist(),
                "line": {"color": "@survivor", "width": 2, "shape": "hv"},
                "fill": "tozeroy",
                "fillcolor": "@survivor/0.12",
                "hovertemplate": "step %{x}<br>%{y} living<extra></extra>",
                "showlegend": False,
            }
        ],
        "layout": layout(
            height=200,
            xaxis=axis("training step", nticks=5),
            yaxis=axis("living", range=[0, 1.05 * len(trajectories.alive)]),
        ),
    }


def histogram_figure(trajectories: Trajectories) -> Figure:
    """Draw how many populations ended at which mass, counts on a logarithmic axis."""
    final = trajectories.masses[-1]
    top = max(1.0, float(np.nanmax(final, initial=0.0)))
    edges = np.linspace(0.0, top, NUM_BINS + 1)
    traces: list[Row] = []
    for name, colour, chosen in (
        ("survivors", "@survivor", trajectories.alive),
        ("extinct", "@death-5", ~trajectories.alive),
    ):
        counts = np.histogram(final[chosen & np.isfinite(final)], bins=edges)[0]
        traces.append(
            {
                "type": "bar",
                "name": name,
                "x": _reals((edges[:-1] + edges[1:]) / 2),
                "y": [int(c) or None for c in counts],
                "width": top / NUM_BINS * 0.9,
                "marker": {"color": colour},
                "hovertemplate": "mass about %{x}<br>%{y} " + name + "<extra></extra>",
                "showlegend": False,
            }
        )
    return {
        "data": traces,
        "layout": layout(
            height=200,
            barmode="overlay",
            xaxis=axis("mass at the end", range=[-0.02 * top, 1.02 * top]),
            yaxis=axis(
                "populations",
                type="log",
                range=[-0.3, float(np.log10(max(len(final), 2))) + 0.1],
                dtick=1,
            ),
        ),
    }


def folded(figure: Figure) -> Figure:
    """Return a figure in which many lines over the same places say these once.

    Args:
        figure: whose traces may hold lines of one length, with a gap after each.

    Returns:
        The same picture: where ``meta`` is ``{"repeat": "x"}``, ``x`` holds the places of one line
        and ``customdata`` one entry a line.

    Example:
        >>> trace = {"x": [0, 5, None] * 2, "y": [1, 2, None] * 2, "customdata": [7, 7, None] * 2}
        >>> folded({"data": [trace]})["data"][0]["x"]
        [0, 5]
    """
    return {**figure, "data": [_folded(trace) for trace in figure["data"]]}


def _folded(trace: Row) -> Row:
    x, who = trace.get("x"), trace.get("customdata")
    if not x or not isinstance(who, list) or len(who) != len(x) or None not in x:
        return trace
    length = x.index(None) + 1
    num_lines = len(x) // length
    if x != x[:length] * num_lines:
        return trace
    return {**trace, "x": x[: length - 1], "customdata": who[::length], "meta": {"repeat": "x"}}


def _reals(values: Any) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]


def axis(title: str, **options: Any) -> Row:
    """Describe an axis in the colours of the page."""
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": "@grid",
        "zerolinecolor": "@grid",
        "linecolor": "@line",
        "tickfont": {"size": 11},
        "automargin": True,
        **options,
    }


def layout(*, height: int, **options: Any) -> Row:
    """Describe a figure without a background of its own, as wide as its place."""
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 48, "r": 12, "t": 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "color": "@muted", "size": 12},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        **options,
    }
