"""The experiment of Selection Plateau (arXiv 2605.09345): train networks, then the whole grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from natsel.common.errors import choose
from natsel.common.progress import Progress, silent
from natsel.features import CLASSES, NINE
from natsel.runs import folder
from natsel.runs.cells import Needs
from natsel.runs.jobs import ShardDone, ready, run_cells
from natsel.runs.joining import begin
from natsel.runs.places import Place
from natsel.runs.splits import load_splits
from natsel.runs.trained import CHECKPOINT, MODEL, Network, train_network
from natsel.runs.training import Recipe
from natsel_papers.failing import failed_rows, measured, told_by_shard
from natsel_papers.plateau_claims import PAPER
from natsel_papers.plateau_grid import PlateauGrid, check_device
from natsel_papers.plateau_table import Rows
from natsel_papers.spectrum import on_device, study, write_study

TITLE = "Selection Plateau, reproduced"
NOTES = (
    "The paper does not state how ranks map to the logistic map, how indicators are smoothed, nor "
    "the Weierstrass, sine and spline constants: those used here are natsel's own and are listed "
    "in its documentation.",
    "Held-out samples are the test split; searches and the adaptive pruner see parts of the "
    "validation split only. p-values hold for these networks; intervals of accuracies are over "
    "networks.",
)


@dataclass(frozen=True)
class Preset:
    """A size of the experiment.

    Attributes:
        dataset: what networks learn.
        options: of the vision transformer.
        recipe: how it is trained.
        grid: what is compared.
    """

    dataset: str
    options: Mapping[str, Any]
    recipe: Recipe
    grid: PlateauGrid = field(default_factory=PlateauGrid)


ALL_CLASSES = tuple(CLASSES)
PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        "digits",
        {"dim": 32, "depth": 2, "heads": 2, "mlp_ratio": 1.0, "patch": 2, "pool": "mean"},
        Recipe(epochs=20, batch_size=64, learning_rate=3e-3),
        PlateauGrid(
            sparsities=(0.5, 0.8),
            seeds=2,
            search_images=100,
            held_images=300,
            adaptive_images=200,
            generations=3,
            population=4,
        ),
    ),
    "cpu": Preset(
        "cifar10",
        {
            "dim": 96,
            "depth": 3,
            "heads": 3,
            "mlp_ratio": 3.0,
            "patch": 4,
            "pool": "mean",
        },
        Recipe(epochs=6, batch_size=128, learning_rate=1e-3),
        PlateauGrid(classes=(*NINE, "Bump"), search_images=1500, adaptive_images=3000),
    ),
    "paper": Preset(
        "cifar10",
        {"dim": 384, "depth": 12, "heads": 6, "mlp_ratio": 4.0, "patch": 4},
        Recipe(epochs=60, batch_size=256, learning_rate=5e-4, precision="bfloat16"),
        PlateauGrid(
            classes=ALL_CLASSES, held_images=10000, generations=10, population=10, device="cuda"
        ),
    ),
}


def reproduce_plateau(
    preset: str,
    out: str | Path,
    *,
    device: str | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    peers: bool = False,
    workers: int | None = None,
    place: Place | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the paper's experiment, print its figures beside the measured ones, judge its claims.

    Args:
        preset: "smoke" (digits, two minutes), "cpu" (a small vision transformer on CIFAR-10) or
            "paper" (ViT-Small on CIFAR-10, for a GPU).
        out: folder for networks, cells, ``table.json`` and ``summary.json``.
        device: where networks run; by default the preset's.
        seeds: how many networks; by default the preset's.
        epochs: passes over the training data; by default the preset's.
        peers: also select by torch-pruning's importances.
        workers: processes side by side; by default one per core.
        place: where networks learn and cells run, instead of ``workers`` processes of this
            machine.
        resume: go on with what the folder holds.
        progress: called as networks learn and after every cell.

    Returns:
        The rows of the table, and the summary; of a shard no rows, and what it ran.

    Raises:
        ValueError: if an argument is not allowed.
        RuntimeError: if a network or a cell of every seed failed.
    """
    chosen = PRESETS[choose("preset", preset, PRESETS)]
    place = place if place is not None else Place(workers)
    wanted = device if device is not None else chosen.grid.device
    check_device(wanted, here=place.on is None and not place.gathering)
    recipe, grid = _filled_in(chosen, device=device, seeds=seeds, epochs=epochs, peers=peers)
    target = Path(out)
    config = plateau_config(preset, device=device, seeds=seeds, epochs=epochs, peers=peers)
    with ready(place), folder.claim(target, config, resume):
        if not place.gathering:
            load_splits(chosen.dataset)
        begin(target, config, place)
        try:
            networks, records, failed = _networks(
                chosen, recipe, grid, target / "networks", place, progress
            )
            rows, summary = study(
                networks,
                chosen.dataset,
                grid,
                target,
                title=TITLE,
                place=place,
                progress=progress,
                more=config,
                notes=list(NOTES),
                failed=failed,
            )
        except ShardDone as done:
            return [], told_by_shard(done, place)
        rows = [*measured(rows), *paper_rows(), *summary.get("failed", [])]
        summary["networks"] = records
        write_study(target, rows, summary)
    return rows, summary


