"""The participation game: each population decides how much to take part, by its own utility."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.competition import crowding
from natsel.dynamics.registry import Dynamic, register


def participation(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Climb one's own utility: what participation brings, less what it costs.

    $$U_i = f_i m_i - p \Big( \tfrac12 m_i^2 + m_i c_i \Big), \qquad
      c_i = \sum_{j \ne i} A_{ij} m_j$$

    $$\dot m_i = \frac{\partial U_i}{\partial m_i} = f_i - p (m_i + c_i)
      \quad \text{projected to } [0, 1]$$

    The first cost is for size, the same for every population of a community; the second is for
    redundancy with the others. One step is projected gradient ascent:

    $$m_i' = \min\big(1, \max\big(0,\; m_i + [f_i - p (m_i + c_i)]\, dt\big)\big)$$

    The pressure is the price of taking part; at pressure 0 nobody shrinks. Who has left does not
    return. Masses reach 0 in finite time. The step is explicit: keep p dt well below 1.

    Args:
        mass: in [0, 1], shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the price of size and of redundancy.
        competition: \(A\) as :func:`natsel.dynamics.competition` gives it, shape ``[..., n, n]``;
            None for the same 1 / (n - 1) between any two.
        generator: not used.

    Returns:
        The masses after the step, in [0, 1], shape ``[..., n]``.

    Example:
        >>> participation(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.75, 0.25, 2.0]), 0.5)
        tensor([1.0000, 0.2500, 0.0000])

    Source:
        The game of arXiv 2512.22106 (Pruning as a Game), in our reading: the quadratic cost of
        size, the bilinear cost of redundancy, the projection, and that who left does not return
        are our definition.
    """
    utility_slope = fitness - pressure * (mass + crowding(mass, competition))
    return torch.where(mass > 0, (mass + dt * utility_slope).clamp_(0.0, 1.0), mass)


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
) -> Tensor:
    r"""The right-hand side, projected: 0 for the extinct, never up at mass 1.

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: \(A\), shape ``[..., n, n]``.

    Returns:
        The change of the masses per unit of time, shape ``[..., n]``.
    """
    utility_slope = fitness - pressure * (mass + crowding(mass, competition))
    inside = torch.where(mass < 1, utility_slope, utility_slope.clamp(max=0.0))
    return torch.where(mass > 0, inside, torch.zeros_like(mass))


register(
    Dynamic(
        "participation",
        participation,
        "box",
        velocity,
        competes=True,
        rate=0.005,
        pressure=0.4,
        adaptation=1e-3,
    )
)
