"""What the laws on the simplex have in common: the share a population has of its community."""

from __future__ import annotations

import torch
from torch import Tensor


def selected_shares(mass: Tensor, advantage: Tensor) -> Tensor:
    r"""Give each population the share that it has after exponential growth.

    $$s_i = \frac{m_i e^{a_i}}{\sum_j m_j e^{a_j}}$$

    Args:
        mass: shape ``[..., n]``.
        advantage: the exponents \(a\), of any size, shape ``[..., n]``.

    Returns:
        Shares that sum to 1 along the last axis; all 0 where nobody lives.

    Example:
        >>> selected_shares(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1000.0, 1000.0, 9999.0]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    # As a softmax, no exponent overflows, and a fit but extinct population (log 0) has no say.
    return torch.where(mass > 0, torch.softmax(mass.log() + advantage, -1), mass)


def mean_fitness(mass: Tensor, fitness: Tensor) -> Tensor:
    r"""Average the fitness of a community, weighted by mass: \(\bar f = \sum_i x_i f_i\).

    Args:
        mass: shape ``[..., n]``.
        fitness: shape ``[..., n]``.

    Returns:
        The mean, shape ``[..., 1]``; 0 where nobody lives.

    Example:
        >>> mean_fitness(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]))
        tensor([1.2500])
    """
    total = mass.sum(-1, keepdim=True)
    return (mass * fitness).sum(-1, keepdim=True) / total.clamp(min=torch.finfo(mass.dtype).tiny)
