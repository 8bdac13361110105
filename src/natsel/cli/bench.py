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
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 128,
    repeats: Annotated[int, typer.Option(help="Pairs of blocks of 5 steps.")] = 60,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves them.")] = 0,
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
                dynamics=dynamics, batch_size=batch_size, repeats=repeats, progress=progress
            )
        table = Table(title=f"One step of {result['network']}, batch {batch_size}")
        for column in ("dynamics", "optimizer", "every", "time", "quartiles", "memory", "plain"):
            table.add_column(
                column, justify="left" if column in ("dynamics", "optimizer") else "right"
            )
        for row in result["rows"]:
            table.add_row(
                row["dynamics"],
                row["optimizer"],
                str(row["every"]),
                f"{row['ratio']:.3f}",
                f"{row['quartile_low']:.3f} to {row['quartile_high']:.3f}",
                f"{row['memory_ratio']:.3f}",
                f"{row['plain_ms']:.2f} ms",
            )
        voice.words.print(table)
        voice.words.print("Ratios to the plain step: medians of interleaved blocks, same process.")
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


@app.command("score")
def score(
    repeats: Annotated[int, typer.Option(help="Pairs of a score and the bare passes.")] = 9,
    batches: Annotated[int, typer.Option(help="Batches that a score reads.")] = 16,
    quick: Annotated[bool, typer.Option(help="Only that the scores are right.")] = False,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A data-aware score against the bare passes over the same batches: time and peak memory."""
    voice = Voice(quiet, as_json)
    with clear_errors():
        from natsel.study.bench_score import bench_score

        with voice.progress() as progress:
            result = bench_score(repeats=repeats, batches=batches, quick=quick, progress=progress)
        shown = Table(title="natsel.score against the bare passes over the same batches")
        for column in ("network", "scorer", "time", "quartiles", "bare", "extra memory"):
            shown.add_column(column, justify="left" if column in ("network", "scorer") else "right")
        for row in result["rows"]:
            shown.add_row(
                row["network"],
                row["scorer"],
                f"{row['ratio']:.3f}",
                f"{row['quartile_low']:.3f} to {row['quartile_high']:.3f}",
                f"{row['plain_ms']:.1f} ms",
                f"{row['extra_bytes'] / 2**20:+.1f} MiB",
            )
        voice.words.print(shown)
        voice.words.print("Every score equals the one by brute force on a batch. Processor time.")
        voice.result(result)


@app.command("extract")
def extract(
    repeats: Annotated[int, typer.Option(help="Passes of each model, in turn.")] = 60,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also with torch.compile.")
    ] = True,
    quick: Annotated[bool, typer.Option(help="Only that extracted = masked.")] = False,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Extracted models beside dense ones, sparse layers, and how long extraction takes."""
    voice = Voice(quiet, as_json)
    with clear_errors():
        from natsel.study.bench_extract import bench_extract

        with voice.progress() as progress:
            result = bench_extract(
                repeats=repeats, compiled=compiled, quick=quick, progress=progress
            )
        shown = Table(title="Half of the MACs removed: time relative to the dense network")
        for column in ("network", "mode", "batch", "MACs", "time", "quartiles", "dense", "verdict"):
            left = column in ("network", "mode", "verdict")
            shown.add_column(column, justify="left" if left else "right")
        for row in result["latency"]:
            head = (row["network"], row["mode"], str(row["batch_size"]), f"{row['macs_ratio']:.3f}")
            if row["missing"]:
                shown.add_row(*head, "", "", "", row["missing"])
                continue
            shown.add_row(
                *head,
                f"{row['ratio']:.3f}",
                f"{row['quartile_low']:.3f} to {row['quartile_high']:.3f}",
                f"{row['dense_ms']:.3g} ms",
                row["verdict"],
            )
        voice.words.print(shown)
        for row in result["csr"]:
            voice.words.print(
                f"csr: {row['size']}x{row['size']} at batch {row['batch_size']}, "
                f"{row['sparsity']:.0%} removed: {row['ratio']:.3f} of the dense time "
                f"({row['quartile_low']:.3f} to {row['quartile_high']:.3f})",
                markup=False,
            )
        for row in result["depth"]:
            voice.words.print(
                f"{row['network']}, {row['parameters']:,} parameters: discovery and extraction "
                f"{row['seconds']:.2f} s ({row['low']:.2f} to {row['high']:.2f}; "
                f"to be reached: {row['limit']:.0f} s), "
                f"{row['seconds'] / row['layers']:.3f} s a layer",
                markup=False,
            )
        voice.words.print("Every small model equals the masked one. Processor time, one thread.")
        voice.result(result)
