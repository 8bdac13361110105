"""The size of a population's weights: incoming, outgoing, and their product."""

from __future__ import annotations

from torch import Tensor

from natsel.fitness.registry import Fitness, Parts, register, squares, total


def l1(parts: Parts) -> Tensor:
    """Return the L1 norm of the weights that make the population: ``[size]``."""
    return total([p.per_population(p.weight.abs()) for p in parts.producers])


def magnitude_in(parts: Parts) -> Tensor:
    """Return the L2 norm of the weights that make the population: ``[size]``."""
    return squares(parts.producers).sqrt()


def log_magnitude_in(parts: Parts) -> Tensor:
    """Return log(1 + the L2 norm of the incoming weights): ``[size]``.

    It rises strictly with the norm, and is 0 at 0: a scorer that sorts as "l2" does, to show what
    that comes to. In floating point two norms beside each other may become one number.
    """
    return magnitude_in(parts).log1p()


def magnitude_out(parts: Parts) -> Tensor:
    """Return the L2 norm of the weights that read the population, times its mass: ``[size]``."""
    return squares(parts.consumers).sqrt() * parts.mass


def magnitude(parts: Parts) -> Tensor:
    """Return incoming times outgoing norm: invariant to rescaling between the two: ``[size]``."""
    return magnitude_in(parts) * magnitude_out(parts)


register(Fitness("l1", l1, by_sums=True))
register(Fitness("l2", magnitude_in, by_sums=True))
register(Fitness("log-l2", log_magnitude_in, by_sums=True))
register(Fitness("magnitude-in", magnitude_in, by_sums=True))
register(Fitness("magnitude-out", magnitude_out, by_sums=True))
register(Fitness("magnitude", magnitude, by_sums=True))
