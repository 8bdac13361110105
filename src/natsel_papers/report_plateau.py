"""The report of a plateau study: accuracy, escape, curves, and the verdict on every claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from natsel.report.facts import Facts
from natsel.report.figures import DIVERGING_SCALE, Figure, Row, axis, label, layout
from natsel.report.formats import sparsity_label
from natsel.report.page import Picture, provenance, read_json, render_page, write_whole
from natsel_papers.failing import failed_markdown, measured

PLATEAU = "V1a"
DRAWN = (PLATEAU, "V1", "A5", "PureMag4", "random", "taylor", "joint", "adaptive")
COMPENSATED = "adaptive, compensated"
COLOURS = (
    "@survivor",
    "@death-1",
    "@death-2",
    "@death-3",
    "@death-4",
    "@death-5",
    "@muted",
    "@ink",
)


def write_plateau_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a plateau study, beside what it shows.

    Args:
        folder: holds ``table.json`` and ``summary.json``.

    Returns:
        The path of the page: one file that needs no network.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if they are not those of a plateau study.
        MissingExtraError: if jinja2 is not installed.
    """
    folder = Path(folder)
    rows, summary = read_json(folder / "table.json"), read_json(folder / "summary.json")
    rows = measured(rows) if isinstance(rows, list) else rows
    if not isinstance(summary, dict) or summary.get("kind") != "plateau study":
        raise ValueError(f"{folder / 'summary.json'} is not the summary of a plateau study")
    facts = Facts({"table": rows, "summary": summary})
    ours = [r for r in rows if r["family"] != "paper"]
    page = render_page(
        "plateau.html",
        facts,
        package="natsel_papers",
        title=summary["title"],
        sentences=summary["sentences"],
        claims=summary["claims"],
        notes=summary["notes"],
        accuracy=_accuracy(ours, summary),
        escape=_escape(ours),
        curves=_curves(summary),
        kept=_kept(summary),
        sparsities=sorted({r["sparsity"] for r in ours}),
        lines=_lines(rows),
        paper=[(i, r) for i, r in enumerate(rows) if r["family"] == "paper"],
        beside=lambda r: _beside(rows, r),
        independence=summary["independence"],
        provenance=provenance(facts, "summary."),
    )
    return write_whole(folder / "report.html", page)


