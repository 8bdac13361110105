"""Search for the selection that is worth most: fusion weights, layers' shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from natsel.adaptive.arena import Arena
from natsel.adaptive.race import race
from natsel.features.fusion import fuse
from natsel.features.search import maximise, optimizer
from natsel.selection.survivors import Survivors

SPREAD = 0.5
"""How far the first steps of an allocation go: a standard deviation, of the logarithm."""
COOLING = 0.8
"""What is left of it after each generation."""

Decide = Callable[[Mapping[str, Tensor]], Survivors]
"""From scores to survivors: a selection with its budget and options."""


class Searched(NamedTuple):
    """What a search found.

    Attributes:
        weights: W, ``[K]``; of an allocation the logarithms w, one per community.
        survivors: the selection that they make.
        accuracy: of the selection, on the search split; or what else its samples are worth.
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
    stop early, see :func:`natsel.adaptive.race.race`.

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
    best = _Incumbent(arena, equal, decide(fuse(phi, equal)))
    searcher = optimizer(
        method,
        num_features,
        generations=generations,
        population=population,
        generator=generator,
    )

    def objective(candidates: Tensor) -> Tensor:
        return best.meet(candidates, [decide(fuse(phi, w)) for w in candidates])

    history = maximise(objective, searcher, generations=generations).history
    return best.found(arena.num_images - images, generations * population, history)


def search_allocation(
    arena: Arena,
    scores: Mapping[str, Tensor],
    decide: Decide,
    *,
    generations: int = 8,
    population: int = 8,
    generator: torch.Generator,
) -> Searched:
    r"""Search how much each community should lose, in the order that scores give within it.

    The scores of community c are multiplied by $e^{w_c}$ before all are compared, so w decides
    shares and scores decide who goes. The first steps start from scores with mean 1
    everywhere (w = 0) and from raw ones, later ones from the incumbent; they are Gaussian and get
    shorter by a fifth with each generation. It sees the arena's samples and no others.

    Args:
        arena: the search split.
        scores: ``[n]`` per community, not negative.
        decide: makes survivors of scores that are compared as they are.
        generations: how many rounds.
        population: candidates each time.
        generator: where all randomness comes from.

    Returns:
        The best w, one number per community, and what it selects.
    """
    means = torch.stack([v.double().mean() for v in scores.values()]).clamp_min(1e-30)
    units = {n: v.double() / m for (n, v), m in zip(scores.items(), means, strict=True)}

    def selections(candidates: Tensor) -> list[Survivors]:
        return [
            decide({n: v * float(f) for (n, v), f in zip(units.items(), w.exp(), strict=True)})
            for w in candidates
        ]

    images = arena.num_images
    starts = torch.stack((torch.zeros(len(means), dtype=torch.float64), means.log()))
    best = _Incumbent(arena, starts[0], selections(starts[:1])[0])
    best.meet(starts[1:], selections(starts[1:]))
    history = []
    for generation in range(generations):
        steps = torch.randn(population, len(means), generator=generator, dtype=torch.float64)
        # At first around both starts: where all near one select the same, nothing leads away.
        turn = torch.arange(population) % len(starts)
        centre = starts[turn] if generation == 0 else best.weights
        candidates = centre + SPREAD * COOLING**generation * steps
        best.meet(candidates, selections(candidates))
        history.append(best.accuracy)
    return best.found(arena.num_images - images, generations * population, tuple(history))


class _Incumbent:
    """The best that a search has seen on the whole search split."""

    def __init__(self, arena: Arena, weights: Tensor, survivors: Survivors) -> None:
        self.arena = arena
        self.weights = weights
        self.survivors = survivors
        self.accuracy = arena.value(survivors)

    def meet(self, candidates: Tensor, selections: Sequence[Survivors]) -> Tensor:
        """Race candidates against it; the winner takes its place if it is better on all samples.

        Returns:
            What each is worth, ``[m]``.
        """
        values = race(self.arena, selections, self.survivors)
        top = int(values.argmax())
        if float(values[top]) > self.accuracy:
            # Estimated ahead on a part of the samples is not ahead: the whole split decides.
            accuracy = self.arena.value(selections[top])
            if accuracy > self.accuracy:
                self.weights = candidates[top].clone()
                self.survivors = selections[top]
                self.accuracy = accuracy
        return values

    def found(self, images: int, evaluations: int, history: tuple[float, ...]) -> Searched:
        """Return it as the result of a search."""
        return Searched(self.weights, self.survivors, self.accuracy, images, evaluations, history)
