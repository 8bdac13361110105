"""``natsel audit``: is a criterion another one? By order and by survivors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from natsel.cli.commands import with_examples
from natsel.cli.configs import (
    Keys,
    joined,
    option,
    same,
    say_what_wins,
    several,
    truth,
    whole,
    word,
)
from natsel.cli.console import (
    Quiet,
    Verbose,
    Voice,
    clear_errors,
    need_report,
    parse_names,
    parse_numbers,
)

KEYS = Keys(
    "audit",
    {
        **same(word, "model", "data"),
        **same(truth, "residual"),
        **same(whole, "seed"),
        **same(joined, "scorers"),
        **same(several, "include", "exclude"),
        "sparsities": ("sparsity", joined),
    },
)


@with_examples(
    "natsel audit mlp --scorers l1,l2",
    "natsel audit run --scorers taylor,wanda --data digits --out audit",
    "natsel audit --config audit/result.json --sparsity 0.9 --out again",
)
def audit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A reference network, a folder, or hf:NAME.")],
    scorers: Annotated[str, typer.Option(help="Two scorers or more, separated by commas.")],
    sparsity: Annotated[
        str, typer.Option(help="Where to compare survivors, ascending.")
    ] = "0.5,0.7",
    data: Annotated[
        str | None, typer.Option(help="A data set or a text, for scorers that read one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for result.json and report.html.")
    ] = None,
    config: Annotated[Path | None, option(KEYS)] = None,
    include: Annotated[list[str] | None, typer.Option(help="Pattern of names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of names.")] = None,
    residual: Annotated[bool, typer.Option(help="Widths under a normalisation, too.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say which scorers are one criterion, and how far apart the others select."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel.runs.audit_model import AuditConfig, audit_model

        say_what_wins(context, voice)
        audit_config = AuditConfig(
            model=model,
            scorers=parse_names("scorers", scorers),
            sparsities=parse_numbers("sparsity", sparsity),
            data=data,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            residual=residual,
            seed=seed,
        )
        if out is not None:
            need_report()
        with voice.progress() as progress:
            result = audit_model(audit_config, out, progress=progress)
        page = _report(out) if out is not None else None
        voice.words.print(result["model"], markup=False)
        for sentence in result["sentences"]:
            voice.words.print(sentence, markup=False)
        voice.words.print(_table(result))
        if page is not None:
            voice.words.print(f"Audit: {out}   Report: {page}", markup=False)
        voice.result(result)


def _report(out: Path) -> Path:
    from natsel.report import write_audit_report

    return write_audit_report(out)


def _table(result: dict[str, Any]) -> Table:
    overall = result["overall"]
    num, size = len(result["communities"]), overall["size"]
    title = f"{num} communit{'ies' if num > 1 else 'y'}, {size} populations"
    table = Table(title=title, title_justify="left")
    for column in ("scorer", "and", "order"):
        table.add_column(column, overflow="fold")
    table.add_column("rank correlation", justify="right")
    for cut in overall["at"]:
        for what in ("survivors", "removed"):
            table.add_column(f"{what} shared at {cut['sparsity']:.4g}", justify="right")
    names = result["scorers"]
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], i + 1):
            correlation = overall["spearman"][i][j]
            shares = [
                f"{cut[key][i][j]:.3f}"
                for cut in overall["at"]
                for key in ("jaccard_survivors", "jaccard_removed")
            ]
            shown = "-" if correlation is None else f"{correlation:.3f}"
            table.add_row(first, second, _relation(result, first, second), shown, *shares)
    table.caption = "Shared: what both have of what either has (Jaccard)."
    table.caption_justify = "left"
    return table


def _relation(result: dict[str, Any], first: str, second: str) -> str:
    """Name what is proved of the orders of two scorers."""
    if any(first in members and second in members for members in result["classes"]):
        return "the same"
    if any({first, second} == set(pair["scorers"]) for pair in result["up_to_ties"]):
        return "up to ties"
    if any({first, second} == set(pair) for pair in result["reversed"]):
        return "upside down"
    return "another"
