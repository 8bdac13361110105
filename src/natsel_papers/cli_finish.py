"""How a study ends on the command line: its tables and pages, and what it found, in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from natsel.cli.console import FAILED, Voice, one_line

Rows = list[dict[str, Any]]


def finish_evolution(voice: Voice, rows: Rows, summary: dict[str, Any], out: Path) -> None:
    """Write table and report of the reproduction of the evolution, and say what it found."""
    from natsel.common.files import write_atomic
    from natsel.report import to_markdown
    from natsel_papers.failing import failed_markdown, measured
    from natsel_papers.report_reproduction import write_reproduction_report

    page = None
    if rows:
        text = "\n".join([to_markdown(measured(rows)), *failed_markdown(rows)])
        write_atomic(out / "table.md", (text + "\n").encode())
        page = write_reproduction_report(out)
    verdicts = [
        f"{claim['claim']}: {claim['value']:.2%} ({claim['verdict']})"
        for claim in summary.get("claims", [])
    ]
    _finish(voice, summary, verdicts, out, page)


def finish_plateau(voice: Voice, rows: Rows, summary: dict[str, Any], out: Path) -> None:
    """Write table and report of a plateau study, and say what it found."""
    from natsel.common.files import write_atomic
    from natsel_papers.report_plateau import plateau_markdown, write_plateau_report

    page = None
    if rows:
        write_atomic(out / "table.md", (plateau_markdown(rows, summary) + "\n").encode())
        page = write_plateau_report(out)
    verdicts = [f"{claim['claim']}: {claim['verdict']}" for claim in summary.get("claims", [])]
    _finish(voice, summary, verdicts, out, page)


def _finish(
    voice: Voice, summary: dict[str, Any], verdicts: list[str], out: Path, page: Path | None
) -> None:
    """Say what a study or a shard of it found; exit 1 if a cell failed."""
    for line in (*summary["sentences"], *verdicts):
        voice.words.print(line, markup=False)
    if page is not None:
        voice.words.print(f"Table: {out / 'table.md'}   Report: {page}", markup=False)
    voice.result(summary)
    if summary.get("failed"):
        told = f"{len(summary['failed'])} cells failed; --resume runs them again"
        print(f"natsel: {one_line(told)}", file=sys.stderr)
        raise typer.Exit(FAILED)
