"""Make scores of different communities comparable."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalization = Literal["rank", "mean"] | None


def order(score: Tensor, ties: Tensor | None = None) -> Tensor:
    """Return indices from the fittest to the least fit; ties by ``ties``, then by lower index.

    Args:
        score: ``[n]``.
        ties: ``[n]``, decides among equal scores; higher is fitter.

    Returns:
        int64 ``[n]``.

    Example:
        >>> order(torch.tensor([1., 2., 2.]), torch.tensor([0., 0., 5.]))
        tensor([2, 1, 0])
    """
    index = torch.arange(score.numel(), device=score.device)
    if ties is not None:
        index = index[torch.argsort(ties[index], descending=True, stable=True)]
    return index[torch.argsort(score[index], descending=True, stable=True)]


def normalized(score: Tensor, how: Normalization, ties: Tensor | None = None) -> Tensor:
    """Return scores on a scale that other communities share.

    Args:
        score: ``[n]``.
        how: "rank" (0 for the least fit to 1 for the fittest), "mean" (divided by the mean of the
            absolute scores) or None (as they are).
        ties: decides ranks among equal scores.

    Returns:
        ``[n]``, float64.
    """
    score = score.double()
    if how is None:
        return score
    if how == "mean":
        scale = score.abs().mean()
        return score / scale if float(scale) > 0 else score
    n = score.numel()
    ranks = torch.empty(n, dtype=torch.float64)
    ranks[order(score, ties)] = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    return ranks / max(n - 1, 1)
