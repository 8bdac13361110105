"""``natsel reproduce``: the experiments of the papers, with baselines and tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from natsel.cli.commands import examples
from natsel.cli.configs import (
    Keys,
    epochs_of,
    option,
    same,
    say_what_wins,
    truth,
    whole,
    word,
    written_of,
)
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors, need_report
from natsel.cli.places import After, On, ShardOf, Workers, place_here
from natsel_papers.cli_finish import finish_evolution, finish_plateau

if TYPE_CHECKING:
    from natsel_papers.reproduce_evolution import Grid

EVOLUTION = Keys(
    "evolution",
    {**same(whole, "seeds"), **same(word, "dataset"), "recipe": ("epochs", epochs_of)},
    ("sparsities", "dynamics", "hidden", "constants"),
    kind_key="reproduce",
)
PLATEAU = Keys(
    "reproduce plateau",
    {
        **same(whole, "seeds"),
        **same(word, "preset", "device"),
        **same(truth, "peers"),
        "recipe": ("epochs", epochs_of),
    },
    (
        *("dataset", "options", "sparsities", "classes", "kinds", "search_images", "held_images"),
        *("adaptive_images", "optimizer", "generations", "population", "compensate"),
    ),
)

app = typer.Typer(help="Run the experiments of the papers.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Run the experiments of the papers."""


@app.command(
    "evolution",
    epilog=examples(
        "natsel reproduce evolution --dataset digits --seeds 2 --out quick",
        "natsel reproduce evolution --out evolution --workers 4",
        "natsel reproduce evolution --out evolution --on ray://head:10001",
        "natsel reproduce evolution --shard 3/16 --out shards/3",
        "natsel reproduce evolution --config quick/config.json --seeds 3 --out more",
    ),
)
def evolution(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for tables, report and cached trainings.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, at least 2.")] = 5,
    dataset: Annotated[str, typer.Option(help="mnist, or digits for a quick look.")] = "mnist",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    config: Annotated[Path | None, option(EVOLUTION)] = None,
    workers: Workers = None,
    on: On = None,
    shard: ShardOf = None,
    after: After = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Pruning as Evolution (arXiv 2601.10765): every dynamic, two protocols, four baselines."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_papers.reproduce_evolution import evolution_config, reproduce_evolution

        if (written := written_of(context)) is not None:
            say_what_wins(context, voice)
            held = written.content
            before = _grid(
                held.get("seeds", seeds),
                held.get("dataset", dataset),
                held.get("recipe", {}).get("epochs", epochs),
            )
            written.check(evolution_config(before))
        grid = _grid(seeds, dataset, epochs)
        place = place_here(workers, on, shard, after)
        need_report()
        with voice.progress() as progress:
            rows, summary = reproduce_evolution(
                grid, out, place=place, resume=resume, progress=progress
            )
        finish_evolution(voice, rows, summary, out)


def _grid(seeds: int, dataset: str, epochs: int | None) -> Grid:
    from natsel.runs.training import Recipe
    from natsel_papers.reproduce_evolution import Grid

    default = Grid().recipe
    recipe = Recipe(
        epochs if epochs is not None else default.epochs,
        default.batch_size if dataset != "digits" else 32,
        default.learning_rate,
    )
    return Grid(seeds=seeds, dataset=dataset, recipe=recipe)


@app.command(
    "plateau",
    epilog=examples(
        "natsel reproduce plateau --preset smoke --out quick",
        "natsel reproduce plateau --preset paper --device cuda --out plateau",
        "natsel reproduce plateau --preset paper --on auto --out plateau",
        "natsel reproduce plateau --config quick/config.json --out again",
    ),
)
def plateau(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for networks, cells, tables and report.")],
    preset: Annotated[str, typer.Option(help="smoke, cpu or paper.")] = "cpu",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many networks.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    peers: Annotated[bool, typer.Option(help="Also torch-pruning's importances.")] = False,
    config: Annotated[Path | None, option(PLATEAU)] = None,
    workers: Workers = None,
    on: On = None,
    shard: ShardOf = None,
    after: After = None,
    resume: Annotated[bool, typer.Option(help="Go on with a study that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Selection Plateau (arXiv 2605.09345): feature classes, sparsities, kappa, every claim."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_papers.reproduce_plateau import plateau_config, reproduce_plateau

        if (written := written_of(context)) is not None:
            say_what_wins(context, voice)
            held = written.content
            before = plateau_config(
                held.get("preset", preset),
                device=held.get("device", device),
                seeds=held.get("seeds", seeds),
                epochs=held.get("recipe", {}).get("epochs", epochs),
                peers=held.get("peers", peers),
            )
            written.check(before)
        place = place_here(workers, on, shard, after)
        need_report()
        with voice.progress() as progress:
            rows, summary = reproduce_plateau(
                preset,
                out,
                device=device,
                seeds=seeds,
                epochs=epochs,
                peers=peers,
                place=place,
                resume=resume,
                progress=progress,
            )
        finish_plateau(voice, rows, summary, out)
