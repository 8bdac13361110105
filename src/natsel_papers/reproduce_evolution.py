"""The experiment of arXiv 2601.10765, with baselines, seeds, intervals and paired tests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.errors import choose, refuse
from natsel.common.files import write_json
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.data import names as dataset_names
from natsel.dynamics import DYNAMICS
from natsel.extraction import extract
from natsel.runs.cells import Needs
from natsel.runs.evolve import SPARSITIES
from natsel.runs.folder import claim
from natsel.runs.jobs import ShardDone, ready, run_cells
from natsel.runs.joining import begin
from natsel.runs.measure import num_correct
from natsel.runs.networks import network, put_under_selection, reduced
from natsel.runs.oneshot import one_shot_cuts
from natsel.runs.places import Place
from natsel.runs.splits import Splits, load_splits
from natsel.runs.training import Recipe, make_optimizer, train
from natsel.selection import Sparsity
from natsel_papers.evolution_table import summarize, table
from natsel_papers.failing import failed_rows, sentence, told_by_shard, whole_seeds

Rows = list[dict[str, Any]]

HIDDEN = (512, 256)
MATCHED_FOR_ALL = (0.5, 0.8, 0.9)
LAWS = (
    "logistic",
    "lotka-volterra",
    "participation",
    "replicator",
    "replicator-mutator",
    "wright-fisher",
)
"""The laws of the published table, whatever else is registered."""


@dataclass(frozen=True)
class Cell:
    """One training of the grid.

    Attributes:
        kind: "dense", "scratch", "paper" (one network cut to every sparsity) or "matched" (a
            carrying capacity for one sparsity).
        seed: of weights, batches and stochastic laws.
        dynamics: the law, for "paper" and "matched".
        sparsity: for "scratch" and "matched".
        dataset: what it is trained on.
        recipe: how it is trained.
        sparsities: where it is cut.
        constants: of the evolution, as sorted pairs.
    """

    kind: str
    seed: int
    dynamics: str | None
    sparsity: float | None
    dataset: str
    recipe: Recipe
    sparsities: tuple[float, ...]
    constants: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """What to call it in messages."""
        parts = [self.kind, self.dynamics or "", f"{self.sparsity or ''}", f"seed {self.seed}"]
        return " ".join(p for p in parts if p)


@dataclass(frozen=True)
class Grid:
    """What to run.

    Attributes:
        seeds: how many seeds.
        dataset: a data set that the multi-layer perceptron can read.
        recipe: the same for every network of the grid.
        sparsities: where networks are cut.
        dynamics: which laws.
    """

    seeds: int = 5
    dataset: str = "mnist"
    recipe: Recipe = Recipe(epochs=8, batch_size=128, learning_rate=2e-3)  # noqa: RUF009 (frozen)
    sparsities: tuple[float, ...] = SPARSITIES
    dynamics: tuple[str, ...] = LAWS

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds, 2, more=": an interval needs several runs")
        choose("dataset", self.dataset, dataset_names())
        for law in self.dynamics:
            choose("dynamics", law, DYNAMICS)
        for name, values in (("sparsities", self.sparsities), ("dynamics", self.dynamics)):
            if not values or len(set(values)) < len(values):
                refuse(name, list(values), "at least one, each once")
        for value in self.sparsities:
            if Sparsity(value).value == 0:
                refuse("sparsities", list(self.sparsities), "numbers in (0, 1)")

    def cell(self, kind: str, seed: int, **chosen: Any) -> Cell:
        """Return one cell of the grid."""
        dynamics = chosen.get("dynamics")
        # The laws' own constants were chosen on the validation split of MNIST.
        constants = DYNAMICS[dynamics].constants() if dynamics else {}
        return Cell(
            kind=kind,
            seed=seed,
            dynamics=dynamics,
            sparsity=chosen.get("sparsity"),
            dataset=self.dataset,
            recipe=self.recipe,
            sparsities=self.sparsities,
            constants=tuple(sorted(constants.items())),
        )


def reproduce_evolution(
    grid: Grid,
    out: str | Path,
    *,
    workers: int | None = None,
    place: Place | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the whole grid and write ``table.json`` and ``summary.json``.

    Two protocols. *Paper*: one trained network per law and seed, cut to every sparsity without
    fine-tuning. *Matched pressure*: per sparsity a run of its own whose carrying capacity is what
    should remain, so that the pressure, not the knife, meets the budget; at 50, 80 and 90 % for
    every law, at the other sparsities for the law that is best on the validation split. Beside
    them: random, magnitude and Taylor cuts of plainly trained networks, and networks of the
    reduced size trained from scratch with the same number of steps.

    A cell that fails does not end the others: its error is a row of the table, and its seed is
    left out of the means.

    Args:
        grid: what to run.
        out: the folder; every training is cached there.
        workers: processes side by side; one per core by default.
        place: where trainings run, instead of ``workers`` processes of this machine.
        resume: go on with a run that was stopped.
        progress: called after every training.

    Returns:
        The rows of ``table.json`` and the content of ``summary.json``; of a shard no rows, and
        what it ran.

    Raises:
        ValueError: if an argument is not allowed or the folder holds another run.
        RuntimeError: if so many trainings failed that fewer than two seeds are whole.
    """
    folder = Path(out)
    config = evolution_config(grid)
    place = place if place is not None else Place(workers)
    with ready(place), claim(folder, config, resume):
        if not place.gathering:
            progress(f"load {grid.dataset}", 0, 1)
            _splits(grid.dataset)
            progress(f"load {grid.dataset}", 1, 1)
        # Only now: what is wrong with the input has shown itself, and nothing was written for it.
        begin(folder, config, place)
        try:
            return _reproduce(grid, folder, config, place, progress)
        except ShardDone as done:
            return [], told_by_shard(done, place)


