"""Cells of a study that failed: told in its table, and their seeds left out of its means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from natsel.runs.cells import Failure, listed
from natsel.runs.jobs import ShardDone
from natsel.runs.places import Place

Row = TypeVar("Row", bound=Mapping[str, Any])

FAILED = "failed"
"""The family of a row of ``table.json`` that tells a cell that failed."""


def failed_rows(jobs: Sequence[Any], failed: Sequence[Failure]) -> list[dict[str, Any]]:
    """Return one row for each cell that failed.

    Args:
        jobs: all cells.
        failed: what came of some.
    """
    return [
        {
            "family": FAILED,
            "method": failure.label,
            "sparsity": getattr(jobs[failure.index], "sparsity", None),
            "mean": None,
            "low": None,
            "high": None,
            "n": 0,
            "seed": jobs[failure.index].seed,
            "error": f"{failure.kind}: {failure.told}",
        }
        for failure in failed
    ]


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that hold a figure."""
    return [row for row in rows if row.get("family") != FAILED]


def failed_markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of what failed; none if nothing did."""
    failed = [row for row in rows if row.get("family") == FAILED]
    if not failed:
        return []
    told = [f"| {row['method']} | {row['error'].replace('|', '/')} |" for row in failed]
    return ["", "| cell that failed | error |", "| --- | --- |", *told]


def whole_seeds(seeds: int, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return the seeds none of whose cells failed: paired tests need every cell of a seed."""
    broken = {row["seed"] for row in rows}
    return [seed for seed in range(seeds) if seed not in broken]


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    """Say which cells failed.

    Args:
        rows: of the family ``"failed"``; at least one.
    """
    seeds = sorted({row["seed"] for row in rows})
    first = f"{rows[0]['method']}: {rows[0]['error']}"
    more = listed([row["method"] for row in rows[1:]])
    return (
        f"Cells that failed: {len(rows)} ({first}{'; also ' + more if more else ''}). Left out of "
        f"all means: seed {', '.join(map(str, seeds))}. --resume runs what failed again."
    )


def told_by_shard(done: ShardDone, place: Place) -> dict[str, Any]:
    """Return the summary of a shard, which has no table."""
    failed = [f"{f.label}: {f.kind}: {f.told}" for f in done.failed]
    words = f"Shard {place.shard}: its {done.mine} cells of the round '{done.label}' are "
    words += "run" if not failed else f"run, and {len(failed)} of them failed: {listed(failed)}"
    return {
        "kind": "shard",
        "shard": str(place.shard),
        "round": done.label,
        "cells": done.mine,
        "left": done.left,
        "failed": failed,
        "sentences": [f"{words}. natsel gather joins the folders of all shards."],
    }
