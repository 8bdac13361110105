"""Non-monotone features without chaos: sines, Weierstrass functions, splines, one bump."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import scipy
import torch
from torch import Tensor

from natsel.features.registry import Feature, register

NUM_TERMS = 8
NUM_KNOTS = 7


def sine(frequency: int, u: Tensor) -> Tensor:
    """Return sin(pi f u): f half-waves over the community, ``[n]``."""
    return (math.pi * frequency * u.double()).sin()


def weierstrass(a: float, b: float, u: Tensor) -> Tensor:
    r"""Return $\sum_{k=0}^{7} a^k \cos(b^k \pi u)$: detail at every scale, ``[n]``.

    Args:
        a: how much weaker each term is, in (0, 1).
        b: how much faster; a b > 1.
        u: ranks in [0, 1], ``[n]``.
    """
    u = u.double()
    terms = [a**k * (b**k * math.pi * u).cos() for k in range(NUM_TERMS)]
    return torch.stack(terms).sum(0)


def random_spline(seed: int, u: Tensor) -> Tensor:
    """Return a cubic spline through 7 equally spaced knots of random height, ``[n]``.

    Args:
        seed: of the heights, standard normal.
        u: ranks in [0, 1], ``[n]``.
    """
    heights = torch.randn(
        NUM_KNOTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    spline = scipy.interpolate.CubicSpline(np.linspace(0, 1, NUM_KNOTS), heights.numpy())
    return torch.from_numpy(spline(u.double().cpu().numpy())).to(u.device)


def bump(u: Tensor) -> Tensor:
    """Return exp(-((u - 0.6) / 0.2)^2 / 2): keeps the middle by hand, ``[n]``."""
    return torch.exp(-(((u.double() - 0.6) / 0.2).square()) / 2)


SINES = tuple(register(Feature(f"sine-{f}", partial(sine, f), kappa=1)) for f in (2, 3, 4, 5))
WEIERSTRASS = tuple(
    register(Feature(f"weierstrass-{a}-{b}", partial(weierstrass, a, b), kappa=2))
    for a, b in ((0.5, 3), (0.5, 5), (0.7, 3), (0.7, 5))
)
BUMP = register(Feature("bump", bump, kappa=1))


def splines(seed: int) -> tuple[Feature, ...]:
    """Return four random splines that no other seed has."""
    return tuple(
        Feature(f"spline-{seed}-{i}", partial(random_spline, 4 * seed + i), kappa=1)
        for i in range(4)
    )


for _feature in splines(0):
    register(_feature)
