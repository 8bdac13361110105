"""The tables of a run, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from natsel_bench.live.rows import READ_FROM

LEAST_P = 0.001


class Told(NamedTuple):
    """A table with its title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(result: Mapping[str, Any]) -> list[Told]:
    """Return the tables of a result: recall by task, over all tasks, and the rest."""
    found = []
    for question in result["config"]["questions"]:
        asked = [row for row in result["recall"] if row["question"] == question]
        tasks = list(dict.fromkeys(row["task"] for row in asked))
        if not tasks:
            continue
        over = [row for row in result["over_tasks"] if row["question"] == question]
        title = {"after": "asked after the cache was thinned", "inside": "asked in the prompt"}
        whole = ", ".join(f"{task} {result['full'][task]:.2f}" for task in tasks)
        head = ["method", "evicted", *tasks, "all", *_baselines(over)]
        lines = [
            [row["method"], f"{row['share']:.0%}", *_cells(asked, tasks, row), *_over(row, over)]
            for row in over
        ]
        found.append(Told(f"Recall, {title[question]} (whole cache: {whole})", head, lines))
    head = ["method", "evicted", "perplexity", "ratio", "bytes", "prompt", "token"]
    costs = result["costs"] or {}
    worth = {f"{row['method']} {row['share']:g}": row for row in result["perplexity"]}
    lines = []
    for name in dict.fromkeys([*worth, *(name for name in costs if name != "full")]):
        method, _, share = name.rpartition(" ")
        row = worth.get(name)
        cells = _worth(row) if row is not None else ["", ""]
        lines.append([method, f"{float(share):.0%}", *cells, *_cost(costs, name)])
    whole = f" (whole cache: {result['perplexity'][0]['full']:.1f})" if worth else ""
    if lines:
        found.append(Told(f"Perplexity of what follows{whole}, and costs", head, lines))
    return [*found, *_plateau(result["plateau"])]


def _plateau(rows: Sequence[Mapping[str, Any]]) -> list[Told]:
    """Return features of the rank beside the score itself, a table for each measure."""
    found = []
    titles = {"after": "recall, asked after", "inside": "recall, asked in the prompt"}
    titles["text"] = "perplexity of what follows"
    for measure in dict.fromkeys(row["measure"] for row in rows):
        change = "ratio" if measure == "text" else "difference"
        form = "{:.2f}" if change == "ratio" else "{:+.2f}"
        digits = "{:.1f}" if change == "ratio" else "{:.2f}"
        lines = [
            [
                *(row["method"], str(row["kappa"]), f"{row['share']:.0%}"),
                *(digits.format(row[name]) for name in ("plain", "mean")),
                "{} ({} to {})".format(*(form.format(row[k]) for k in (change, "low", "high"))),
                *(_p(row["p_holm"]), row["verdict"]),
            ]
            for row in rows
            if row["measure"] == measure
        ]
        head = ["method", "kappa", "evicted", "score", "feature", change, "p (Holm)", "plateau"]
        found.append(Told(f"Features of the rank: {titles[measure]}", head, lines))
    return found


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Return what was not read, and why."""
    return [
        f"{task}: not read, the whole cache reaches {result['full'][task]:.2f} of {READ_FROM:.2f}"
        for task in result["not_read"]
    ]


def markdown(found: Sequence[Told], words: Sequence[str]) -> str:
    """Return tables, and sentences below them, as a page."""
    lines = []
    for told in found:
        lines += [f"**{told.title}**", "", _line(told.head), _line(["---"] * len(told.head))]
        lines += [*map(_line, told.rows), ""]
    return "\n".join([*lines, *words]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _baselines(over: Sequence[Mapping[str, Any]]) -> list[str]:
    methods = {row["method"] for row in over}
    return [f"p {name}" for name in ("newest", "key-norm", "snapkv") if name in methods]


def _cells(
    asked: Sequence[Mapping[str, Any]], tasks: Sequence[str], of: Mapping[str, Any]
) -> list[str]:
    by_task = {
        row["task"]: row for row in asked if all(row[k] == of[k] for k in ("method", "share"))
    }
    return [_mean(by_task[task]) for task in tasks]


def _mean(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _over(row: Mapping[str, Any], over: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [_mean(row)]
    for title in _baselines(over):
        pair = row["pairs"].get(title.removeprefix("p "))
        if pair is None:
            cells.append("")
            continue
        p = pair["p_value"]
        sign = "+" if pair["difference"] > 0 else "-" if pair["difference"] < 0 else "="
        cells.append(f"{sign} {_p(p)}")
    return cells


def _p(value: float) -> str:
    return f"<{LEAST_P}" if value < LEAST_P else f"{value:.3f}"


def _worth(row: Mapping[str, Any]) -> list[str]:
    ratio = f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
    return [f"{row['mean']:.1f} ({row['low']:.1f} to {row['high']:.1f})", ratio]


def _cost(costs: Mapping[str, Any], name: str) -> list[str]:
    if name not in costs:
        return ["", "", ""]
    own = costs[name]
    return [
        f"{own['bytes_share']:.3f}",
        *(f"{own[f'{what}_ratio']['median']:.3f}" for what in ("prompt", "token")),
    ]
