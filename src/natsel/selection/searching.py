"""Search the weights of a fusion for the selection that keeps most of the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from natsel.features.fusion import fuse
from natsel.features.search import maximise, optimizer
from natsel.selection.arena import Arena
from natsel.selection.race import race
from natsel.selection.survivors import Survivors

Decide = Callable[[Mapping[str, Tensor]], Survivors]
"""From scores to survivors: a selection with its budget and options."""


class Searched(NamedTuple):
    """What a search found.

    Attributes:
        weights: W, ``[K]``.
        survivors: the selection that they make.
        accuracy: of the selection, on the search split.
        images: how many samples were run for it.
        evaluations: how many candidates were asked for.
        history: the best accuracy after each generation.
    """

    weights: Tensor
    survivors: Survivors
    accuracy: float
    images: int
    evaluations: int
    history: tuple[float, ...]


def search_weights(
    arena: Arena,
    phi: Mapping[str, Tensor],
    decide: Decide,
    *,
    method: str = "dbo",
    generations: int = 6,
    population: int = 8,
    generator: torch.Generator,
) -> Searched:
    """Search W in [-1, 1]^K so that what ``sum_k W_k phi_k`` selects predicts best.

    It sees the arena's samples and no others: whatever is reported must come from another split.
    Equal weights are the first incumbent; candidates that are clearly worse than the incumbent
    stop early, see :func:`natsel.selection.race.race`.

    Args:
        arena: the search split.
        phi: feature matrices ``{community: [n, K]}``.
        decide: makes survivors of scores.
        method: name of an optimizer.
        generations: how often it is asked.
        population: candidates each time.
        generator: where all randomness comes from.

    Returns:
        The best weights; equal ones if nothing beat them.
    """
    num_features = next(iter(phi.values())).shape[1]
    equal = torch.full((num_features,), 1 / num_features, dtype=torch.float64)
    images = arena.num_images
    first = decide(fuse(phi, equal))
    best = Best(equal, first, arena.accuracy(first))

    def objective(candidates: Tensor) -> Tensor:
        nonlocal best
        selections = [decide(fuse(phi, w)) for w in candidates]
        values = race(arena, selections, best.survivors)
        top = int(values.argmax())
        if float(values[top]) > best.accuracy:
            # Estimated ahead on a part of the samples is not ahead: the whole split decides.
            accuracy = arena.accuracy(selections[top])
            if accuracy > best.accuracy:
                best = Best(candidates[top].clone(), selections[top], accuracy)
        return values

    searcher = optimizer(
        method,
        num_features,
        generations=generations,
        population=population,
        generator=generator,
    )
    history = maximise(objective, searcher, generations=generations).history
    return Searched(
        best.weights,
        best.survivors,
        best.accuracy,
        arena.num_images - images,
        generations * population,
        history,
    )


class Best(NamedTuple):
    """The incumbent of a search."""

    weights: Tensor
    survivors: Survivors
    accuracy: float
