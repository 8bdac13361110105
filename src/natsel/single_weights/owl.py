"""Shares of layers by their outliers: what holds more of them loses less."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

OUTLIER = 5.0
"""A score is an outlier from this multiple of the mean of its layer on."""
SPREAD = 0.08
"""How far shares are from their mean at most."""


def outlier_ratio(weight: Tensor, norms: Tensor, *, outlier: float = OUTLIER) -> float:
    """Return the share of the scores |w| |x| of a matrix that are far above their mean.

    Args:
        weight: ``[rows, columns]``.
        norms: root mean squares of what enters, ``[columns]``.
        outlier: how far, as a multiple of the mean.

    Example:
        >>> outlier_ratio(torch.tensor([[1.0, 1.0, 1.0, 97.0]]), torch.ones(4), outlier=3.0)
        0.25
    """
    scores = weight.detach().abs().float() * norms.to(weight.device, torch.float32)
    return float((scores > outlier * scores.mean()).float().mean())


def owl_shares(
    ratios: Mapping[str, float],
    sizes: Mapping[str, int],
    share: float,
    *,
    spread: float = SPREAD,
) -> dict[str, float]:
    """Return the share that goes of each layer, so that the mean over all weights is asked for.

    Ratios are laid on an interval of length 2 ``spread``: the layer with most outliers loses least.

    Args:
        ratios: of outliers by layer.
        sizes: weights by layer.
        share: that goes of all.
        spread: half of the longest distance between two shares.

    Example:
        >>> shares = owl_shares({"a": 0.1, "b": 0.3}, {"a": 4, "b": 4}, 0.5, spread=0.1)
        >>> {name: round(s, 3) for name, s in shares.items()}
        {'a': 0.6, 'b': 0.4}

    Reference:
        Yin et al., "Outlier weighed layerwise sparsity (OWL)", ICML 2024.
    """
    low, high = min(ratios.values()), max(ratios.values())
    if high == low:
        return dict.fromkeys(ratios, share)
    # No share may leave [0, 1).
    spread = min(spread, share / 2, (1 - share) / 2)
    places = {n: 2 * spread * (r - low) / (high - low) for n, r in ratios.items()}
    total = sum(sizes.values())
    mean = sum(places[n] * sizes[n] for n in ratios) / total
    return {n: share - place + mean for n, place in places.items()}
