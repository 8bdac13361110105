"""A plateau study of any model: run the cells, keep every one, write the table and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from natsel.common.errors import refuse
from natsel.common.files import write_json
from natsel.common.progress import Progress, silent
from natsel.communities import discover
from natsel.communities.tensors import tensors_of
from natsel.runs import environment, folder
from natsel.runs.cells import Needs
from natsel.runs.jobs import ShardDone, ready, run_cells
from natsel.runs.joining import begin
from natsel.runs.material import open_for
from natsel.runs.places import Place
from natsel.runs.statistics import holm
from natsel.runs.trained import digest
from natsel_papers.failing import failed_rows, sentence, told_by_shard, whole_seeds
from natsel_papers.plateau_cell import run_cell
from natsel_papers.plateau_claims import Claim, claims
from natsel_papers.plateau_grid import PEER, PLATEAU, PlateauGrid, cells, check_device
from natsel_papers.plateau_table import (
    Outcomes,
    Rows,
    family_of,
    sensitivity,
    spectrum,
    table,
    won_back,
)

TITLE = "The plateau and its spectrum"
REPAIRED = ("adaptive", f"{PLATEAU}, compensated", "adaptive, compensated")


def run_spectrum(
    model: str,
    data: str,
    grid: PlateauGrid,
    out: str | Path,
    *,
    workers: int | None = None,
    place: Place | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[Rows, dict[str, Any]]:
    """Study the plateau of one model: what escapes it, at which complexity, at which sparsity.

    With one model, seeds repeat the splits, the searches and the random features on it.

    Args:
        model: what ``natsel.open_model`` opens.
        data: name of the data set that it is measured on.
        grid: what is compared.
        out: folder for ``table.json``, ``summary.json`` and the cached cells.
        workers: processes side by side; by default one per core.
        place: where cells run, instead of ``workers`` processes of this machine.
        resume: go on with what the folder holds.
        progress: called after every cell.

    Returns:
        The rows of the table, and the summary; of a shard no rows, and what it ran.

    Raises:
        ValueError: if an argument is not allowed.
        RuntimeError: if a cell of every seed failed.
    """
    target = Path(out)
    place = place if place is not None else Place(workers)
    check_device(grid.device, here=place.on is None and not place.gathering)
    config = spectrum_config(model, data, grid)
    with ready(place), folder.claim(target, config, resume):
        opened, splits = open_for(model, data, 0)
        if splits is None or splits.task is not None:
            refuse("data", data, "a data set of images with one class each")
        # Kinds that the model lacks are refused before the folder is taken.
        discover(opened.model, (splits.train[0][:2],)).only(*grid.kinds)
        network = (model, digest(tensors_of(opened.model)))
        begin(target, config, place)
        try:
            rows, summary = study(
                [network],
                data,
                grid,
                target,
                title=TITLE,
                place=place,
                progress=progress,
                more=config,
            )
        except ShardDone as done:
            return [], told_by_shard(done, place)
        write_study(target, rows, summary)
    return rows, summary


def spectrum_config(model: str, data: str, grid: PlateauGrid) -> dict[str, Any]:
    """Return the configuration of :func:`run_spectrum` with the same arguments."""
    return {"kind": "spectrum", "model": model, "data": data, **asdict(grid)}


def write_study(out: Path, rows: Rows, summary: dict[str, Any]) -> None:
    """Write ``table.json`` and ``summary.json``."""
    write_json(out / "table.json", rows)
    write_json(out / "summary.json", summary)


def study(
    networks: Sequence[tuple[str, str] | None],
    data: str,
    grid: PlateauGrid,
    out: Path,
    *,
    title: str,
    place: Place,
    progress: Progress,
    more: dict[str, Any],
    notes: list[str] | None = None,
    failed: Rows = [],  # noqa: B006 (never changed)
) -> tuple[Rows, dict[str, Any]]:
    """Run the cells of some networks and return the rows of the table, and the summary.

    Args:
        networks: see :func:`natsel_papers.plateau_grid.cells`.
        data: name of the data set.
        grid: what is compared.
        out: the study's folder.
        title: of the study.
        place: where cells run.
        progress: called after every cell.
        more: the configuration.
        notes: for the summary.
        failed: rows of what failed before.
    """
    jobs = cells(grid, networks, data)
    gpus = int(grid.device == "cuda")
    ran = run_cells(
        run_cell,
        jobs,
        out / "cells",
        place=on_device(place, grid.device),
        progress=progress,
        label="cells",
        needs=Needs(datasets=(data,), reads="network", gpus=gpus),
    )
    failed = failed + failed_rows(jobs, ran.failed)
    seeds = whole_seeds(grid.seeds, failed)
    if not seeds:
        write_json(out / "table.json", failed)
        raise RuntimeError(f"no seed is whole: {sentence(failed)}")
    found = [r for r in ran.results if r is not None and r["seed"] in seeds]
    outcomes = Outcomes.of(found)
    rows = table(outcomes)
    summary = summarise(outcomes, rows)
    if failed:
        summary["failed"] = failed
        summary["sentences"].append(sentence(failed))
    summary |= {
        "title": title,
        "notes": notes or [],
        "config": more,
        **environment.record(git=True),
        "seconds": {"cells": sum(c["seconds"] for c in found)},
    }
    return rows + failed, summary


def on_device(place: Place, device: str) -> Place:
    """Return a place in which cells of this machine do not share its one GPU."""
    return replace(place, workers=1) if device != "cpu" and place.on is None else place


def summarise(outcomes: Outcomes, rows: Rows) -> dict[str, Any]:
    """Return what a study found, in words and as data."""
    sensitive = sensitivity(outcomes)
    zones = spectrum(rows)
    judged: list[Claim] = claims(outcomes, rows)
    share = {
        name: {f"{s:g}": won_back(outcomes, name, s) for s in outcomes.sparsities}
        for name in (*REPAIRED, *(m for m in outcomes.methods if family_of(m) == "one-shot"))
        if name in outcomes.methods
    }
    return {
        "kind": "plateau study",
        "sentences": _sentences(outcomes, sensitive, zones, rows),
        "sensitivity": sensitive,
        "spectrum": zones,
        "claims": [c._asdict() for c in judged],
        "won_back": share,
        "dense": {f"{s:g}": outcomes.accuracies("dense", s) for s in outcomes.sparsities},
        "adaptive": [
            {
                "seed": c["seed"],
                "sparsity": c["sparsity"],
                **c["methods"]["adaptive"]["adaptive"],
            }
            for c in outcomes.cells
        ],
        "winners": _winners(outcomes),
        "independence": outcomes.cells[0]["independence"],
        "extracted_equals_masked": min(c["extracted_equals_masked"] for c in outcomes.cells),
        "test": rows[-1].get("test", ""),
    }


def against_peers(outcomes: Outcomes) -> list[str]:
    """Compare the adaptive pruner with the best of a peer's importances at each sparsity.

    The best is picked by what it reaches on the held-out samples, which favours the peer.
    """
    peers = [m for m in outcomes.methods if m.startswith(PEER)]
    if not peers:
        return []
    best = {
        s: max(peers, key=lambda m: float(np.mean(outcomes.accuracies(m, s))))
        for s in outcomes.sparsities
    }
    tests = {s: outcomes.compare("adaptive", best[s], s) for s in best}
    values = dict(zip(tests, holm([t.p_value for t in tests.values()]), strict=True))
    return [
        f"S = {s:g}: adaptive against the best of {len(peers)}, {best[s]}: "
        f"{100 * t.difference:+.2f} points ({100 * t.low:+.2f} to {100 * t.high:+.2f}, "
        f"p = {values[s]:.2g})."
        for s, t in tests.items()
    ]


def _winners(outcomes: Outcomes) -> Rows:
    """Return the searched curves: weights, fused complexity, and which ranks survived."""
    held = ("weights", "fused_kappa", "kept_ranks", "curve", "images", "evaluations")
    return [
        {
            "method": name,
            "seed": c["seed"],
            "sparsity": c["sparsity"],
            **{k: m[k] for k in held},
        }
        for c in outcomes.cells
        for name, m in c["methods"].items()
        if "weights" in m
    ]


def _sentences(outcomes: Outcomes, sensitive: dict[str, Any], zones: Rows, rows: Rows) -> list[str]:
    cost = f"{100 * sensitive['cost']:.1f} points at S = {sensitive['sparsity']:g}"
    words = (
        f"Random removal costs {cost}: the network is sensitive, the study can be read."
        if sensitive["sensitive"]
        else f"Random removal costs only {cost} (15 are required): the network is hardly "
        "sensitive, so that little can be read from what follows."
    )
    sentences = [words]
    for zone in zones:
        at = f"S = {zone['sparsity']:g}: plateau {100 * zone['plateau']['mean']:.2f} %"
        if zone["kappa"] is None:
            sentences.append(f"{at}; no feature class escapes it significantly.")
        else:
            sentences.append(
                f"{at}; kappa = {zone['kappa']}: {', '.join(zone['escaping'])} escape it."
            )
    worse = [r for r in rows if r["method"] == "adaptive" and r.get("worse")]
    sentences.append(
        f"The adaptive pruner is significantly worse than the plateau in {len(worse)} of "
        f"{len(zones)} sparsities."
    )
    sentences += against_peers(outcomes)
    for name in REPAIRED:
        if name in outcomes.methods:
            shares = [(s, won_back(outcomes, name, s)) for s in outcomes.sparsities]
            text = ", ".join(f"{v:.0%} at {s:g}" for s, v in shares if v is not None)
            sentences.append(
                f"Share of the plateau's loss that {name} wins back: {text or 'none'}."
            )
    return sentences
