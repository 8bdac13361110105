"""``natsel live``: what a language model still knows when its cache is thinned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from natsel.cli.commands import with_examples
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors, parse_names, parse_numbers


@with_examples(
    "natsel live ./smollm2 --method snapkv --share 0.5 --out runs/live",
    "natsel live ./smollm2 --method newest,snapkv+kernel=7 --out live",
    "natsel live ./smollm2 --question after --documents 40 --out live",
)
def live(
    model: Annotated[str, typer.Argument(help="A folder with a language model, or hf:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder for the parts, table.md and result.json.")],
    method: Annotated[
        str, typer.Option(help="Methods, each with options such as snapkv+kernel=7+scope=layer.")
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
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Thin the cache of a language model: recall, perplexity, memory, time, with intervals."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.live.run import bench_live
        from natsel_bench.live.told import sentences, tables

        with voice.progress() as progress:
            result = bench_live(
                model,
                out,
                methods=parse_names("method", method),
                shares=parse_numbers("share", share),
                tasks=parse_names("tasks", tasks),
                questions=parse_names("question", question),
                text=text,
                num_documents=documents,
                length=length,
                batch=batch,
                repeats=repeats,
                seed=seed,
                tokenizer=tokenizer,
                resume=resume,
                progress=progress,
            )
        for told in tables(result):
            shown = Table(title=told.title)
            for column in told.head:
                shown.add_column(column)
            for row in told.rows:
                shown.add_row(*row)
            voice.words.print(shown)
        for sentence in sentences(result):
            voice.words.print(sentence, markup=False)
        voice.words.print(f"Result: {out}", markup=False)
        voice.result(result)
