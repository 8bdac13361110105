"""The experiment of arXiv 2601.10765, with baselines, seeds, intervals and paired tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.errors import refuse
from natsel.common.files import write_json
from natsel.communities import discover
from natsel.dynamics import DYNAMICS
from natsel.evolution import Evolution
from natsel.extraction import extract
from natsel.models import build
from natsel.selection import Sparsity
from natsel.study import environment
from natsel.study.jobs import default_workers, run_jobs
from natsel.study.measure import num_correct
from natsel.study.oneshot import METHODS, one_shot_cuts
from natsel.study.run import claim
from natsel.study.splits import Splits, load_splits
from natsel.study.statistics import holm, mean_interval, paired
from natsel.study.training import Progress, Recipe, make_optimizer, silent, train

HIDDEN = (512, 256)
SPARSITIES = (0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
MATCHED_FOR_ALL = (0.5, 0.8, 0.9)
TEST = "two-sided paired t-test over seeds, Holm-corrected over all cells compared"

PAPER = {0.0: (0.98, 0.98, 0.98), 0.35: (0.955, 0.955, 0.955), 0.5: (0.8845, 0.883, 0.886)}
"""Sparsity -> (middle, low, high) as the paper states them; its range is over dynamics."""

CLAIMS = ((0.5, 0.982, 0.985), (0.8, 0.978, 0.983), (0.9, 0.965, 0.976))
"""(sparsity, floor, aim) that the best dynamic has to reach."""

CONSTANTS: dict[str, dict[str, Any]] = {name: {} for name in DYNAMICS}
"""Constants of each law's runs, chosen on the validation split."""


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
    recipe: Recipe = Recipe(epochs=10, batch_size=128, learning_rate=2e-3)
    sparsities: tuple[float, ...] = SPARSITIES
    dynamics: tuple[str, ...] = tuple(DYNAMICS)

    def __post_init__(self) -> None:
        if not isinstance(self.seeds, int) or self.seeds < 2:
            refuse("seeds", self.seeds, "a whole number >= 2: an interval needs several runs")
        for value in self.sparsities:
            Sparsity(value)

    def cell(self, kind: str, seed: int, **chosen: Any) -> Cell:
        """Return one cell of the grid."""
        dynamics = chosen.get("dynamics")
        constants = dict(CONSTANTS.get(dynamics, {})) if dynamics else {}
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

    Args:
        grid: what to run.
        out: the folder; every training is cached there.
        workers: processes side by side; one per core by default.
        resume: go on with a run that was stopped.
        progress: called after every training.

    Returns:
        The rows of ``table.json`` and the content of ``summary.json``.

    Raises:
        ValueError: if an argument is not allowed or the folder holds another run.
    """
    started = time.perf_counter()
    folder = Path(out)
    config = {"reproduce": "evolution", **_as_json(grid)}
    claim(folder, config, resume)
    _splits(grid.dataset)
    jobs_folder = folder / "trainings"
    workers = default_workers() if workers is None else workers
    seeds = range(grid.seeds)
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

    def run(cells: Sequence[Cell], label: str) -> dict[Cell, dict[str, Any]]:
        found = run_jobs(
            train_cell, cells, jobs_folder, workers=workers, progress=progress, label=label
        )
        return dict(zip(cells, found, strict=True))

    results = run(first, "train networks")
    best = _best(grid, results, shared)
    rest = [
        grid.cell("matched", s, dynamics=best, sparsity=v)
        for v in grid.sparsities
        if v not in shared
        for s in seeds
    ]
    results |= run(rest, f"matched pressure ({best})")
    rows = table(grid, results)
    summary = summarize(grid, rows, best, config)
    seconds = sum(r["seconds"] for r in results.values())
    summary["seconds"] = {"this_run": time.perf_counter() - started, "all_trainings": seconds}
    write_json(folder / "table.json", rows)
    write_json(folder / "summary.json", summary)
    return rows, summary


@cache
def _splits(dataset: str) -> Splits:
    return load_splits(dataset)


def train_cell(cell: Cell) -> dict[str, Any]:
    """Train one network of the grid and cut it; accuracies on validation and test split."""
    splits = _splits(cell.dataset)
    torch.manual_seed(cell.seed)
    hidden = HIDDEN if cell.kind != "scratch" else reduced(cell.sparsity or 0.0)
    model = build(
        "mlp",
        in_shape=splits.in_shape,
        num_classes=len(splits.classes),
        seed=cell.seed,
        hidden=hidden,
    )
    optimizer = make_optimizer(model, cell.recipe)
    evolution = None
    if cell.dynamics is not None:
        constants = dict(cell.constants)
        if cell.kind == "matched":
            assert cell.sparsity is not None
            constants["capacity"] = 1.0 - cell.sparsity
        evolution = Evolution(
            discover(model, (splits.train[0][:2],)),
            dynamics=cell.dynamics,
            optimizer=optimizer,
            seed=cell.seed,
            **constants,
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


def reduced(sparsity: float) -> tuple[int, ...]:
    """Return the hidden widths that remain at a sparsity.

    Example:
        >>> reduced(0.9)
        (51, 26)
    """
    return tuple(h - Sparsity(sparsity).count(h) for h in HIDDEN)


def _accuracies(model: nn.Module, splits: Splits) -> dict[str, float]:
    return {
        name: num_correct(model, x, y) / len(y)
        for name, (x, y) in (("validation", splits.validation), ("test", splits.test))
    }


def _best(grid: Grid, results: dict[Cell, dict[str, Any]], shared: Sequence[float]) -> str:
    """Return the law with the highest mean validation accuracy under matched pressure."""

    def mean(dynamics: str) -> float:
        values = [
            r["cuts"][str(c.sparsity)]["validation"]
            for c, r in results.items()
            if c.kind == "matched" and c.dynamics == dynamics and c.sparsity in shared
        ]
        return sum(values) / len(values)

    return max(grid.dynamics, key=mean)


def table(grid: Grid, results: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn the results of all trainings into rows: one per method, protocol and sparsity."""
    rows: list[dict[str, Any]] = []
    cells = list(results)

    def of(kind: str, **chosen: Any) -> list[dict[str, Any]]:
        return [
            results[c]
            for c in cells
            if c.kind == kind and all(getattr(c, k) == v for k, v in chosen.items())
        ]

    def add(family: str, method: str, sparsity: float, values: list[float], **more: Any) -> None:
        interval = mean_interval(values)
        row = {"family": family, "method": method, "sparsity": sparsity, **interval._asdict()}
        rows.append({**row, "seeds": values, **more})

    dense = of("dense")
    add("scratch", "dense 512-256", 0.0, [r["uncut"]["test"] for r in dense])
    for method in METHODS:
        family = "control" if method == "random" else "one-shot"
        for sparsity in grid.sparsities:
            values = [r["cuts"][method][str(sparsity)]["test"] for r in dense]
            add(family, method, sparsity, values)
    for sparsity in grid.sparsities:
        found = of("scratch", sparsity=sparsity)
        size = "-".join(str(h) for h in reduced(sparsity))
        add("scratch", "from scratch", sparsity, [r["uncut"]["test"] for r in found], size=size)
    for dynamics in grid.dynamics:
        found = of("paper", dynamics=dynamics)
        uncut = [r["uncut"]["test"] for r in found]
        extinct = sum(r["extinct_share"] for r in found) / len(found)
        add("dynamic", dynamics, 0.0, uncut, protocol="paper", extinct_share=extinct)
        for sparsity in grid.sparsities:
            values = [r["cuts"][str(sparsity)]["test"] for r in found]
            add(
                "dynamic",
                dynamics,
                sparsity,
                values,
                protocol="paper",
                uncut=mean_interval(uncut).mean,
                extinct_share=extinct,
            )
        for sparsity in grid.sparsities:
            found = of("matched", dynamics=dynamics, sparsity=sparsity)
            if not found:
                continue
            add(
                "dynamic",
                dynamics,
                sparsity,
                [r["cuts"][str(sparsity)]["test"] for r in found],
                protocol="matched",
                uncut=mean_interval([r["uncut"]["test"] for r in found]).mean,
                extinct_share=sum(r["extinct_share"] for r in found) / len(found),
                capacity=1.0 - sparsity,
                pressure=sum(r["pressure"] for r in found) / len(found),
                validation=sum(r["cuts"][str(sparsity)]["validation"] for r in found) / len(found),
            )
    _compare(rows)
    for sparsity, (middle, low, high) in PAPER.items():
        row = {"family": "paper", "method": "Khan & Shah 2026", "sparsity": sparsity}
        rows.append({**row, "mean": middle, "low": low, "high": high, "n": None})
    return rows


