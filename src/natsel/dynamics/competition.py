"""Who crowds whom: the competition matrix, and the crowding that it causes."""

from __future__ import annotations

import torch
from torch import Tensor


def competition(features: Tensor) -> Tensor:
    r"""Measure how much populations do the same thing.

    $$A_{ij} = s \cos^2(v_i, v_j), \qquad A_{ii} = 0$$

    The scale \(s\) makes the mean row sum 1, so that the crowding \(\sum_j A_{ij} m_j\) has mean 1
    over the populations when every mass is 1. A row of zeros resembles nobody; where nobody
    resembles anybody the matrix is 0. The square makes opposite directions as redundant as equal
    ones, because a linear consumer can flip a sign. Our definition.

    Takes \(O(n^2 d)\) time and \(O(n^2)\) memory: compute it now and then, not at every step.

    Args:
        features: what describes each population, for instance its weights. Shape ``[..., n, d]``.

    Returns:
        The matrix, shape ``[..., n, n]``: symmetric, >= 0, with a diagonal of 0.

    Example:
        >>> competition(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
        tensor([[0.0000, 1.5000, 0.0000],
                [1.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    unit = torch.nn.functional.normalize(features, dim=-1)
    matrix = (unit @ unit.mT).square()
    matrix.diagonal(dim1=-2, dim2=-1).zero_()
    mean = matrix.sum(-1).mean(-1)[..., None, None]
    # Orthogonal rows leave rounding noise, which must not be blown up to a mean of 1.
    return matrix / mean.clamp(min=torch.finfo(matrix.dtype).eps)


def crowding(mass: Tensor, competition: Tensor | None = None) -> Tensor:
    r"""Sum what each population suffers from the others.

    $$c_i = \sum_{j \ne i} A_{ij} m_j$$

    Without a matrix everyone crowds everyone equally, \(A_{ij} = 1/(n-1)\), and no matrix is built.

    Args:
        mass: shape ``[..., n]``.
        competition: the matrix \(A\) with a diagonal of 0, shape ``[..., n, n]``.

    Returns:
        The crowding, shape ``[..., n]``; 0 for a population that is alone.

    Example:
        >>> crowding(torch.tensor([1.0, 0.5, 0.0]))
        tensor([0.2500, 0.5000, 0.7500])
    """
    if competition is None:
        return (mass.sum(-1, keepdim=True) - mass) / max(mass.shape[-1] - 1, 1)
    return (competition @ mass.unsqueeze(-1)).squeeze(-1)
