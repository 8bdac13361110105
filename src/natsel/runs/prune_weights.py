"""Set single weights of a trained model to zero, say what it cost, and save it."""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.batches import Data
from natsel.common.errors import choose, first_line, refuse, refuse_together
from natsel.common.files import json_last, sweep
from natsel.common.mapped import letting_go
from natsel.common.memory import peak_memory
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.texts import LENGTH, SAMPLES
from natsel.communities.tensors import all_tensors, canonical_names
from natsel.data.windows import check_windows
from natsel.extraction import masks_of
from natsel.io import save
from natsel.pruning import evolve_shares, sparsify
from natsel.pruning.sparsify import SCORERS
from natsel.pruning.taking_part import WeightBudget
from natsel.quality import advice, losses, measure_for, quality_of
from natsel.runs import environment
from natsel.runs.folder import alone
from natsel.runs.material import check_source, open_material
from natsel.runs.oneshot import calibration
from natsel.runs.prune import KIND, RESULT, _check_out
from natsel.selection import NM, Sparsity


@dataclass(frozen=True)
class WeightsConfig:
    """Which weights to set to zero, and how.

    Attributes:
        model: what ``natsel.open_model`` opens.
        weights: the share of each row that goes, "0.5", or N:M, "2:4".
        scorer: "obs", "admm", "wanda" or "magnitude"; None for "admm" with data, else "magnitude".
        data: a data set, a text or ``module:name`` of a loader, which second moments are read
            over; or None.
        held_out: a text or ``module:name`` to measure the dense and the sparse model on.
        tokenizer: folder of the tokenizer, or ``hf:NAME``; None for that of the model.
        length: tokens in a window of a text.
        samples: how many windows of each text.
        include: patterns of the weights' names that take part; empty for all but embeddings and
            what gives a language model's words.
        exclude: patterns of those that stay dense.
        search: how many plans of shares by layer are judged by evolution on the data; None for
            the same share everywhere.
        seed: of the calibration batches, and of a reference network's weights.
    """

    model: str
    weights: str
    scorer: str | None = None
    data: str | None = None
    held_out: str | None = None
    tokenizer: str | None = None
    length: int = LENGTH
    samples: int = SAMPLES
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    search: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        budget = parse_weights(self.weights)
        if self.search is not None:
            check_whole("search", self.search)
            if not isinstance(budget, Sparsity):
                given = {"search": self.search, "weights": self.weights}
                refuse_together(given, "a share for weights: N:M leaves every layer the same")
            if self.data is None:
                refuse("data", None, "a text or a data set: a search runs on one")
        if self.scorer is not None:
            choose("scorer", self.scorer, SCORERS)
            if self.scorer != "magnitude" and self.data is None:
                refuse("data", None, f"a text or a data set: scorer {self.scorer!r} reads one")
        check_windows(self.length, self.samples)
        for name in ("data", "held_out"):
            if (source := getattr(self, name)) is not None:
                check_source(source, argument=name)


def parse_weights(text: str) -> WeightBudget:
    """Return the budget of single weights that a text names.

    Raises:
        ValueError: if it is none.

    Example:
        >>> parse_weights("2:4"), parse_weights("0.5").count(8)
        (NM(num_kept=2, num_all=4), 4)
    """
    try:
        if (found := re.fullmatch(r"(\d+):(\d+)", text)) is not None:
            return NM(int(found[1]), int(found[2]))
        return Sparsity(float(text))
    except ValueError:
        refuse("weights", text, "a share in [0, 1) that goes, such as 0.5, or N:M, such as 2:4")


def prune_weights(
    config: WeightsConfig, out: str | Path, *, progress: Progress = silent
) -> dict[str, Any]:
    """Make a model sparse and save it, as plain dense weights with zeros.

    Args:
        config: what goes, and how.
        out: folder for the sparse model.
        progress: called between the parts.

    Returns:
        What went and what it costs, as plain data; ``"summary"`` says it in words.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds files that are not of an
            earlier ``prune``, or is used by another process.
        OSError: if there is no space left; what was there is then untouched.
    """
    folder = Path(out)
    with alone(folder), letting_go():
        _check_out(folder)
        sweep(folder)
        return _prune(config, folder, progress)


