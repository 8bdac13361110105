"""``natsel spectrum``: plateau, escape and complexity by sparsity, of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from natsel.cli.commands import with_examples
from natsel.cli.configs import (
    Keys,
    joined,
    option,
    same,
    say_what_wins,
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
from natsel.cli.places import After, On, ShardOf, Workers, place_here
from natsel_papers.cli_finish import finish_plateau

KEYS = Keys(
    "spectrum",
    {
        **same(word, "model", "data", "optimizer", "device"),
        **same(whole, "seeds", "generations", "population"),
        **same(whole, "search_images", "held_images", "adaptive_images"),
        **same(truth, "compensate", "peers"),
        **same(joined, "classes", "kinds"),
        "sparsities": ("sparsity", joined),
    },
)


@with_examples(
    "natsel spectrum run --data digits --out spectrum",
    "natsel spectrum run --data digits --sparsity 0.5,0.7 --seeds 2 --out quick",
    "natsel spectrum --config spectrum/config.json --optimizer cma --out cma",
)
def spectrum(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A trained model's folder, or hf:NAME.")],
    data: Annotated[str, typer.Option(help="A data set of images.")],
    out: Annotated[Path, typer.Option(help="Folder for cells, tables and report.")],
    sparsity: Annotated[str, typer.Option(help="Shares that go, rising.")] = "0.5,0.6,0.7,0.8",
    classes: Annotated[str | None, typer.Option(help="Feature classes; by default nine.")] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions of splits and searches.")] = 3,
    kinds: Annotated[str, typer.Option(help="Kinds of communities that are cut.")] = "neuron",
    optimizer: Annotated[str, typer.Option(help="dbo, cma or random.")] = "dbo",
    generations: Annotated[int, typer.Option(help="Rounds of a search.")] = 5,
    population: Annotated[int, typer.Option(help="Candidates a round.")] = 8,
    search_images: Annotated[int, typer.Option(help="Samples that are searched on.")] = 2000,
    held_images: Annotated[int, typer.Option(help="Samples that are reported on.")] = 5000,
    adaptive_images: Annotated[int, typer.Option(help="Samples of the adaptive pruner.")] = 5000,
    compensate: Annotated[bool, typer.Option(help="Also repair in closed form.")] = True,
    peers: Annotated[bool, typer.Option(help="Also torch-pruning's importances.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    config: Annotated[Path | None, option(KEYS)] = None,
    workers: Workers = None,
    on: On = None,
    shard: ShardOf = None,
    after: After = None,
    resume: Annotated[bool, typer.Option(help="Go on with a study that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Measure what escapes the plateau of a model, at which complexity and sparsity."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel.features import NINE
        from natsel_papers.plateau_grid import PlateauGrid
        from natsel_papers.spectrum import run_spectrum

        say_what_wins(context, voice)
        grid = PlateauGrid(
            sparsities=parse_numbers("sparsity", sparsity),
            classes=parse_names("classes", classes) if classes is not None else NINE,
            seeds=seeds,
            kinds=parse_names("kinds", kinds),
            search_images=search_images,
            held_images=held_images,
            adaptive_images=adaptive_images,
            optimizer=optimizer,
            generations=generations,
            population=population,
            compensate=compensate,
            peers=peers,
            device=device,
        )
        place = place_here(workers, on, shard, after)
        need_report()
        with voice.progress() as progress:
            rows, summary = run_spectrum(
                model, data, grid, out, place=place, resume=resume, progress=progress
            )
        finish_plateau(voice, rows, summary, out)
