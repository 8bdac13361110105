"""``natsel evaluate``: what a model is worth on data, alone or beside another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from natsel.cli.commands import with_examples
from natsel.cli.configs import Keys, option, same, say_what_wins, whole, word
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors

KEYS = Keys(
    "evaluate",
    {
        **same(word, "model", "data", "against", "tokenizer"),
        **same(whole, "length", "samples", "seed"),
    },
)


@with_examples(
    "natsel evaluate small --against ./smollm2 --data evaluation.txt",
    "natsel evaluate ./smollm2 --data evaluation.txt --samples 64 --json",
    "natsel evaluate run --data digits",
)
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder, hf:NAME, or module:name.")],
    data: Annotated[
        str,
        typer.Option(help="A .txt, .jsonl or .parquet file, a set, hub:NAME or module:name."),
    ],
    against: Annotated[
        str | None, typer.Option(help="A model to compare with, such as the dense one.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with the tokenizer, if the model has none.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in a window of a text.")] = 512,
    samples: Annotated[int, typer.Option(help="Windows of the text, spread over it.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Folder for result.json.")] = None,
    config: Annotated[Path | None, option(KEYS)] = None,
    seed: Annotated[int, typer.Option(help="Of a reference network's weights.")] = 0,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say a model's perplexity or accuracy with its interval; of two models, also paired."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel.runs.evaluate import EvaluateConfig
        from natsel.runs.evaluate import evaluate as run

        say_what_wins(context, voice)
        evaluate_config = EvaluateConfig(
            model=model,
            data=data,
            against=against,
            tokenizer=tokenizer,
            length=length,
            samples=samples,
            seed=seed,
        )
        with voice.progress() as progress:
            result = run(evaluate_config, out, progress=progress)
        voice.words.print(result["model"], markup=False)
        if result["against"] is not None:
            voice.words.print(f"against {result['against']}", markup=False)
        voice.words.print(result["summary"], markup=False)
        if out is not None:
            voice.words.print(f"Result: {out}", markup=False)
        voice.result(result)
