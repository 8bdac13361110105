"""The size of a population's weights: incoming, outgoing, and their product."""

from __future__ import annotations

from torch import Tensor

from natsel.fitness.registry import Fitness, Parts, register, squares


def magnitude_in(parts: Parts) -> Tensor:
    """Return the L2 norm of the weights that make the population: ``[size]``."""
    return squares(parts.producers).sqrt()


def magnitude_out(parts: Parts) -> Tensor:
    """Return the L2 norm of the weights that read the population, times its mass: ``[size]``."""
    return squares(parts.consumers).sqrt() * parts.mass


def magnitude(parts: Parts) -> Tensor:
    """Return incoming times outgoing norm: invariant to rescaling between the two: ``[size]``."""
    return magnitude_in(parts) * magnitude_out(parts)


register(Fitness("magnitude-in", magnitude_in))
register(Fitness("magnitude-out", magnitude_out))
register(Fitness("magnitude", magnitude))
