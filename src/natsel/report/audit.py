"""The report of an audit: which scorers are one criterion, and how far apart the others select."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from natsel.report.facts import Facts
from natsel.report.figures import DIVERGING_SCALE, Figure, label, layout
from natsel.report.formats import sparsity_label
from natsel.report.page import Picture, provenance, read_json, render_page, write_whole

NUM_OPEN_COMMUNITIES = 2
MEASURES = {"jaccard_survivors": "shared survivors", "jaccard_removed": "shared removals"}
SHARE_SCALE = [[0, "@survivor/0.02"], [1, "@survivor/0.6"]]


def write_audit_report(folder: str | Path) -> Path:
    """Write ``report.html`` into an audit's folder, beside the file that it shows.

    Args:
        folder: holds the ``result.json`` of an audit.

    Returns:
        The path of the page: one file that needs no network.

    Raises:
        FileNotFoundError: if there is no ``result.json``.
        ValueError: if it is not the result of an audit.
        MissingExtraError: if jinja2 is not installed.
    """
    folder = Path(folder)
    result = read_json(folder / "result.json")
    if not isinstance(result, dict) or result.get("kind") != "audit":
        raise ValueError(f"{folder / 'result.json'} is not an audit")
    facts = Facts(result)
    scorers = [str(name) for name in result["scorers"]]
    communities = facts.rows("communities")
    page = render_page(
        "audit.html",
        facts,
        scorers=scorers,
        pairs=[(i, j) for i in range(len(scorers)) for j in range(i + 1, len(scorers))],
        places=[
            ("overall", _pictures(result["overall"], scorers, "all communities")),
            *(
                (f"communities.{i}", _pictures(place, scorers, str(place["name"])))
                for i, place in enumerate(communities)
            ),
        ],
        num_open=NUM_OPEN_COMMUNITIES,
        provenance=provenance(facts),
    )
    return write_whole(folder / "report.html", page)


def _pictures(place: dict[str, Any], scorers: Sequence[str], where: str) -> list[Picture]:
    """Draw the rank correlations, then what is shared at each sparsity."""
    caption = "Rank correlation (Spearman)."
    pictures = [Picture(heat_map(place["spearman"], scorers, -1), f"{where}: {caption}", caption)]
    for cut in place["at"]:
        for key, what in MEASURES.items():
            caption = f"At {sparsity_label(cut['sparsity'])} removed: {what} (Jaccard)."
            pictures.append(Picture(heat_map(cut[key], scorers), f"{where}: {caption}", caption))
    return pictures


def heat_map(
    values: Sequence[Sequence[float | None]], names: Sequence[str], low: int = 0
) -> Figure:
    """Draw a square of shares (from 0) or of correlations (from -1), a number in each cell.

    Args:
        values: one row per name; None where there is no value.
        names: of rows and columns.
        low: the least value there can be: 0 or -1.

    Returns:
        Data and layout.
    """
    titles = [label(name, 16) for name in names]
    positions = list(range(len(names)))
    ticks = {
        "tickvals": positions,
        "ticktext": titles,
        "tickfont": {"size": 11},
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
    }
    return {
        "data": [
            {
                "type": "heatmap",
                "x": positions,
                "y": positions,
                "z": [list(row) for row in values],
                "text": [["–" if v is None else f"{v:.2f}" for v in row] for row in values],
                "customdata": [[f"{a} and {b}" for b in titles] for a in titles],
                "texttemplate": "%{text}",
                "textfont": {"color": "@ink", "size": 11},
                "hovertemplate": "%{customdata}: %{z:.4f}<extra></extra>",
                "hoverongaps": False,
                "zmin": low,
                "zmax": 1,
                "xgap": 2,
                "ygap": 2,
                "colorscale": DIVERGING_SCALE if low < 0 else SHARE_SCALE,
                "showscale": False,
            }
        ],
        "layout": layout(
            height=110 + 34 * len(names),
            xaxis={**ticks, "tickangle": -30},
            yaxis={**ticks, "autorange": "reversed"},
        ),
    }
