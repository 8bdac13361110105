"""Networks that are trained once for several studies, and found again by their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.files import write_json
from natsel.common.json_data import read_object
from natsel.common.progress import Progress
from natsel.communities import discover
from natsel.communities.tensors import tensors_of
from natsel.extraction import extract
from natsel.io import save
from natsel.models import build
from natsel.runs.measure import outcomes
from natsel.runs.processes import progress_of_cell
from natsel.runs.splits import Splits, load_splits
from natsel.runs.training import Recipe, make_optimizer, train
from natsel.selection.survivors import all_survive

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model"
RECORD = "network.json"


@dataclass(frozen=True)
class Network:
    """A network that is to be trained: one cell of a study, before those that cut it.

    Attributes:
        dataset: what it learns.
        options: of the vision transformer, as sorted pairs.
        recipe: how it is trained.
        seed: of weights and batches.
        device: where.
        folder: is filled; no part of what the network is.
    """

    dataset: str
    options: tuple[tuple[str, Any], ...]
    recipe: Recipe
    seed: int
    device: str
    folder: str = field(compare=False)

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"network {self.seed}"


def train_network(job: Network) -> dict[str, Any]:
    """Train one network, or find it trained; return what its ``network.json`` holds."""
    trained_network(
        Path(job.folder),
        load_splits(job.dataset),
        dict(job.options),
        job.recipe,
        seed=job.seed,
        device=job.device,
        progress=progress_of_cell(),
    )
    return read_object(Path(job.folder) / RECORD)


def trained_network(
    where: Path,
    splits: Splits,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> tuple[str, str]:
    """Train one network, or find it trained; return its folder and a digest of its weights."""
    saved = where / MODEL
    record = where / RECORD
    if record.is_file():
        held = read_object(record).get("digest")
        if not isinstance(held, str):
            raise ValueError(f"{record} is damaged: it names no digest")
        return str(saved), held
    model = build(
        "vit",
        in_shape=splits.in_shape,
        num_classes=len(splits.classes),
        seed=seed,
        **options,
    )
    where.mkdir(parents=True, exist_ok=True)
    there = on_device(splits, device)
    model.to(device)
    optimizer = make_optimizer(model, recipe)
    result = train(
        model,
        optimizer,
        there,
        recipe,
        seed=seed,
        checkpoint=where / CHECKPOINT,
        run={"options": dict(options), "recipe": asdict(recipe), "seed": seed},
        progress=progress,
        label=f"train network {seed}",
    )
    found = outcomes(model, *there.test)
    _save(model.cpu().eval(), splits, saved)
    named = digest(tensors_of(model))
    write_json(
        record,
        {
            "seed": seed,
            "digest": named,
            "test_accuracy": found.accuracy,
            "parameters": sum(p.numel() for p in model.parameters()),
            "history": result.history,
            "seconds": result.seconds,
        },
    )
    return str(saved), named


def on_device(splits: Splits, device: str) -> Splits:
    """Return splits whose tensors are on a device."""

    def moved(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return part[0].to(device), part[1].to(device)

    return replace(
        splits,
        train=moved(splits.train),
        validation=moved(splits.validation),
        test=moved(splits.test),
    )


def _save(model: nn.Module, splits: Splits, saved: Path) -> None:
    """Save a whole network in the way in which small ones are: nothing is removed from it."""
    communities = discover(model, (splits.train[0][:2].cpu(),), proof=False)
    with torch.no_grad():
        save(extract(model, all_survive(communities), verify=False), saved)


def digest(tensors: dict[str, Tensor]) -> str:
    """Return a digest of named tensors: equal for equal weights."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
