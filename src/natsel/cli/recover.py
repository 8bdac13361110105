"""``natsel recover``: a pruned model learns from the dense one what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from natsel.cli.commands import with_examples
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors


@with_examples(
    "natsel recover small --teacher ./dense --data a.txt --out recovered",
    "natsel recover small --teacher ./dense --data a.txt --control --out both",
    "natsel recover small --teacher run --data digits --out recovered",
)
def recover(
    small: Annotated[str, typer.Argument(help="Folder of the small model.")],
    teacher: Annotated[str, typer.Option(help="The dense model: a folder, or hf:NAME.")],
    data: Annotated[
        str,
        typer.Option(help="A .txt, .jsonl or .parquet file, a named set, hub:NAME, module:name."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the recovered model.")],
    held_out: Annotated[
        str | None, typer.Option(help="Another text, to measure the perplexity on.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="At most so many, in whole windows; all by default."),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in a window of a text.")] = 512,
    samples: Annotated[
        int, typer.Option(help="Windows of the held-out text, spread over it.")
    ] = 16,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with the tokenizer, if the models have none.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Windows, or images, of a step; one window of 512 tokens by default."),
    ] = None,
    lr: Annotated[float, typer.Option(help="Highest learning rate, of AdamW.")] = 3e-4,
    kl: Annotated[float, typer.Option(help="Weight of the teacher's distribution.")] = 1.0,
    cross_entropy: Annotated[float, typer.Option(help="Weight of the labels.")] = 0.0,
    blocks: Annotated[float, typer.Option(help="Weight of the block outputs.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="At which both are compared.")] = 1.0,
    lora: Annotated[
        int | None, typer.Option(help="Train adapters of this rank, and merge them (natsel[lora]).")
    ] = None,
    keep_zeros: Annotated[
        bool | None,
        typer.Option(
            "--keep-zeros/--fill-zeros",
            help="Whether weights that are zero stay it; decided by how many there are.",
            show_default=False,
        ),
    ] = None,
    autocast: Annotated[str | None, typer.Option(help="bfloat16 or float16.")] = None,
    control: Annotated[
        bool, typer.Option(help="Train the same shape from scratch in the same way, too.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let a small model learn from the dense one what pruning cost it, and save it."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel.runs.recover import RecoverConfig
        from natsel.runs.recover import recover as run

        config = RecoverConfig(
            small=small,
            teacher=teacher,
            data=data,
            held_out=held_out,
            tokens=tokens,
            length=length,
            samples=samples,
            tokenizer=tokenizer,
            batch=batch,
            learning_rate=lr,
            kl=kl,
            cross_entropy=cross_entropy,
            blocks=blocks,
            temperature=temperature,
            lora=lora,
            keep_zeros=keep_zeros,
            autocast=autocast,
            control=control,
            device=device,
            seed=seed,
        )
        with voice.progress() as progress:
            result = run(config, out, resume=resume, progress=progress)
        _tell(voice, result)
        voice.result(result)


def _tell(voice: Voice, result: dict[str, Any]) -> None:
    words = [result["model"], f"Teacher: {result['teacher']}"]
    found = result["quality"]
    if found is not None:
        words.append(found["summary"])
        for name in ("teacher", "control"):
            if (each := found[name]) is not None:
                ends = f"{each['low']:.4g} to {each['high']:.4g}"
                words.append(f"{name}: {found['measure']} {each['mean']:.4g} ({ends})")
    words += result["summary"].splitlines()
    words += [note for note in result["notes"] if note not in words]
    words.append(f"Saved: {result['out']}")
    for line in words:
        voice.words.print(line, markup=False)
