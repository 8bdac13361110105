"""The replicator: those fitter than the mean grow at the cost of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.registry import Dynamic, register
from natsel.dynamics.shares import mean_fitness, selected_shares


def replicator(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Let shares grow by how far their fitness exceeds the mean of the community.

    With the shares \(x_i = m_i / \sum_j m_j\) and the mean fitness \(\bar f = \sum_j x_j f_j\),

    $$\dot x_i = p\, x_i (f_i - \bar f)$$

    One step is the exact flow for a fitness that is constant during dt:

    $$m_i' = \Big(\sum_j m_j\Big) \frac{m_i e^{p f_i dt}}{\sum_j m_j e^{p f_j dt}}$$

    The sum of the masses of a community is conserved. The pressure is the speed of selection; at
    pressure 0 nothing moves. Rests where all the living are equally fit, so also where one
    population is left. Left alone it ends there: the law concentrates mass.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the strength of selection.
        competition: not used; the sum that is shared is all the competition there is.
        generator: not used.

    Returns:
        The masses after the step, shape ``[..., n]``.

    Example:
        >>> replicator(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0]).log(), 1.0)
        tensor([1.5000, 0.5000])

    Source:
        P. D. Taylor and L. B. Jonker, Evolutionarily stable strategies and game dynamics,
        Mathematical Biosciences 40 (1978). P. Schuster and K. Sigmund, Replicator dynamics,
        Journal of Theoretical Biology 100 (1983). Selection by mass in training is the idea of
        arXiv 2601.10765. The pressure is our definition.
    """
    return selected_shares(mass, fitness * (dt * pressure)) * mass.sum(-1, keepdim=True)


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
) -> Tensor:
    r"""The right-hand side \(\dot m_i = p\, m_i (f_i - \bar f)\).

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: not used.

    Returns:
        The change of the masses per unit of time, shape ``[..., n]``.
    """
    return pressure * mass * (fitness - mean_fitness(mass, fitness))


register(
    Dynamic("replicator", replicator, "simplex", velocity, rate=0.05, pressure=0.8, adaptation=1e-3)
)