def _prune(config: WeightsConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    progress("prune: open", 0, 1)
    material = open_material(
        *(config.model, config.data, config.held_out),
        tokenizer=config.tokenizer,
        length=config.length,
        samples=config.samples,
        seed=config.seed,
    )
    opened, splits, held_out = material.opened, material.splits, material.held_out
    data: Data | None = calibration(splits, config.seed) if splits is not None else None
    if material.calibration is not None:
        data = material.calibration.batches
    measured: Data | None = [splits.test] if splits is not None else None
    if held_out is not None:
        measured = held_out.batches
    before = losses(opened.model, measured) if measured is not None else None
    scorer = config.scorer or ("admm" if data is not None else "magnitude")
    budget: Any = parse_weights(config.weights)
    options: dict[str, Any] = {
        "scorer": scorer,
        "include": config.include or None,
        "exclude": config.exclude or None,
    }
    shares = None
    if config.search is not None:
        assert data is not None
        shares = evolve_shares(
            opened.model,
            budget,
            data,
            evaluations=config.search,
            generator=torch.Generator().manual_seed(config.seed),
            progress=progress,
            **options,
        )
        budget = shares.budgets
    found = sparsify(
        opened.model,
        budget,
        data=data,
        **options,
        in_place=True,
        progress=progress,
    )
    quality = None
    if measured is not None and before is not None:
        chosen = measure_for(found.model, measured)
        quality = quality_of(losses(found.model, measured), before, measure=chosen)
        told = advice(quality, data_aware=scorer != "magnitude", compensated=scorer != "wanda")
        if told is not None:
            warnings.warn(told, stacklevel=4)
    result: dict[str, Any] = {
        "kind": KIND,
        "config": {**asdict(config), "scorer": scorer},
        "model": opened.description,
        "weights": found.plain(),
        "shares": shares and shares.plain(),
        "quality": quality and quality.plain(),
        "text": material.plain(),
        "summary": found.summary(),
        "peak_memory": peak_memory(),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "out": str(folder),
    }
    with json_last(folder / RESULT, result):
        tokenizer = config.tokenizer and material.tokenizer
        save(found.model, folder, tokenizer=tokenizer, card=result)
    progress("prune: done", 1, 1)
    return result


def verify_sparse(
    description: str, dense: nn.Module, sparse: nn.Module, folder: str
) -> dict[str, Any]:
    """Make sure that a saved sparse model has the zeros that its plan says, and no other change.

    What stays of a masked weight may have been refitted; everything else is bit for bit the dense
    model's.

    Args:
        description: of the dense model.
        dense: what it was made of.
        sparse: that was loaded, with its plan.
        folder: where it lies, for messages.
    """
    reason = ""
    try:
        masks = masks_of(sparse)
    except ValueError as error:
        masks, reason = {}, first_line(error)
    mine, theirs = all_tensors(sparse), all_tensors(dense)
    if mine.keys() != theirs.keys():
        refuse("folder", folder, f"a model that was made of {description}")
    skipped = {canonical for name, canonical in canonical_names(sparse).items() if name in masks}
    if not reason:
        names = canonical_names(sparse)
        other = [n for n in mine if names[n] not in skipped and not torch.equal(mine[n], theirs[n])]
        reason = f"{other[0]} differs from the dense model's" if other else ""
    kept = sum(int(mask.sum()) for mask in masks.values())
    size = sum(mask.numel() for mask in masks.values())
    return {
        "kind": "verify",
        "model": description,
        "folder": folder,
        "passed": not reason,
        "reason": reason,
        "weights": {"tensors": len(masks), "kept": kept, "size": size},
        "summary": reason
        or f"{size - kept:,} of {size:,} weights of {len(masks)} tensors are 0, "
        "as the plan says; all other tensors are the dense model's",
    }