def _networks(
    chosen: Preset,
    recipe: Recipe,
    grid: PlateauGrid,
    where: Path,
    place: Place,
    progress: Progress,
) -> tuple[list[tuple[str, str] | None], list[dict[str, Any]], Rows]:
    """Train the networks: what to open of each and its digest, their records, what failed."""
    jobs = [
        Network(
            chosen.dataset,
            tuple(sorted(chosen.options.items())),
            recipe,
            seed,
            grid.device,
            str(where / f"seed-{seed}"),
        )
        for seed in range(grid.seeds)
    ]
    ran = run_cells(
        train_network,
        jobs,
        where,
        place=on_device(place, grid.device),
        progress=progress,
        label="networks",
        needs=Needs(
            datasets=(chosen.dataset,),
            writes="folder",
            scratch=(CHECKPOINT,),
            gpus=int(grid.device == "cuda"),
        ),
    )
    networks = [
        (str(Path(job.folder) / MODEL), record["digest"]) if record is not None else None
        for job, record in zip(jobs, ran.results, strict=True)
    ]
    records = [record for record in ran.results if record is not None]
    return networks, records, failed_rows(jobs, ran.failed)


def paper_rows() -> list[dict[str, Any]]:
    """Return the paper's figures as rows of the table; it gives no intervals."""
    return [
        {
            "family": "paper",
            "method": method,
            "sparsity": sparsity,
            "mean": value,
            "low": value,
            "high": value,
            "n": None,
            "what": what,
        }
        for method, sparsity, value, what in PAPER
    ]


def plateau_config(
    preset: str,
    *,
    device: str | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    peers: bool = False,
) -> dict[str, Any]:
    """Return the configuration of :func:`reproduce_plateau` with the same arguments.

    Raises:
        ValueError: if an argument is not allowed.
    """
    chosen = PRESETS[choose("preset", preset, PRESETS)]
    recipe, grid = _filled_in(chosen, device=device, seeds=seeds, epochs=epochs, peers=peers)
    return {
        "kind": "reproduce plateau",
        "preset": preset,
        "dataset": chosen.dataset,
        "options": dict(chosen.options),
        "recipe": asdict(recipe),
        **asdict(grid),
    }


def _filled_in(
    chosen: Preset, *, device: str | None, seeds: int | None, epochs: int | None, peers: bool
) -> tuple[Recipe, PlateauGrid]:
    """Return recipe and grid of a preset, with what was asked in the place of its own."""
    wanted = device if device is not None else chosen.grid.device
    grid = replace(chosen.grid, device=wanted, seeds=seeds or chosen.grid.seeds, peers=peers)
    recipe = replace(chosen.recipe, epochs=epochs or chosen.recipe.epochs)
    if wanted == "cpu":
        # Autocast on processors without bfloat16 units is many times slower than float32.
        recipe = replace(recipe, precision="float32")
    return recipe, grid
