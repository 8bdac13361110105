"""Shards of a study, joined: the folders' cells in one folder, and the table of all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.progress import Progress, silent
from natsel.runs.folder import claim, plain, take
from natsel.runs.jobs import RoundMissing
from natsel.runs.joining import check_same, read_config, take_over
from natsel.runs.places import Place
from natsel.runs.training import Recipe
from natsel_papers.plateau_grid import PlateauGrid
from natsel_papers.reproduce_evolution import Grid, evolution_config, reproduce_evolution
from natsel_papers.reproduce_plateau import plateau_config, reproduce_plateau
from natsel_papers.spectrum import run_spectrum, spectrum_config

Rows = list[dict[str, Any]]
Study = Callable[..., tuple[Rows, dict[str, Any]]]


def gather_study(
    folders: Sequence[str | Path], out: str | Path, *, progress: Progress = silent
) -> tuple[Rows, dict[str, Any]]:
    """Join shards of one study into a new folder, and write its table there; nothing is run.

    Args:
        folders: of the shards.
        out: a new folder; nothing is left of it if a cell is missing.
        progress: called as cells are found.

    Returns:
        As the study; of a round after which another one comes, no rows, and what to run next.

    Raises:
        ValueError: if folders are of different studies, or cells are missing: they are named.
    """
    sources, target = [Path(folder) for folder in folders], Path(out)
    config = read_config(sources[0], argument="folders")
    for source in sources:
        check_same(source, config, argument="folders")
    run = study_of(config, sources[0])
    begun = target.exists()
    with claim(target, config, resume=False):
        take(target, config)
        try:
            for source in sources:
                take_over(source, target, config, argument="folders")
        except BaseException:
            _clear(target, begun)
            raise
    try:
        return run(target, place=Place(gathering=True), resume=True, progress=progress)
    except RoundMissing as missing:
        if not any(path.suffix == ".json" for path in target.glob("*/*")):
            _clear(target, begun)
            found = ", ".join(map(str, sources))
            refuse("folders", found, "folders with finished cells, but there is none")
        return [], _next_round(missing, target)
    except BaseException:
        _clear(target, begun)
        raise


def study_of(config: dict[str, Any], folder: Path) -> Study:
    """Return the study that a configuration describes, to be run in a folder.

    Raises:
        ValueError: if it is none that can be gathered, or one of another version.
    """
    try:
        run, own = _study_of(config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}") from None
    if run is None:
        refuse("folders", str(folder), "one of reproduce evolution, reproduce plateau or spectrum")
    if plain(own) != config:
        refuse("folders", str(folder), "one that this version of natsel would write")
    return run


def _study_of(config: dict[str, Any]) -> tuple[Study | None, dict[str, Any]]:
    if config.get("reproduce") == "evolution":
        grid = Grid(
            config["seeds"],
            config["dataset"],
            Recipe(**config["recipe"]),
            tuple(config["sparsities"]),
            tuple(config["dynamics"]),
        )
        return partial(reproduce_evolution, grid), evolution_config(grid)
    if config.get("kind") == "reproduce plateau":
        chosen = {name: config[name] for name in ("device", "seeds", "peers")}
        chosen["epochs"] = config["recipe"]["epochs"]
        run = partial(reproduce_plateau, config["preset"], **chosen)
        return run, plateau_config(config["preset"], **chosen)
    if config.get("kind") == "spectrum":
        held: dict[str, Any] = {f.name: config[f.name] for f in fields(PlateauGrid)}
        held = {k: tuple(v) if isinstance(v, list) else v for k, v in held.items()}
        study = PlateauGrid(**held)
        model, data = config["model"], config["data"]
        return partial(run_spectrum, model, data, study), spectrum_config(model, data, study)
    return None, {}


def _next_round(missing: RoundMissing, target: Path) -> dict[str, Any]:
    words = (
        f"The round before '{missing.label}' is whole. Its {missing.num_cells} cells come next: "
        f"the same command with --after {target} and every --shard K/N, then natsel gather of "
        f"those folders; or --out {target} --resume, without shards."
    )
    return {
        "kind": "round",
        "next": missing.label,
        "cells": missing.num_cells,
        "sentences": [words],
    }


def _clear(target: Path, begun: bool) -> None:
    """Remove what was gathered, but not an empty folder that was there before."""
    for path in target.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not begun:
        target.rmdir()
