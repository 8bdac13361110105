"""The report of one run: what was removed, how it died out, what it cost and what it bought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from natsel.common.tensorfiles import read_tensors
from natsel.report.accuracy import accuracy_figures, method_colours
from natsel.report.comparison import batch_order, compare_latency, intervals_overlap
from natsel.report.facts import Facts, as_real
from natsel.report.figures import (
    Row,
    histogram_figure,
    living_figure,
    trajectory_figure,
)
from natsel.report.formats import plural
from natsel.report.page import Picture, provenance, read_json, render_page, write_whole
from natsel.report.trajectories import (
    DEFAULT_LEVEL,
    Trajectories,
    read_trajectories,
    sample_lines,
    shares,
)

NUM_OPEN_COMMUNITIES = 12


def write_run_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run's folder, beside the files that it shows.

    Args:
        folder: holds ``result.json`` and, if masses were recorded, ``masses.safetensors``. A key
            that is missing there leaves out what would show it.

    Returns:
        The path of the page: one file that needs no network.

    Raises:
        FileNotFoundError: if there is no ``result.json``.
        ValueError: if it is not a JSON object.
        MissingExtraError: if jinja2 is not installed.
    """
    folder = Path(folder)
    result = read_json(folder / "result.json")
    if not isinstance(result, dict):
        raise ValueError(f"{folder / 'result.json'} is not a run: expected a JSON object")
    facts = Facts(result)
    level = facts.real("config.extinction_level") or DEFAULT_LEVEL
    masses = folder / "masses.safetensors"
    # Numpy knows no bfloat16: float64 holds every mass exactly.
    tensors = read_tensors(masses) if masses.is_file() else {}
    arrays = {k: (t.double() if t.is_floating_point() else t).numpy() for k, t in tensors.items()}
    trajectories = read_trajectories(arrays, level)
    communities = facts.rows("communities")
    page = render_page(
        "run.html",
        facts,
        noun=plural({str(c.get("kind", "")) for c in communities}),
        removed=_removed(facts),
        ratios={k: _ratio(facts, k) for k in ("parameters", "macs")},
        overlap=intervals_overlap(facts.get("dense"), facts.get("extracted")),
        latency=compare_latency(facts.get("dense.latency"), facts.get("extracted.latency")),
        networks=_networks(facts),
        measures=_measures(facts),
        evolutions=[_evolution(t, level, *shares(len(trajectories))) for t in trajectories],
        num_open=NUM_OPEN_COMMUNITIES,
        pictures=_accuracy_pictures(facts),
        provenance=provenance(facts),
    )
    return write_whole(folder / "report.html", page)


def _removed(facts: Facts) -> list[dict[str, Any]]:
    """The communities in the file's order, each with its shares for the bar."""
    listed = []
    for index, community in enumerate(facts.rows("communities")):
        size = as_real(community.get("size")) or 0.0
        extinct = as_real(community.get("extinct"))
        known = size > 0 and extinct is not None
        listed.append(
            {
                "key": f"communities.{index}",
                "name": str(community.get("name", "")),
                "kind": str(community.get("kind", "")),
                "share": extinct / size if known and extinct is not None else None,
            }
        )
    return listed


def _ratio(facts: Facts, measure: str) -> float | None:
    dense, small = facts.real(f"dense.{measure}"), facts.real(f"extracted.{measure}")
    return dense / small if dense and small else None


def _networks(facts: Facts) -> list[tuple[str, str]]:
    titles = {
        "dense": "dense, trained without evolution",
        "evolved": "evolved, uncut",
        "extracted": "evolved, extinct removed",
    }
    return [(k, t) for k, t in titles.items() if isinstance(facts.get(k), dict)]


def _measures(facts: Facts) -> list[dict[str, Any]]:
    """What was measured of the networks: a title and one cell per network, each with its bar."""
    names = [name for name, _ in _networks(facts)]
    latencies = [facts.get(f"{name}.latency", {}) for name in names]
    batches = {b for latency in latencies if isinstance(latency, dict) for b in latency}
    rows = [
        ("accuracy", "percent", "accuracy", "low", "high", False),
        ("perplexity", "significant", "perplexity", "", "", False),
        ("test samples", "count", "n", "", "", False),
        ("parameters", "count", "parameters", "", "", True),
        ("multiply-accumulates", "count", "macs", "", "", True),
    ]
    for batch in sorted(batches, key=batch_order):
        ends = [f"latency.{batch}.{end}_ms" for end in ("median", "low", "high")]
        rows.append((f"latency, batch {batch}", "ms", ends[0], ends[1], ends[2], True))
    measures = []
    for title, style, middle, low, high, has_bar in rows:
        values = [facts.real(f"{name}.{middle}") for name in names]
        longest = max((v for v in values if v is not None), default=None)
        if longest is None:
            continue
        cells = [
            {
                "key": f"{name}.{middle}",
                "low": f"{name}.{low}",
                "high": f"{name}.{high}",
                "small": name == "extracted",
                "width": 100 * value / longest
                if has_bar and value is not None and longest > 0
                else None,
            }
            for name, value in zip(names, values, strict=True)
        ]
        measures.append({"title": title, "style": style, "cells": cells})
    return measures


def _evolution(
    trajectories: Trajectories, level: float, num_lines: int, num_points: int
) -> dict[str, Any]:
    size = len(trajectories.alive)
    num_drawn = len(sample_lines(trajectories, num_lines))
    lines = (
        f"One line for each of the {size} populations."
        if num_drawn == size
        else f"{num_drawn} of the {size} populations, taken evenly over the rank of their final "
        "mass, with every fate among them."
    )
    return {
        "name": trajectories.name,
        "size": size,
        "extinct": trajectories.num_extinct,
        "lines": Picture(
            trajectory_figure(trajectories, num_lines=num_lines, num_points=num_points),
            f"Mass of the populations of {trajectories.name} over training steps",
            f"{lines} A population's time of death is the first record from which its mass "
            f"stayed under {level:g}.",
        ),
        "living": Picture(
            living_figure(trajectories, num_points=num_points),
            f"Number of living populations of {trajectories.name} over training steps",
        ),
        "histogram": Picture(
            histogram_figure(trajectories),
            f"Masses of {trajectories.name} at the end, counts on a logarithmic axis",
        ),
    }


def _accuracy_pictures(facts: Facts) -> list[Picture]:
    own: Row | None = {
        "sparsity": facts.real("extinct.share"),
        "mean": facts.real("extracted.accuracy"),
        "low": facts.real("extracted.low"),
        "high": facts.real("extracted.high"),
    }
    if own is not None and (own["sparsity"] is None or own["mean"] is None):
        own = None
    rows = facts.rows("table")
    figures = accuracy_figures(rows, method_colours(rows), own, facts.real("dense.accuracy"))
    return [
        Picture(figure, "Accuracy against sparsity: " + caption, caption)
        for caption, figure in figures
    ]