def _compare(rows: list[dict[str, Any]]) -> None:
    """Compare every cut of an evolved network with the same size from scratch, in place."""
    scratch = {r["sparsity"]: r for r in rows if r["method"] == "from scratch"}
    compared = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] in scratch]
    tests = [paired(r["seeds"], scratch[r["sparsity"]]["seeds"]) for r in compared]
    for row, test, p_value in zip(compared, tests, holm([t.p_value for t in tests]), strict=True):
        row |= {
            "compared_with": "from scratch",
            "test": TEST,
            "difference": test.difference,
            "difference_low": test.low,
            "difference_high": test.high,
            "p_value": p_value,
            "better": p_value < 0.05 and test.difference > 0,
            "worse": p_value < 0.05 and test.difference < 0,
        }


def summarize(
    grid: Grid, rows: list[dict[str, Any]], best: str, config: dict[str, Any]
) -> dict[str, Any]:
    """Put the table into sentences and verdicts."""
    claims = []
    uncut = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] == 0.0]
    worst = min(uncut, key=lambda r: r["mean"])
    claims.append(
        _claim(f"dense accuracy of every dynamic (lowest: {worst['method']})", worst, 0.978, 0.984)
    )
    matched = {(r["method"], r["sparsity"]): r for r in rows if r.get("protocol") == "matched"}
    sentences = []
    for sparsity, floor, aim in CLAIMS:
        row = matched.get((best, sparsity))
        if row is None:
            continue
        claims.append(_claim(f"{best}, matched pressure, {sparsity:.0%} removed", row, floor, aim))
        word = "better than" if row["better"] else "worse than" if row["worse"] else "not told from"
        sentences.append(
            f"{sparsity:.0%} of the neurons removed, no fine-tuning: {best} keeps {row['mean']:.2%} "
            f"({row['low']:.2%} to {row['high']:.2%}), {word} a network of that size trained from "
            f"scratch (difference {row['difference'] * 100:+.2f} points, p = {row['p_value']:.2g})."
        )
    return {
        "title": "Pruning as Evolution, reproduced",
        "sentences": sentences,
        "best": best,
        "test": TEST,
        "claims": claims,
        "config": config,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "git": environment.git_state(),
        "notes": [
            f"Mean of {grid.seeds} seeds with 95 % Student intervals, test split; settings and the "
            "best law were chosen on a validation split taken from the training part.",
            "Matched pressure: one run per sparsity whose carrying capacity is what should remain; "
            "the paper's protocol cuts one network per law to every sparsity.",
            "From scratch: a network of the reduced size, the same number of steps and the same "
            "recipe. One-shot: the plainly trained 512-256 network, cut without fine-tuning.",
            "The paper states its figures without intervals or seeds.",
        ],
    }


def _claim(words: str, row: dict[str, Any], floor: float, aim: float) -> dict[str, Any]:
    reached = "aim reached" if row["mean"] >= aim else "floor reached"
    return {
        "claim": words,
        "floor": floor,
        "aim": aim,
        "value": row["mean"],
        "low": row["low"],
        "high": row["high"],
        "p_value": row.get("p_value"),
        "verdict": reached if row["mean"] >= floor else "below the floor",
    }


def _as_json(grid: Grid) -> dict[str, Any]:
    config = asdict(grid)
    config["sparsities"] = list(grid.sparsities)
    config["dynamics"] = list(grid.dynamics)
    config["hidden"] = list(HIDDEN)
    config["constants"] = {name: CONSTANTS.get(name, {}) for name in grid.dynamics}
    return config
