"""Wright-Fisher: selection in a finite population, where chance has a say."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.registry import Dynamic, register
from natsel.dynamics.replicator import velocity as replicator_velocity
from natsel.dynamics.shares import selected_shares


def wright_fisher(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
    individuals: float = 200.0,
) -> Tensor:
    r"""Draw the next generation at random, in proportion to mass and fitness.

    A community has \(N\) = ``individuals`` times n members. With the shares
    \(x_i = m_i / \sum_j m_j\), the mean follows the replicator, and drift is added to it:

    $$dx_i = p\, x_i (f_i - \bar f)\, dt + \text{noise}, \qquad
      \mathrm{Var}(dx_i) = \frac{x_i (1 - x_i)}{N} dt$$

    One step draws offspring and scales them to the old sum of masses:

    $$y_i \sim \mathrm{Poisson}\Big(\frac{N}{dt}
      \frac{x_i e^{p f_i dt}}{\sum_j x_j e^{p f_j dt}}\Big), \qquad
      m_i' = \Big(\sum_j m_j\Big) \frac{y_i}{\sum_j y_j}$$

    Given \(\sum_j y_j\) this is a multinomial draw, and a Poisson draw needs no loop. The sum of
    the masses of a community is conserved. The pressure is the strength of selection; at pressure
    0 only drift moves masses, up and down alike. A population that draws no offspring is extinct.
    In the practically impossible case that nobody draws any, the step leaves the masses alone.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the strength of selection.
        competition: not used.
        generator: the source of chance, on the device of ``mass``; None for torch's own.
        individuals: members of the community per population; fewer mean more drift.

    Returns:
        The masses after the step, shape ``[..., n]``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> mass, fitness = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 9.0])
        >>> drawn = wright_fisher(mass, fitness, 0.01, generator=generator)
        >>> drawn.sum(), drawn[2]
        (tensor(2.), tensor(0.))

    Source:
        R. A. Fisher, The Genetical Theory of Natural Selection (1930). S. Wright, Evolution in
        Mendelian populations, Genetics 16 (1931). W. J. Ewens, Mathematical Population Genetics
        (2004). N / dt draws in a step of dt, so that the drift per unit of time does not depend on
        the step, and the Poisson total are our definition.
    """
    draws = individuals * mass.shape[-1] / dt
    offspring = torch.poisson(
        selected_shares(mass, fitness * (dt * pressure)) * draws, generator=generator
    )
    drawn = offspring.sum(-1, keepdim=True)
    return torch.where(drawn > 0, offspring / drawn * mass.sum(-1, keepdim=True), mass)


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    individuals: float = 200.0,
) -> Tensor:
    r"""The right-hand side of the mean, which is the replicator's.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: not used.
        individuals: not used; it sets the noise and not the mean.

    Returns:
        The mean change of the masses per unit of time, shape ``[..., n]``.
    """
    return replicator_velocity(mass, fitness, pressure=pressure)


register(
    Dynamic(
        "wright-fisher",
        wright_fisher,
        "simplex",
        velocity,
        stochastic=True,
        rate=0.05,
        pressure=0.8,
        adaptation=1e-3,
    )
)
