"""The report of a reproduction: what the paper states, what was measured, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from natsel.report.accuracy import accuracy_figures, method_colours
from natsel.report.facts import Facts, as_real
from natsel.report.page import Picture, provenance, read_json, render_page, write_whole
from natsel.report.table import (
    FAMILY_TITLES,
    MethodLine,
    ProtocolTable,
    arrange,
    half_width,
    uncut_row,
)
from natsel_papers.failing import measured


def write_reproduction_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a reproduction's folder, beside the files that it shows.

    Args:
        folder: holds ``table.json`` and, if there is one, ``summary.json``.

    Returns:
        The path of the page: one file that needs no network.

    Raises:
        FileNotFoundError: if there is no ``table.json``.
        ValueError: if it is not a list of rows.
        MissingExtraError: if jinja2 is not installed.
    """
    folder = Path(folder)
    rows = read_json(folder / "table.json")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{folder / 'table.json'} is not a table: expected a list of objects")
    rows = measured(rows)
    has_summary = (folder / "summary.json").is_file()
    summary = read_json(folder / "summary.json") if has_summary else {}
    facts = Facts({"table": rows, "summary": summary if isinstance(summary, dict) else {}})
    tables = arrange(rows)
    page = render_page(
        "reproduction.html",
        facts,
        package="natsel_papers",
        title=str(facts.get("summary.title", "Reproduction")),
        sentences=_texts(facts, "summary.sentences"),
        best=_best(rows, tables),
        tables=tables,
        pictures={t.protocol: _pictures(rows, t) for t in tables},
        family_titles=FAMILY_TITLES,
        uncut=lambda line: _uncut(facts, line),
        half_widths=[half_width(row) for row in rows],
        tests=_tests(facts),
        tested=[i for i, r in enumerate(rows) if as_real(r.get("p_value")) is not None],
        claims=facts.rows("summary.claims"),
        notes=_texts(facts, "summary.notes"),
        provenance=provenance(facts, "summary."),
    )
    return write_whole(folder / "report.html", page)


def _texts(facts: Facts, key: str) -> list[str]:
    texts = facts.get(key, [])
    return [str(t) for t in texts] if isinstance(texts, list) else [str(texts)]


def _uncut(facts: Facts, line: MethodLine) -> Any:
    index = uncut_row(facts.rows("table"), line)
    return facts.number(f"table.{index}.uncut", "percent")


def _tests(facts: Facts) -> str:
    """Name the tests behind the marks as the files name them."""
    named = [facts.get("summary.test"), *(row.get("test") for row in facts.rows("table"))]
    names = list(dict.fromkeys(str(name) for name in named if name))
    return ", ".join(names) or "paired test over the same seeds; the files do not name it"


def _best(rows: list[dict[str, Any]], tables: list[ProtocolTable]) -> list[dict[str, Any]]:
    """For each sparsity of the paper: the paper's rows and the best evolved row of a protocol."""
    found = []
    for table in tables:
        for column, sparsity in enumerate(table.sparsities):
            of = {
                family: [
                    i
                    for line in table.lines
                    if line.family == family
                    for i in line.cells[column]
                    if as_real(rows[i].get("mean")) is not None
                ]
                for family in ("dynamic", "paper")
            }
            if of["dynamic"] and of["paper"]:
                best = max(of["dynamic"], key=lambda i: float(rows[i]["mean"]))
                found.append(
                    {
                        "protocol": table.protocol,
                        "sparsity": sparsity,
                        "row": best,
                        "method": str(rows[best].get("method", "")),
                        "paper": of["paper"],
                    }
                )
    return found


def _pictures(rows: list[dict[str, Any]], table: ProtocolTable) -> list[Picture]:
    chosen = sorted({i for line in table.lines for cell in line.cells for i in cell})
    return [
        Picture(figure, f"Accuracy against sparsity, {table.title}: {caption}", caption)
        for caption, figure in accuracy_figures([rows[i] for i in chosen], method_colours(rows))
    ]
