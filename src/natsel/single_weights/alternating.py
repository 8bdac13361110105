"""Masks by alternation: the best weights near a sparse layer, and the best mask near those."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.single_weights.obs import DAMPING, damped_moments
from natsel.single_weights.patterns import Given, Pattern, keep

PENALTY = 0.5
"""Of 0.03, 0.1, 0.3, 0.5, 1 and 2 it left the least error in two layers of a language model."""
STEPS = 8


def alternate(
    weight: Tensor,
    second: Tensor,
    pattern: Pattern,
    *,
    damping: float = DAMPING,
    penalty: float = PENALTY,
    steps: int = STEPS,
) -> Tensor:
    """Return a mask for a linear layer, found by the alternating direction method of multipliers.

    With inputs scaled to variance 1, V (dense) and Z (sparse) take turns at
    tr (V - W) H (V - W)^T + p |V - Z + U|^2, where U sums up how far they were apart: V by a
    product with (H + p)^-1, which all rows share, Z by what is largest in V + U. Column by column
    nothing that went can come back; here it can.

    Args:
        weight: W, ``[rows, columns]``.
        second: H, ``[columns, columns]``.
        pattern: how many stay, and where.
        damping: added to the diagonal of H, as a share of its mean.
        penalty: p.
        steps: how often they take turns.

    Returns:
        The mask; :func:`natsel.single_weights.refit.refit` gives the weights.

    Example:
        >>> from natsel.single_weights.patterns import OfRows
        >>> alternate(torch.tensor([[1.0, 2.0]]), torch.eye(2), OfRows(1))
        tensor([[False,  True]])

    Reference:
        Boza, "Fast and effective weight update for pruned large language models", TMLR 2024.
    """
    if isinstance(pattern, Given):
        return pattern.mask
    moments = damped_moments(second, damping)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    scale = moments.diagonal().sqrt()
    moments = moments / torch.outer(scale, scale)
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(moments + penalty * torch.eye(len(moments)).to(moments))
    ).to(wide)
    dense = weight.detach().to(scale) * scale
    pull = (dense @ moments).to(wide)
    near = dense.to(wide)
    mask = keep(near.abs(), pattern)
    sparse, apart = near * mask, torch.zeros_like(near)
    for _ in range(steps):
        near = (pull + penalty * (sparse - apart)) @ inverse
        both = near + apart
        mask = keep(both.abs(), pattern)
        sparse = both * mask
        apart = both - sparse
    return mask
