"""The replicator with mutation: some of the newborn go to every living population."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.registry import Dynamic, register
from natsel.dynamics.shares import mean_fitness, selected_shares


def replicator_mutator(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
    mutation: float | Tensor = 0.002,
) -> Tensor:
    r"""Select like the replicator, but scatter a part of the births over all the living.

    With the shares \(x_i = m_i / \sum_j m_j\), the mutation \(\mu\) and \(k\) living populations,

    $$\dot x_i = p \Big[ (1 - \mu) x_i f_i + \frac{\mu}{k} \bar f - x_i \bar f \Big]$$

    One step takes the births \(b_i = x_i (e^{p f_i dt} - 1)\) and gives the shares

    $$x_i' = \frac{x_i + (1 - \mu) b_i + \frac{\mu}{k} \sum_j b_j}{1 + \sum_j b_j}$$

    The sum of the masses of a community is conserved. The pressure is the speed of selection and
    of mutation alike; at pressure 0 nothing moves. Mutation 0 is the replicator. Any mutation above
    0 keeps every living population away from 0, so the law ranks and does not exterminate; what is
    already extinct receives no mutants.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the strength of selection.
        competition: not used.
        generator: not used; the mutants are a mean, not a draw.
        mutation: \(\mu\) in [0, 1], the part of the births that is scattered.

    Returns:
        The masses after the step, shape ``[..., n]``.

    Example:
        >>> mass, fitness = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, 1.0]).log()
        >>> replicator_mutator(mass, fitness, 1.0, mutation=0.5)
        tensor([1.2500, 0.7500, 0.0000])

    Source:
        K. P. Hadeler, Stable polymorphisms in a selection model with mutation, SIAM Journal on
        Applied Mathematics 41 (1981). K. M. Page and M. A. Nowak, Unifying evolutionary dynamics,
        Journal of Theoretical Biology 219 (2002). Uniform mutation among the living and the
        discrete step are our definition.
    """
    growth = fitness * (dt * pressure)
    living = mass > 0
    selected = selected_shares(mass, growth)
    # Divided by the new total, the births are s(1 - e^-a): no exponent overflows, and what
    # mutation takes and gives cancels in the sum.
    births = selected * -torch.expm1(-growth)
    mutants = births.sum(-1, keepdim=True) / living.sum(-1, keepdim=True).clamp(min=1)
    shares = selected + mutation * (mutants - births)
    return torch.where(living, shares * mass.sum(-1, keepdim=True), mass)


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    mutation: float | Tensor = 0.002,
) -> Tensor:
    r"""The right-hand side, times the sum of the masses; 0 for the extinct.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: not used.
        mutation: \(\mu\).

    Returns:
        The change of the masses per unit of time, shape ``[..., n]``.
    """
    living = mass > 0
    births = mass * fitness
    mutants = births.sum(-1, keepdim=True) / living.sum(-1, keepdim=True).clamp(min=1)
    change = births + mutation * (mutants - births) - mass * mean_fitness(mass, fitness)
    return torch.where(living, pressure * change, torch.zeros_like(mass))


register(
    Dynamic(
        "replicator-mutator",
        replicator_mutator,
        "simplex",
        velocity,
        rate=0.05,
        pressure=0.8,
        adaptation=1e-3,
    )
)