def plateau_markdown(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Return the table of a plateau study in markdown: accuracy and escape, in percent.

    Args:
        rows: of ``table.json``.
        summary: of ``summary.json``.

    Returns:
        Methods down, sparsities across; then the spectrum and the claims.
    """
    failed = failed_markdown(rows)
    rows = measured(rows)
    ours = [r for r in rows if r["family"] != "paper"]
    sparsities = sorted({r["sparsity"] for r in ours})
    heads = [f"S = {s:g}" for s in sparsities]
    lines = ["| method | kappa | " + " | ".join(heads) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(sparsities))
    for method in dict.fromkeys(r["method"] for r in ours):
        own = {r["sparsity"]: r for r in ours if r["method"] == method}
        kappa = next(iter(own.values()))["kappa"]
        texts = [_cell(own[s]) if s in own else "" for s in sparsities]
        lines.append(f"| {method} | {'' if kappa is None else kappa} | " + " | ".join(texts) + " |")
    lines += ["", "Accuracy on held-out samples and, in brackets, points above the plateau (V1a);"]
    lines += ["`*` significantly above on every network, `−` significantly below (Holm).", ""]
    paper = [r for r in rows if r["family"] == "paper"]
    if paper:
        lines += ["| the paper, ViT-Small | S | its figure | here |", "| --- | --- | --- | --- |"]
        for r in paper:
            mine = _beside(rows, r)
            value = f"{100 * r['mean']:+.2f}" if r["what"] == "escape" else f"{100 * r['mean']:.2f}"
            lines.append(f"| {r['method']}, {r['what']} | {r['sparsity']:g} | {value} | {mine} |")
        lines.append("")
    lines += ["| claim | verdict | evidence |", "| --- | --- | --- |"]
    lines += [f"| {c['claim']} | {c['verdict']} | {c['evidence']} |" for c in summary["claims"]]
    return "\n".join([*lines, *failed])


def _cell(row: Mapping[str, Any]) -> str:
    text = f"{100 * row['mean']:.2f}"
    if "escape" not in row:
        return text
    return f"{text} ({100 * row['escape']:+.2f}{_mark(row)})"


def _mark(row: Mapping[str, Any]) -> str:
    return "*" if row["escapes"] else "−" if row["worse"] else ""


def _beside(rows: Sequence[Mapping[str, Any]], paper: Mapping[str, Any]) -> str:
    """Return what was measured where the paper has a figure."""
    for r in rows:
        same = r["method"] == paper["method"] and r["sparsity"] == paper["sparsity"]
        if same and r["family"] != "paper":
            if paper["what"] == "accuracy":
                return f"{100 * r['mean']:.2f}"
            return f"{100 * r['escape']:+.2f} (p = {r['p_value']:.2g})"
    return "not run"


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any, list[int]]]:
    """Return (method, kappa, indices of its rows) for each method."""
    found: dict[str, tuple[Any, list[int]]] = {}
    for index, row in enumerate(rows):
        if row["family"] != "paper":
            found.setdefault(row["method"], (row["kappa"], []))[1].append(index)
    return [(method, kappa, indices) for method, (kappa, indices) in found.items()]


def _accuracy(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Picture:
    """Draw accuracy against sparsity, one line per method, intervals over networks."""
    sparsities = sorted({r["sparsity"] for r in rows})
    traces: list[Row] = []
    drawn = [m for m in (*DRAWN, COMPENSATED) if any(r["method"] == m for r in rows)]
    for index, method in enumerate(drawn):
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: r["sparsity"])
        colour = COLOURS[index % len(COLOURS)]
        dash = "dot" if method in ("random", "PureMag4") else "solid"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(method),
                "x": [r["sparsity"] for r in own],
                "y": [r["mean"] for r in own],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [r["high"] - r["mean"] for r in own],
                    "arrayminus": [r["mean"] - r["low"] for r in own],
                    "thickness": 1,
                    "width": 3,
                    "color": colour,
                },
                "line": {"color": colour, "width": 3 if method == PLATEAU else 1.5, "dash": dash},
                "marker": {"color": colour, "size": 5},
            }
        )
    dense = [v for values in summary["dense"].values() for v in values]
    level = sum(dense) / len(dense)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "dense",
            "x": [sparsities[0], sparsities[-1]],
            "y": [level, level],
            "line": {"color": "@muted", "width": 1, "dash": "dash"},
        }
    )
    return Picture(
        {
            "data": traces,
            "layout": layout(
                height=420,
                xaxis=axis("share removed", tickformat=".0%", tickvals=sparsities),
                yaxis=axis("held-out accuracy", tickformat=".0%", range=_ends(rows, level)),
                legend={"orientation": "h", "y": -0.2},
            ),
        },
        "Accuracy against sparsity for the plateau, feature classes, scorers and adaptive.",
        "Mean over networks with the 95 % interval (Student). V1a is the plateau.",
    )


def _ends(rows: Sequence[Mapping[str, Any]], dense: float) -> list[float]:
    """Return where the axis of accuracies ends: means and room, whatever two seeds' intervals."""
    means = [r["mean"] for r in rows] + [dense]
    room = 0.15 * (max(means) - min(means)) + 0.01
    return [max(0.0, min(means) - room), min(1.0, max(means) + room)]


def _escape(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw the escape of each method at each sparsity, significant ones marked."""
    sparsities = sorted({r["sparsity"] for r in rows})
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != PLATEAU]
    by_key = {(r["method"], r["sparsity"]): r for r in rows}
    values = [[100 * by_key[m, s]["escape"] for s in sparsities] for m in methods]
    largest = max((abs(v) for row in values for v in row), default=1.0) or 1.0
    texts: list[list[str]] = []
    for m in methods:
        own = [by_key[m, s] for s in sparsities]
        texts.append([f"{100 * r['escape']:+.1f}{_mark(r)}" for r in own])
    figure: Figure = {
        "data": [
            {
                "type": "heatmap",
                "x": [sparsity_label(s) for s in sparsities],
                "y": [label(m) for m in methods],
                "z": values,
                "text": texts,
                "texttemplate": "%{text}",
                "textfont": {"color": "@ink", "size": 11},
                "hovertemplate": "%{y} at %{x}: %{z:.2f} points<extra></extra>",
                "zmin": -largest,
                "zmax": largest,
                "xgap": 2,
                "ygap": 2,
                "colorscale": DIVERGING_SCALE,
                "showscale": False,
            }
        ],
        "layout": layout(
            height=90 + 24 * len(methods),
            xaxis=axis("share removed", type="category", showgrid=False),
            yaxis={**axis(""), "autorange": "reversed", "showgrid": False, "type": "category"},
        ),
    }
    return Picture(
        figure,
        "Escape from the plateau, methods by sparsities, in points of accuracy.",
        "Points of accuracy above the plateau. *: significant (Holm) and ahead on every network; "
        "−: significantly below.",
    )


def _curves(summary: Mapping[str, Any]) -> list[Picture]:
    """Draw the fused curves that a search found, over the rank, with the cut drawn in."""
    pictures = []
    winners = [w for w in summary["winners"] if w["seed"] == 0 and "random" not in w["method"]]
    for sparsity in sorted({w["sparsity"] for w in winners}):
        own = [w for w in winners if w["sparsity"] == sparsity]
        traces: list[Row] = []
        for index, w in enumerate(own):
            count = len(w["curve"])
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": label(w["method"]),
                    "x": [round(i / (count - 1), 4) for i in range(count)],
                    "y": w["curve"],
                    "line": {"color": COLOURS[index % len(COLOURS)], "width": 1.3},
                }
            )
        shapes = [
            {
                "type": "line",
                "x0": sparsity,
                "x1": sparsity,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": "@muted", "dash": "dot", "width": 1},
            }
        ]
        caption = f"Searched scores over the rank at {sparsity_label(sparsity)} removed, network 0."
        pictures.append(
            Picture(
                {
                    "data": traces,
                    "layout": layout(
                        height=300,
                        shapes=shapes,
                        xaxis=axis("rank of the magnitude, u"),
                        yaxis=axis("score"),
                        legend={"orientation": "h", "y": -0.3},
                    ),
                },
                caption,
                caption + " Dotted: where the plateau cuts.",
            )
        )
    return pictures


def _kept(summary: Mapping[str, Any]) -> list[Picture]:
    """Draw which ranks survive under each searched class, mean over networks."""
    pictures = []
    winners = [w for w in summary["winners"] if "random" not in w["method"]]
    for sparsity in sorted({w["sparsity"] for w in winners}):
        own = [w for w in winners if w["sparsity"] == sparsity]
        methods = list(dict.fromkeys(w["method"] for w in own))
        values = []
        for method in methods:
            kept = [w["kept_ranks"] for w in own if w["method"] == method]
            values.append([round(sum(column) / len(kept), 4) for column in zip(*kept, strict=True)])
        caption = f"Which ranks survive at {sparsity_label(sparsity)} removed."
        pictures.append(
            Picture(
                {
                    "data": [
                        {
                            "type": "heatmap",
                            "x": [round((i + 0.5) / 20, 3) for i in range(20)],
                            "y": [label(m) for m in methods],
                            "z": values,
                            "zmin": 0,
                            "zmax": 1,
                            "xgap": 1,
                            "ygap": 2,
                            "colorscale": [[0, "@survivor/0.02"], [1, "@survivor/0.8"]],
                            "showscale": False,
                            "hovertemplate": "%{y}, u = %{x}: %{z:.0%} survive<extra></extra>",
                        }
                    ],
                    "layout": layout(
                        height=90 + 22 * len(methods),
                        xaxis=axis("rank of the magnitude, u", showgrid=False),
                        yaxis={**axis(""), "autorange": "reversed", "type": "category"},
                    ),
                },
                caption,
                caption + " Darker: more of these ranks survive; mean over networks.",
            )
        )
    return pictures
