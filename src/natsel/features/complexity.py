"""How complex a feature is, measured: Chebyshev degree, monotone pieces, tie to the magnitude.

The degree is that of the shortest Chebyshev expansion over [0, 1] that holds 99 % of the energy
beside the mean. Monotone pieces are counted on an even grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

NUM_NODES = 2048
NUM_PLACES = 1025
ENERGY = 0.99
MAX_DEGREE, MAX_PIECES = 24, 24
"""Beyond either, a feature has fine structure: kappa is 2."""
RIPPLE = 1e-6
"""What share of its range a feature may fall back without a piece of its own: rounding."""
NUM_BINS = 16


class Complexity(NamedTuple):
    """What was measured of a feature.

    Attributes:
        degree: Chebyshev degree that holds 99 % of the energy.
        pieces: how many monotone pieces it has.
        kappa: 0 for one piece; 2 for more than 24 pieces or a degree above 24; else 1.
    """

    degree: int
    pieces: int
    kappa: int


def chebyshev_energy(function: Callable[[Tensor], Tensor], num_nodes: int = NUM_NODES) -> Tensor:
    r"""Return the squared Chebyshev coefficients of a function over [0, 1], without the mean.

    At the nodes $x_j = \cos(\pi (j + 1/2) / N)$ the coefficients are a discrete cosine
    transform.

    Args:
        function: from ``[N]`` ranks to ``[N]`` numbers.
        num_nodes: N.

    Returns:
        ``[N]``; entry k is the energy at degree k, entry 0 is 0.

    Example:
        >>> chebyshev_energy(lambda u: 2 * u - 1, 4).round(decimals=6)
        tensor([0., 1., 0., 0.], dtype=torch.float64)
    """
    angles = np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
    values = function(torch.from_numpy((np.cos(angles) + 1) / 2)).double().numpy()
    coefficients = scipy.fft.dct(values, type=2) / num_nodes
    energy = torch.from_numpy(coefficients).square()
    energy[0] = 0
    return energy


def degree(function: Callable[[Tensor], Tensor]) -> int:
    """Return the Chebyshev degree that holds 99 % of the energy; 0 of a constant.

    Example:
        >>> degree(lambda u: 8 * (2 * u - 1) ** 4 - 8 * (2 * u - 1) ** 2 + 1)
        4
    """
    energy = chebyshev_energy(function).cumsum(0)
    if float(energy[-1]) <= 1e-24:
        return 0
    return int((energy < ENERGY * energy[-1]).sum())


def monotone_pieces(values: Tensor) -> int:
    """Return in how many monotone pieces a curve falls; steps of rounding are none.

    Example:
        >>> monotone_pieces(torch.tensor([0.0, 1.0, 1.0, 2.0, 1.5]))
        2
    """
    extent = float(values.max() - values.min())
    steps = values.diff()
    signs = steps[steps.abs() > RIPPLE * extent].sign()
    return 1 + int((signs.diff() != 0).sum())


def measure(function: Callable[[Tensor], Tensor]) -> Complexity:
    """Measure the complexity of a function of the rank.

    Args:
        function: from ``[n]`` ranks in [0, 1] to ``[n]`` numbers.

    Returns:
        Degree, pieces and the kappa that they make.

    Example:
        >>> measure(lambda u: u**3)
        Complexity(degree=2, pieces=1, kappa=0)
    """
    pieces = monotone_pieces(function(torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)))
    order = degree(function)
    rough = pieces > MAX_PIECES or order > MAX_DEGREE
    return Complexity(order, pieces, 0 if pieces == 1 else 2 if rough else 1)


def rank_correlation(feature: Tensor, u: Tensor) -> float:
    """Return the absolute Spearman correlation between a feature and the rank, in [0, 1].

    Args:
        feature: ``[n]``.
        u: ``[n]``.

    Returns:
        1 if monotone; 0 for a constant.
    """
    if float(feature.max() - feature.min()) == 0 or feature.numel() < 2:
        return 0.0
    return abs(float(scipy.stats.spearmanr(feature.cpu().numpy(), u.cpu().numpy()).statistic))


def mutual_information(feature: Tensor, u: Tensor, *, bins: int = NUM_BINS) -> float:
    r"""Return what a feature tells of the rank's bin, as a share of all there is to tell.

    $I(F; U) / H(U)$ over equally filled bins of both. It is 1 for anything monotone, and it stays
    high for a smooth function: not a monotone relation alone, but any.

    Args:
        feature: ``[n]``.
        u: ``[n]``.
        bins: of each; fewer where n is small.

    Returns:
        In [0, 1].
    """
    n = feature.numel()
    bins = max(2, min(bins, n // 4)) if n >= 8 else 2
    table = np.zeros((bins, bins))
    for f, r in zip(_bin(feature, bins), _bin(u, bins), strict=True):
        table[f, r] += 1 / n
    rows, columns = table.sum(1, keepdims=True), table.sum(0, keepdims=True)
    there = table > 0
    information = float((table[there] * np.log(table[there] / (rows @ columns)[there])).sum())
    of_rank = columns[columns > 0]
    entropy = -float((of_rank * np.log(of_rank)).sum())
    return min(1.0, information / entropy) if entropy > 0 else 0.0


def _bin(values: Tensor, bins: int) -> list[int]:
    # Equal values share a bin: a constant tells nothing.
    position = scipy.stats.rankdata(values.cpu().numpy(), method="min") - 1
    return [min(bins - 1, int(p * bins / len(position))) for p in position]
