"""All benchmarks, one after the other, in one folder with one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from natsel.common.errors import choose, refuse_together
from natsel.common.extras import MissingExtraError
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder
from natsel.runs.splits import load_splits
from natsel.runs.trained import trained_network
from natsel.runs.training import Recipe
from natsel_bench.extract import bench_extract
from natsel_bench.peers_table import bench_peers
from natsel_bench.score import bench_score
from natsel_bench.search import bench_search
from natsel_bench.select import bench_select
from natsel_bench.step import bench_step
from natsel_bench.words import to_markdown, words

TITLES = {
    "step": "A training step with evolution",
    "select": "Selection among very many weights",
    "score": "Scoring",
    "extract": "Extraction",
    "search": "Searching",
    "peers": "Other tools",
}
INTRODUCTION = (
    "Ratios, so that the machine matters less: medians of things that took turns in one process, "
    "with their quartiles. Printed by `natsel bench all --out DIR`; what each figure means, its "
    "limit and how it is taken stands in `benchmarks/README.md`."
)


def bench_all(
    out: str | Path,
    *,
    only: Sequence[str] = (),
    model: str | None = None,
    data: str | None = None,
    quick: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run all benchmarks; each one's result is kept, so that a stopped run goes on.

    Args:
        out: folder for ``bench.json``, ``bench.md`` and one file for each benchmark.
        only: names of benchmarks; by default all.
        model: a trained model for the search; by default a small network is trained on digits.
        data: the data set that it was trained on.
        quick: see that everything works, in about a minute; times mean nothing.
        resume: go on with what the folder holds.
        progress: called as they go.

    Returns:
        Every result by name, what was not run and why, hardware and versions.

    Raises:
        ValueError: if an argument is not allowed.
    """
    for name in only:
        choose("only", name, TITLES)
    if (model is None) != (data is None):
        refuse_together({"model": model, "data": data}, "both or neither of them")
    if model is not None and only and "search" not in only:
        refuse_together({"only": ",".join(only), "model": model}, "search among them: it reads one")
    target = Path(out)
    config = {"kind": "bench all", "quick": quick, "model": model, "data": data}
    with folder.claim(target, config, resume):
        folder.take(target, config)
        return _run(target, only, quick, model, data, progress)


def _run(
    target: Path,
    only: Sequence[str],
    quick: bool,
    model: str | None,
    data: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run what is not kept yet, and write the page."""
    names = [name for name in TITLES if not only or name in only]
    results: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in names:
        kept = target / f"{name}.json"
        if kept.is_file():
            results[name] = read_object(kept)
            continue
        try:
            results[name] = _RUNS[name](target, quick, model, data, progress)
        except MissingExtraError as error:
            missing[name] = str(error)
            continue
        write_json(kept, results[name])
    summary = {
        "bench": "all",
        "quick": quick,
        "results": results,
        "missing": missing,
        **environment.record(git=True),
    }
    write_json(target / "bench.json", summary)
    write_atomic(target / "bench.md", page(summary).encode())
    return summary


def page(summary: Mapping[str, Any]) -> str:
    """Return all results as a page of Markdown."""
    hardware, versions = summary["hardware"], summary["versions"]
    lines = ["# Benchmarks", "", INTRODUCTION, ""]
    lines.append("; ".join(f"{key}: {value}" for key, value in {**hardware, **versions}.items()))
    lines.append("")
    if summary["quick"]:
        lines += ["**Quick: everything works; these times mean nothing.**", ""]
    for name, result in summary["results"].items():
        lines += [f"## {TITLES[name]}", "", to_markdown(words(result))]
    for name, reason in summary["missing"].items():
        lines += [f"## {TITLES[name]}", "", f"Not run: {reason}", ""]
    return "\n".join(lines)


SMALL_VIT = {"dim": 32, "depth": 2, "heads": 2, "mlp_ratio": 1.0, "patch": 2, "pool": "mean"}
SMALL_RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=3e-3)
"""What is searched where no model is given."""

Run = Callable[[Path, bool, str | None, str | None, Progress], dict[str, Any]]


def _search(
    out: Path, quick: bool, model: str | None, data: str | None, progress: Progress
) -> dict[str, Any]:
    if model is None or data is None:
        data = "digits"
        model, _ = trained_network(
            out / "network",
            load_splits(data),
            SMALL_VIT,
            SMALL_RECIPE,
            seed=0,
            device="cpu",
            progress=progress,
        )
    few: dict[str, Any] = {"images": 100, "population": 4, "repeats": 2} if quick else {}
    return bench_search(model, data, progress=progress, **few)


def _peers(
    out: Path, quick: bool, model: str | None, data: str | None, progress: Progress
) -> dict[str, Any]:
    return bench_peers(
        out / "peers", quick=quick, resume=(out / "peers").exists(), progress=progress
    )


_RUNS: dict[str, Run] = {
    "step": lambda out, quick, model, data, progress: bench_step(
        network="all", compiled=not quick, quick=quick, progress=progress
    ),
    "select": lambda out, quick, model, data, progress: bench_select(
        quick=quick, huge=True, progress=progress
    ),
    "score": lambda out, quick, model, data, progress: bench_score(quick=quick, progress=progress),
    "extract": lambda out, quick, model, data, progress: bench_extract(
        quick=quick, progress=progress
    ),
    "search": _search,
    "peers": _peers,
}