def _reproduce(
    grid: Grid, folder: Path, config: dict[str, Any], place: Place, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run what is not cached yet, and write the table and the summary."""
    started = time.perf_counter()
    jobs_folder = folder / "trainings"
    seeds = list(range(grid.seeds))
    first = [grid.cell("dense", s) for s in seeds]
    first += [grid.cell("scratch", s, sparsity=v) for v in grid.sparsities for s in seeds]
    first += [grid.cell("paper", s, dynamics=d) for d in grid.dynamics for s in seeds]
    shared = [v for v in grid.sparsities if v in MATCHED_FOR_ALL] or list(grid.sparsities[:1])
    first += [
        grid.cell("matched", s, dynamics=d, sparsity=v)
        for d in grid.dynamics
        for v in shared
        for s in seeds
    ]

    needs = Needs(datasets=(grid.dataset,))

    def run(cells: Sequence[Cell], label: str) -> tuple[dict[Cell, dict[str, Any]], Rows]:
        ran = run_cells(
            train_cell,
            cells,
            jobs_folder,
            place=place,
            progress=progress,
            label=label,
            needs=needs,
        )
        pairs = zip(cells, ran.results, strict=True)
        return {c: r for c, r in pairs if r is not None}, failed_rows(cells, ran.failed)

    results, failed = run(first, "train networks")
    seeds = whole_seeds(grid.seeds, failed)
    _check_enough(seeds, failed, folder)
    best = best_law(grid, _of(seeds, results), shared)
    rest = [
        grid.cell("matched", s, dynamics=best, sparsity=v)
        for v in grid.sparsities
        if v not in shared
        for s in seeds
    ]
    more, failed_later = run(rest, f"matched pressure ({best})") if rest else ({}, [])
    failed += failed_later
    seeds = whole_seeds(grid.seeds, failed)
    _check_enough(seeds, failed, folder)
    results = _of(seeds, results | more)
    rows = table(results, widths=HIDDEN, sparsities=grid.sparsities, dynamics=grid.dynamics)
    summary = summarize(rows, best, config)
    seconds = sum(r["seconds"] for r in results.values())
    summary["seconds"] = {"this_run": time.perf_counter() - started, "all_trainings": seconds}
    if failed:
        summary["failed"] = failed
        summary["sentences"].append(sentence(failed))
        rows = rows + failed
    write_json(folder / "table.json", rows)
    write_json(folder / "summary.json", summary)
    return rows, summary


def _of(seeds: Sequence[int], results: Mapping[Cell, dict[str, Any]]) -> dict[Cell, dict[str, Any]]:
    return {cell: result for cell, result in results.items() if cell.seed in seeds}


def _check_enough(seeds: Sequence[int], failed: Rows, folder: Path) -> None:
    """Make sure that there can be intervals; else the table says only what failed."""
    if len(seeds) < 2:
        write_json(folder / "table.json", failed)
        raise RuntimeError(f"fewer than 2 seeds are whole: {sentence(failed)}")


@cache
def _splits(dataset: str) -> Splits:
    return load_splits(dataset)


def train_cell(cell: Cell) -> dict[str, Any]:
    """Train one network of the grid and cut it; accuracies on validation and test split."""
    splits = _splits(cell.dataset)
    torch.manual_seed(cell.seed)
    hidden = HIDDEN if cell.kind != "scratch" else reduced(HIDDEN, cell.sparsity or 0.0)
    model = network("mlp", splits, seed=cell.seed, options={"hidden": hidden})
    optimizer = make_optimizer(model, cell.recipe)
    evolution = None
    if cell.dynamics is not None:
        constants = dict(cell.constants)
        if cell.kind == "matched":
            assert cell.sparsity is not None
            constants["capacity"] = 1.0 - cell.sparsity
        evolution = put_under_selection(
            model, optimizer, splits, dynamics=cell.dynamics, seed=cell.seed, constants=constants
        )
    trained = train(model, optimizer, splits, cell.recipe, seed=cell.seed, evolution=evolution)
    result: dict[str, Any] = {"uncut": _accuracies(model, splits), "seconds": trained.seconds}
    result["cuts"] = {}
    if cell.kind == "dense":
        for method, sparsity, _, small in one_shot_cuts(model, splits, cell.sparsities, cell.seed):
            result["cuts"].setdefault(method, {})[str(sparsity)] = _accuracies(small, splits)
    if evolution is not None:
        result["extinct_share"] = evolution.extinct_share
        result["pressure"] = evolution.pressure
        result["alive"] = {n: int(m.sum()) for n, m in evolution.alive.items()}
        wanted = cell.sparsities if cell.kind == "paper" else (cell.sparsity or 0.0,)
        for sparsity in wanted:
            survivors = evolution.survivors(Sparsity(sparsity))
            small = extract(model, survivors)
            result["cuts"][str(sparsity)] = _accuracies(small, splits)
    return result


def _accuracies(model: nn.Module, splits: Splits) -> dict[str, float]:
    return {
        name: num_correct(model, x, y) / len(y)
        for name, (x, y) in (("validation", splits.validation), ("test", splits.test))
    }


def best_law(grid: Grid, results: Mapping[Cell, dict[str, Any]], shared: Sequence[float]) -> str:
    """Return the law with the highest mean validation accuracy under matched pressure."""

    def mean(dynamics: str) -> float:
        values: list[float] = [
            r["cuts"][str(c.sparsity)]["validation"]
            for c, r in results.items()
            if c.kind == "matched" and c.dynamics == dynamics and c.sparsity in shared
        ]
        return sum(values) / len(values)

    return max(grid.dynamics, key=mean)


def evolution_config(grid: Grid) -> dict[str, Any]:
    """Return the configuration of :func:`reproduce_evolution`."""
    return {"reproduce": "evolution", **_as_json(grid)}


def _as_json(grid: Grid) -> dict[str, Any]:
    config = asdict(grid)
    config["sparsities"] = list(grid.sparsities)
    config["dynamics"] = list(grid.dynamics)
    config["hidden"] = list(HIDDEN)
    config["constants"] = {name: DYNAMICS[name].constants() for name in grid.dynamics}
    return config
