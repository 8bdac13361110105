"""What a population does on data: signals from the activations that its consumers read."""

from __future__ import annotations

from torch import Tensor

from natsel.fitness.registry import Fitness, Parts, register, total


def variance(parts: Parts) -> Tensor:
    """Return the variance of the population's activation times its squared mass: ``[size]``.

    A population that always says the same can be replaced by a bias.
    """
    sums = []
    for part in parts.consumers:
        assert part.activation is not None
        sums.append(part.gather(part.activation))
    return total(sums) * parts.mass.square()


def wanda(parts: Parts) -> Tensor:
    """Return sum |W| times the root mean square of the activation it multiplies: ``[size]``.

    Source: Sun et al., 2306.11695, summed over the weights that read the population.
    """
    sums = []
    for part in parts.consumers:
        assert part.activation is not None
        sums.append(part.gather(part.per_place(part.weight.abs()) * part.activation.sqrt()))
    return total(sums) * parts.mass


def contribution(parts: Parts) -> Tensor:
    r"""Return the standard deviation of what the population adds to its consumers: ``[size]``.

    $\sqrt{\sum_j \mathrm{Var}(h_j) \|W_{:, j}\|^2}$ times its mass: what a constant cannot
    replace.
    """
    sums = []
    for part in parts.consumers:
        assert part.activation is not None
        sums.append(part.gather(part.per_place(part.weight.square()) * part.activation))
    return total(sums).sqrt() * parts.mass


register(Fitness("contribution", contribution, statistic="variance", by_sums=True))
register(Fitness("variance", variance, statistic="variance", by_sums=True))
register(Fitness("wanda", wanda, statistic="square", by_sums=True))
