"""What a user would do instead: train plainly, score once, cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from natsel.communities import Communities, discover
from natsel.extraction import extract
from natsel.fitness import score
from natsel.runs.splits import Splits
from natsel.selection import Sparsity, Survivors, select

METHODS = ("random", "magnitude", "taylor")
CALIBRATION_BATCHES = 20


def calibration(splits: Splits, seed: int, batch_size: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Return some training batches for scorers that read data."""
    inputs, labels = splits.train
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=generator)
    chosen = torch.split(order[: CALIBRATION_BATCHES * batch_size], batch_size)
    return [(inputs[i], labels[i]) for i in chosen]


def one_shot_scores(
    communities: Communities, method: str, splits: Splits, seed: int
) -> dict[str, Tensor]:
    """Score a trained network once: at random, by magnitude, or by Taylor."""
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        return {n: torch.rand(c.size, generator=generator) for n, c in communities.items()}
    if method == "magnitude":
        return dict(score(communities, "magnitude"))
    return dict(score(communities, method, data=calibration(splits, seed)))


def one_shot_cuts(
    model: nn.Module, splits: Splits, sparsities: tuple[float, ...], seed: int
) -> Iterator[tuple[str, float, Survivors, nn.Module]]:
    """Cut a plainly trained network at every sparsity by every method, without fine-tuning.

    Scores are ranked within each community, so that no layer is wiped out. Every community loses
    the same share, unless one is too small for that, as four heads are for 90 %: then the lowest
    ranks of all communities together go.

    Yields:
        (method, sparsity, survivors, small model).
    """
    communities = discover(model, (splits.train[0][:2],))
    too_small = any(
        Sparsity(share).count(c.size) >= c.size
        for c in communities.values()
        for share in sparsities
    )
    scope: Literal["community", "global"] = "global" if too_small else "community"
    for method in METHODS:
        scores = one_shot_scores(communities, method, splits, seed)
        for sparsity in sparsities:
            survivors = select(scores, Sparsity(sparsity), communities=communities, scope=scope)
            yield method, sparsity, survivors, extract(model, survivors)
