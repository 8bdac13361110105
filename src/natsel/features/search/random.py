"""Random search: the control that any search must beat with the same budget."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Return points drawn evenly from [-1, 1]^d, float64 ``[count, d]``."""
    return 2 * torch.rand(count, dimension, generator=generator, dtype=torch.float64) - 1


class RandomSearch:
    """Candidates drawn evenly, whatever the ones before were worth.

    Args:
        dimension: d.
        generations: not used.
        population: candidates each time.
        generator: draws them.
    """

    def __init__(
        self, dimension: int, *, generations: int, population: int, generator: torch.Generator
    ) -> None:
        self.dimension = dimension
        self.population = population
        self.generator = generator

    def ask(self) -> Tensor:
        """Return the next candidates."""
        return uniform(self.population, self.dimension, self.generator)

    def tell(self, candidates: Tensor, values: Tensor) -> None:
        """Learn nothing."""
