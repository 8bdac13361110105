"""Fusion: one score from several features of one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.features.ranks import ranks
from natsel.features.registry import Feature


def standardised(values: Tensor) -> Tensor:
    """Return numbers with mean 0 and standard deviation 1; a constant becomes 0.

    Example:
        >>> standardised(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    centred = values - values.mean()
    spread = float(values.std(correction=0))
    return centred / spread if spread > 1e-12 else torch.zeros_like(values)


def feature_matrix(u: Tensor, features: Sequence[Feature]) -> Tensor:
    """Return each feature of each rank, standardised within the community: ``[n, K]``."""
    return torch.stack([standardised(f.function(u)) for f in features], dim=1)


def matrices(statistics: Mapping[str, Tensor], features: Sequence[Feature]) -> dict[str, Tensor]:
    """Return the feature matrix of each community; see :func:`feature_matrix`.

    Args:
        statistics: ``{community: [n]}``, what is ranked.
        features: K of them.

    Returns:
        ``{community: [n, K]}``, float64.

    Raises:
        ValueError: if there is no feature.
    """
    if not features:
        refuse("features", [], "at least one feature")
    return {name: feature_matrix(ranks(s), features) for name, s in statistics.items()}


def fuse(phi: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
    r"""Return a score per population: $\sum_k W_k \phi_k(u)$.

    Args:
        phi: feature matrices ``{community: [n, K]}``, from :func:`matrices`.
        weights: W, ``[K]`` for all communities, or ``[L, K]`` with one row for each in order; None
            for equal weights.

    Returns:
        ``{community: [n]}``, float64.

    Raises:
        ValueError: if the weights have another shape.

    Example:
        >>> fuse({"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, torch.tensor([1.0, -1.0]))
        {'a': tensor([-1., -1.])}
    """
    num_features = next(iter(phi.values())).shape[1]
    if weights is None:
        weights = torch.full((num_features,), 1 / num_features, dtype=torch.float64)
    if weights.shape not in ((num_features,), (len(phi), num_features)):
        allowed = f"[{num_features}], or [{len(phi)}, {num_features}]"
        refuse("weights", f"shape {list(weights.shape)}", allowed)
    rows = weights.expand(len(phi), num_features)
    return {name: m @ w.to(m.dtype) for (name, m), w in zip(phi.items(), rows, strict=True)}
