"""The logistic law: each population grows or dies by itself, measured against the pressure."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.dynamics.registry import Dynamic, register


def logistic(
    mass: Tensor,
    fitness: Tensor,
    dt: float,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Grow where the fitness exceeds the pressure, shrink where it does not, within [0, 1].

    $$\dot m_i = m_i (1 - m_i) (f_i - p)$$

    One step is the exact flow for a fitness that is constant during dt:

    $$m_i' = \frac{m_i e^{a_i}}{1 - m_i + m_i e^{a_i}}, \qquad a_i = (f_i - p)\, dt$$

    The pressure is the fitness that a population needs to keep its mass; at pressure 0 nobody
    shrinks. Rests at mass 0, at mass 1, and wherever the fitness equals the pressure. A mass of
    exactly 1 does not move any more, whatever its fitness: start below 1.

    Args:
        mass: in [0, 1], shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        dt: the time that passes.
        pressure: \(p\), the fitness at which birth and death balance.
        competition: not used.
        generator: not used.

    Returns:
        The masses after the step, in [0, 1], shape ``[..., n]``.

    Example:
        >>> logistic(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([2.0, 1.0, 0.0]), 1.0)
        tensor([0.7311, 0.5000, 0.2689])

    Source:
        P.-F. Verhulst, Notice sur la loi que la population suit dans son accroissement,
        Correspondance mathématique et physique 10 (1838), for the growth. The rate f - p, which
        makes it a law of selection, is our definition; with a constant rate it is the equation of
        two competing types in a population of constant size.
    """
    # The same numbers as from torch.logit, which takes ten times as long for masses of 0. In place:
    # to make a small tensor costs more than to compute it.
    log_odds = (mass / mass.neg().add_(1)).log_()
    return (fitness - pressure).mul_(dt).add_(log_odds).sigmoid_()


def velocity(
    mass: Tensor,
    fitness: Tensor,
    *,
    pressure: float | Tensor = 1.0,
    competition: Tensor | None = None,
) -> Tensor:
    r"""The right-hand side \(m_i (1 - m_i)(f_i - p)\).

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.
        pressure: \(p\).
        competition: not used.

    Returns:
        The change of the masses per unit of time, shape ``[..., n]``.
    """
    return mass * (1 - mass) * (fitness - pressure)


register(Dynamic("logistic", logistic, "box", velocity, rate=0.015, pressure=0.8, adaptation=7e-4))
