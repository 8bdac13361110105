"""Scores of the populations of one block, while it is in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from natsel.blockwise import Place, Store
from natsel.common.errors import NonFiniteError, refuse
from natsel.common.finite import of_weights
from natsel.communities import Communities
from natsel.communities.gates.gates import masses_of
from natsel.fitness import Fitness
from natsel.fitness.parts import PartsReader, Watch


def scored(
    communities: Communities,
    fitness: Fitness,
    place: Place,
    onward: Store,
    names: Sequence[str],
    path: str,
) -> list[Tensor]:
    """Score the communities of one block; the hidden states that leave it are handed on.

    The same numbers as :func:`natsel.score` gives over the whole model: no scorer looks at more
    than what enters the weights that read a population, and at these weights.

    Args:
        communities: of the block alone.
        fitness: the scorer.
        place: the block in the dense model, with what enters it.
        onward: gets what leaves it.
        names: of the communities in the whole model.
        path: of the block in it.

    Returns:
        One score per population, in the order of the communities.

    Raises:
        NonFiniteError: if a score is NaN or infinite.
    """
    if not len(communities):
        place.leave(onward)
        return []
    reader = PartsReader(communities)
    masses = list(masses_of(communities).values())
    statistics = None
    if fitness.statistic is None:
        place.leave(onward)
    else:
        watch = Watch(communities, fitness.statistic, asked=f"scorer={fitness.name!r}")
        try:
            place.leave(onward)
            statistics = watch.read()
        finally:
            watch.close()
    scores = []
    with torch.no_grad():
        for number, (name, community) in enumerate(zip(names, communities.values(), strict=True)):
            value = fitness.signal(reader.read(number, masses[number], lambda _: None, statistics))
            if not isinstance(value, Tensor) or value.shape != (community.size,):
                refuse("scorer", fitness.name, f"a function that returns shape [{community.size}]")
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"scorer {fitness.name!r} gave NaN or infinity in {name!r}"
                    f"{of_weights(place.block, path)}"
                )
            scores.append(value.detach().float().cpu())
    return scores
