"""The size of the gradient that reaches a population."""

from __future__ import annotations

from torch import Tensor

from natsel.fitness.registry import Fitness, Parts, gradient_of, register, total


def gradient_norm(parts: Parts) -> Tensor:
    """Return the L2 norm of dL/dW over the weights that make the population: ``[size]``."""
    sums = []
    for part in parts.producers:
        sums.append(part.per_population(gradient_of(part).square()))
    return total(sums).sqrt()


register(Fitness("gradient", gradient_norm, needs_gradient=True, by_sums=True))
