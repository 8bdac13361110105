"""Lotka-Volterra competition: those who do the same thing crowd each other out."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.competition import crowding
from natsel.dynamics.registry import Dynamic, register


def lotka_volterra(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Grow logistically by fitness, die by the crowding of similar populations.

    $$\dot m_i = m_i \big[ f_i (1 - m_i) - p\, c_i \big], \qquad c_i = \sum_{j \ne i} A_{ij} m_j$$

    One step is the scheme of Leslie and Gower, which stays in [0, 1] for every dt and rests
    exactly where the equation does:

    $$m_i' = m_i \frac{1 + f_i\, dt}{1 + (f_i m_i + p\, c_i)\, dt}$$

    The pressure is the weight of competition; at pressure 0 nobody shrinks. A population alone
    goes to mass 1.

    Args:
        mass: in [0, 1], shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the strength of competition.
        competition: \(A\) as :func:`natsel.dynamics.competition` gives it, shape ``[..., n, n]``;
            None for the same 1 / (n - 1) between any two.
        generator: not used.

    Returns:
        The masses after the step, in [0, 1], shape ``[..., n]``.

    Example:
        >>> lotka_volterra(torch.tensor([0.5, 0.5]), torch.tensor([2.0, 1.0]), 1.0)
        tensor([0.6000, 0.5000])

    Source:
        A. J. Lotka, Elements of Physical Biology (1925). V. Volterra, Variazioni e fluttuazioni
        del numero d'individui in specie animali conviventi (1926). P. H. Leslie and J. C. Gower,
        The properties of a stochastic model for two competing species, Biometrika 45 (1958), for
        the step. Fitness as the growth rate and the pressure are our definition.
    """
    growth = dt * fitness
    deaths = dt * pressure * crowding(mass, competition)
    # Rounding can leave 1 + 1e-7, which is outside the box.
    return (mass * (1 + growth) / (1 + growth * mass + deaths)).clamp_(max=1.0)


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
) -> Tensor:
    r"""The right-hand side \(m_i [f_i (1 - m_i) - p\, c_i]\).

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: \(A\), shape ``[..., n, n]``.

    Returns:
        The change of the masses per unit of time, shape ``[..., n]``.
    """
    return mass * (fitness * (1 - mass) - pressure * crowding(mass, competition))


register(
    Dynamic(
        "lotka-volterra",
        lotka_volterra,
        "box",
        velocity,
        competes=True,
        rate=0.03,
        pressure=0.7,
        adaptation=1.5e-3,
    )
)
