"""``natsel live``: what a language model still knows when its cache is thinned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from natsel.cli.commands import with_examples
from natsel.cli.configs import is_given
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors, parse_names, parse_numbers
from natsel.common.errors import refuse

if TYPE_CHECKING:
    from natsel_bench.live.told import Told


@with_examples(
    "natsel live ./smollm2 --method snapkv --share 0.5 --out runs/live",
    "natsel live ./smollm2 --method newest,snapkv+kernel=7 --out live",
    "natsel live ./smollm2 --question after --documents 40 --out live",
    "natsel live ./smollm2 --audit --method key-norm,h2o --out audit",
)
def live(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder with a language model, or hf:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder for the parts, table.md and result.json.")],
    method: Annotated[
        str,
        typer.Option(
            help="Methods, each with options such as snapkv+kernel=7 or key-diff+heads=true."
        ),
    ] = "newest,key-norm,snapkv,evolution",
    share: Annotated[str, typer.Option(help="Shares of the entries that go.")] = "0.5,0.75",
    tasks: Annotated[
        str, typer.Option(help="needle, keys, copy, variables; text for its perplexity.")
    ] = "needle,keys,copy,text",
    question: Annotated[
        str, typer.Option(help="Asked after the cache is thinned, inside the prompt, or both.")
    ] = "after,inside",
    text: Annotated[
        Path | None, typer.Option(help="Hay, UTF-8; by default tinyshakespeare of NATSEL_DATA.")
    ] = None,
    documents: Annotated[int, typer.Option(help="Cases of each task.")] = 24,
    length: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 256,
    batch: Annotated[int, typer.Option(help="Cases side by side.")] = 8,
    repeats: Annotated[int, typer.Option(help="Rounds of the costs; 0 for none.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the cases.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with the tokenizer, if the model has none.")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Which methods are one? Compare whom they keep.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Thin the cache of a language model: recall, perplexity, memory, time, with intervals."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        shared: dict[str, Any] = {
            "methods": parse_names("method", method),
            "shares": parse_numbers("share", share),
            "text": text,
            "num_documents": documents,
            "length": length,
            "batch": batch,
            "seed": seed,
            "tokenizer": tokenizer,
            "resume": resume,
        }
        found: tuple[Sequence[Told], Sequence[str]]
        if audit:
            from natsel_bench.live.run_audit import audit_sentences, audit_tables, bench_audit

            for name in ("tasks", "question", "repeats"):
                if is_given(context, name):
                    refuse(name, context.params[name], "nothing beside --audit, which asks no task")
            with voice.progress() as progress:
                result = bench_audit(model, out, **shared, progress=progress)
            found = audit_tables(result), audit_sentences(result)
        else:
            from natsel_bench.live.run import bench_live
            from natsel_bench.live.told import sentences, tables

            with voice.progress() as progress:
                result = bench_live(
                    model,
                    out,
                    **shared,
                    tasks=parse_names("tasks", tasks),
                    questions=parse_names("question", question),
                    repeats=repeats,
                    progress=progress,
                )
            found = tables(result), sentences(result)
        for told in found[0]:
            shown = Table(title=told.title)
            for column in told.head:
                shown.add_column(column)
            for row in told.rows:
                shown.add_row(*row)
            voice.words.print(shown)
        for sentence in found[1]:
            voice.words.print(sentence, markup=False)
        voice.words.print(f"Result: {out}", markup=False)
        voice.result(result)
