"""``natsel bench``: costs as ratios, measured side by side in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from natsel.cli.console import Voice, clear_errors
from natsel.common.errors import refuse

app = typer.Typer(help="Measure costs as ratios.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Measure costs as ratios, side by side in one process."""


@app.command("step")
def step(
    dynamics: Annotated[str, typer.Option(help="A law, or all.")] = "logistic",
    network: Annotated[str, typer.Option(help="mlp, vit or all.")] = "mlp",
    compiled: Annotated[bool, typer.Option(help="Measure the compiled model too.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step; by default 128 (mlp) or 32 (vit).")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Blocks of 10 steps of each.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves them.")] = 0,
    quick: Annotated[bool, typer.Option(help="See that it works; times mean nothing.")] = False,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A training step with evolution against the same step without: time and peak memory."""
    voice = Voice(quiet, as_json)
    with clear_errors():
        import torch

        from natsel.study.bench_step import bench_step

        if threads < 0:
            refuse("threads", threads, "a whole number >= 0")
        if threads > 0:
            torch.set_num_threads(threads)
        with voice.progress() as progress:
            result = bench_step(
                dynamics=dynamics,
                network=network,
                compiled=compiled,
                batch_size=batch_size,
                repeats=repeats,
                quick=quick,
                progress=progress,
            )
        table = Table(title=f"One training step of {result['network']}")
        words = ("network", "dynamics", "optimizer", "model")
        for column in (*words, "every", "time", "quartiles", "memory", "plain"):
            table.add_column(column, justify="left" if column in words else "right")
        for row in result["rows"]:
            table.add_row(
                f"{row['network']}, batch {row['batch_size']}",
                row["dynamics"],
                row["optimizer"],
                "compiled" if row["compiled"] else "eager",
                str(row["every"]),
                f"{row['ratio']:.3f}",
                f"{row['quartile_low']:.3f} to {row['quartile_high']:.3f}",
                f"{row['memory_ratio']:.3f}",
                f"{row['plain_ms']:.2f} ms",
            )
        voice.words.print(table)
        if result["compile_error"]:
            voice.words.print(result["compile_error"], markup=False)
        if quick:
            voice.words.print("Quick: it works; too few steps for these times to mean anything.")
        else:
            voice.words.print(
                "Ratios of processor time to the plain step: medians of interleaved blocks, "
                "same process."
            )
        voice.result(result)


@app.command("peers")
def peers(
    out: Annotated[Path, typer.Option(help="Folder for peers.json, peers.md and the cases.")],
    tools: Annotated[
        list[str] | None, typer.Option("--tool", help="A tool to run, or several; default all.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Four networks, and no large one.")] = False,
    limit: Annotated[float, typer.Option(help="Processor seconds before a case is killed.")] = 60.0,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """natsel beside torch-pruning and torch-kirigami: does it work, is it exact, how long."""
    voice = Voice(quiet, as_json)
    with clear_errors():
        from natsel.study.bench_peers import bench_peers
        from natsel.study.peers.words import table

        with voice.progress() as progress:
            result = bench_peers(
                out, tools=tools or (), quick=quick, limit=limit, resume=resume, progress=progress
            )
        head, body = table(result["rows"])
        shown = Table(title="Half of every structure removed, nothing configured but the hints")
        for column in head:
            shown.add_column(column)
        for line in body:
            shown.add_row(*line)
        voice.words.print(shown)
        for sentence in result["sentences"]:
            voice.words.print(sentence)
        for row in result["times"]:
            seconds = f"{row['seconds']:.2f} s" if row["outcome"] == "ran" else row["outcome"]
            voice.words.print(f"{result['large']}, {row['tool']}: {seconds}")
        voice.words.print(f"Page: {out / 'peers.md'}")
        voice.result(result)


@app.command("search")
def search(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or hf:NAME.")],
    data: Annotated[str, typer.Option(help="A data set of images.")],
    sparsity: Annotated[float, typer.Option(help="Share of the neurons that goes.")] = 0.7,
    images: Annotated[int, typer.Option(help="Samples that are searched on.")] = 2000,
    population: Annotated[int, typer.Option(help="Candidates in a generation.")] = 16,
    repeats: Annotated[int, typer.Option(help="Generations.")] = 3,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Candidates per second of a search, against the loop that copies, masks and runs all."""
    voice = Voice(quiet, as_json)
    with clear_errors():
        from natsel.study.bench_search import bench_search

        with voice.progress() as progress:
            result = bench_search(
                model,
                data,
                sparsity=sparsity,
                images=images,
                population=population,
                repeats=repeats,
                progress=progress,
            )
        voice.words.print(
            f"{result['race_per_second']:.2f} candidates per second against "
            f"{result['plain_per_second']:.2f} of the plain loop: {result['ratio']:.1f} times "
            f"({result['ratio_low']:.1f} to {result['ratio_high']:.1f}); the winner is at most "
            f"{100 * result['behind']:.2f} points behind the plain loop's.",
            markup=False,
        )
        voice.result(result)
