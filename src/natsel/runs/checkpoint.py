"""Training on disk: written whole after an epoch, and taken up again once it proves to be whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from natsel.common.errors import first_line
from natsel.common.files import load_tree, save_tree
from natsel.evolution import Evolution
from natsel.runs.folder import differing, plain

_ADAM = {"step", "exp_avg", "exp_avg_sq"}


@dataclass(frozen=True)
class Parts:
    """What a training changes: the state of all of it is the state of the training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    evolution: Evolution | None
    generator: torch.Generator


def keep(
    path: Path,
    run: Mapping[str, Any] | None,
    parts: Parts,
    history: list[dict[str, Any]],
    seconds: float,
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        path: where to.
        run: what decides the outcome, as plain data.
        parts: of the training.
        history: one row for each epoch that is done.
        seconds: time spent in training.

    Raises:
        OSError: if it cannot be written.
    """
    evolution = parts.evolution
    state = {
        "run": plain(run or {}),
        "model": dict(parts.model.state_dict()),
        "optimizer": parts.optimizer.state_dict(),
        "evolution": evolution.state_dict() if evolution is not None else None,
        "generator": parts.generator.get_state(),
        "history": history,
        "seconds": seconds,
    }
    save_tree(path, state)


def resume(
    path: Path, run: Mapping[str, Any] | None, epochs: int, parts: Parts
) -> tuple[list[dict[str, Any]], float, int]:
    """Take a training up where a checkpoint left it.

    Args:
        path: of the checkpoint.
        run: as :func:`keep` was given it.
        epochs: how many the training has.
        parts: of the training; changed in place.

    Returns:
        The history, the seconds, and how many epochs are done.

    Raises:
        ValueError: if the checkpoint is damaged or of another run; ``parts`` are of no use then.
    """
    state = load_tree(path)
    wanted = plain(run or {})
    if not isinstance(state, dict) or "run" not in state:
        _refuse(path, "it is of another version, or no checkpoint")
    if state["run"] != wanted:
        raise ValueError(f"{path} is of another run{differing(state['run'], wanted)}")
    try:
        _check_state(state, epochs, parts)
        parts.model.load_state_dict(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        if parts.evolution is not None:
            parts.evolution.load_state_dict(state["evolution"])
        parts.generator.set_state(state["generator"])
        history = [dict(row) for row in state["history"]]
    # Whoever made the file up may have put anything anywhere, and torch says so in many ways.
    except ValueError as error:
        _refuse(path, first_line(error))
    except (TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        _refuse(path, f"{type(error).__name__}: {first_line(error)}")
    return history, float(state["seconds"]), len(history)


def _check_state(state: Mapping[str, Any], epochs: int, parts: Parts) -> None:
    """Refuse what would be noticed only while training goes on, or not at all."""
    epochs_done = [row["epoch"] for row in state["history"]]
    if epochs_done != list(range(1, len(epochs_done) + 1)) or not 0 < len(epochs_done) <= epochs:
        raise ValueError(f"its history is not one of 1 to {epochs} epochs")
    for row in state["history"]:
        if not all(type(v) in (int, float) and math.isfinite(v) for v in row.values()):
            raise ValueError("its history holds what is no finite number")
    if not math.isfinite(state["seconds"]) or state["seconds"] < 0:
        raise ValueError("its seconds are no time")
    if (state["evolution"] is None) != (parts.evolution is None):
        raise ValueError("it is of a training without an evolution, or with one")
    if parts.evolution is not None:
        _check_evolution(state["evolution"], parts.evolution.state_dict())
    mine = parts.optimizer.state_dict()
    theirs = state["optimizer"]
    # The rate is set anew at every step.
    if _without_rate(theirs["param_groups"]) != _without_rate(mine["param_groups"]):
        raise ValueError("its optimizer has other settings")
    parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
    if theirs["state"].keys() != set(range(len(parameters))):
        raise ValueError("its optimizer is of another network")
    for number, parameter in enumerate(parameters):
        if isinstance(parts.optimizer, torch.optim.Adam) and _ADAM - theirs["state"][number].keys():
            raise ValueError("its optimizer lacks a part of its state")
        for name, value in theirs["state"][number].items():
            if value.dim() and value.shape != parameter.shape:
                raise ValueError(f"its {name} of parameter {number} has another shape")
    for name, value in _leaves(state, ""):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinity")


def _check_evolution(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for name, value in mine.items():
        if isinstance(value, Tensor) and theirs[name].shape != value.shape:
            raise ValueError(f"{name} has another shape")
    if not bool((theirs["mass"] >= 0).all()):
        raise ValueError("it holds what is no mass")
    if not 0 <= theirs["pressure"] < math.inf or theirs["steps"] < 0:
        raise ValueError("its pressure or its steps are none")


def _without_rate(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "lr"} for group in groups]


def _leaves(node: Any, name: str) -> list[tuple[str, Tensor]]:
    """Return the tensors of a tree, each with its place."""
    if isinstance(node, Tensor):
        return [(name, node)]
    items = node.items() if isinstance(node, Mapping) else ()
    if isinstance(node, list | tuple):
        items = enumerate(node)  # type: ignore[assignment]
    return [leaf for key, value in items for leaf in _leaves(value, f"{name}/{key}".strip("/"))]


def _refuse(path: Path, told: str) -> NoReturn:
    raise ValueError(f"{path} is damaged: {told}") from None
