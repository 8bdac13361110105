"""Networks cut without fine-tuning, as the rows of a run's table."""

from __future__ import annotations

from typing import Any

from torch import nn

from natsel.common.progress import Progress
from natsel.evolution import Evolution
from natsel.extraction import extract
from natsel.runs.measure import accuracy, macs, num_parameters
from natsel.runs.oneshot import METHODS, one_shot_cuts
from natsel.runs.splits import Splits
from natsel.selection import Sparsity

Row = dict[str, Any]


def evolved_cuts(
    evolution: Evolution,
    model: nn.Module,
    splits: Splits,
    sparsities: tuple[float, ...],
    progress: Progress,
) -> tuple[list[Row], dict[float, nn.Module]]:
    """Cut an evolved network to every sparsity: the lowest masses go.

    Returns:
        One row per sparsity, and the networks that were cut.
    """
    rows, models = [], {}
    for number, sparsity in enumerate(sparsities):
        progress("cut the evolved network", number, len(sparsities))
        survivors = evolution.survivors(Sparsity(sparsity))
        small = extract(model, survivors)
        row = _row("dynamic", evolution.dynamic.name, sparsity, small, splits)
        row["kept"] = {name: int(mask.sum()) for name, mask in survivors.items()}
        rows.append(row)
        models[sparsity] = small
    progress("cut the evolved network", len(sparsities), len(sparsities))
    return rows, models


def plain_cuts(
    plain: nn.Module, splits: Splits, sparsities: tuple[float, ...], seed: int, progress: Progress
) -> list[Row]:
    """Cut a plainly trained network in one shot, by every method at every sparsity."""
    rows = []
    total = len(METHODS) * len(sparsities)
    progress("cut the plain network", 0, total)
    for method, sparsity, _, small in one_shot_cuts(plain, splits, sparsities, seed):
        rows.append(_row(family_of(method), method, sparsity, small, splits))
        progress("cut the plain network", len(rows), total)
    return rows


def family_of(method: str) -> str:
    """Return which family a one-shot method belongs to: a random choice is a control."""
    return "control" if method == "random" else "one-shot"


def _row(family: str, method: str, sparsity: float, small: nn.Module, splits: Splits) -> Row:
    inputs, labels = splits.test
    interval, more = accuracy(small, inputs, labels)
    return {
        "family": family,
        "method": method,
        "sparsity": sparsity,
        **interval._asdict(),
        **more,
        "parameters": num_parameters(small),
        "macs": macs(small, inputs),
    }
