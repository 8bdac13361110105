"""Indicators of the logistic map's orbit: how a rank becomes order, doubling, or chaos.

The map x -> r x (1 - x) settles on a point, on a cycle, or on no cycle at all, as r grows from 2.8
to 4. The rank of a population sets its r; what its orbit does is its feature.

Source: Li & Li, 2605.09345, for the idea; the constants are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import scipy
import torch
from torch import Tensor

from natsel.features.registry import Feature, register

R_MIN, R_MAX = 2.8, 4.0
NUM_STEPS, NUM_DROPPED = 400, 200
START = 0.5
GRID = 4097
SMOOTHING = 0.08
"""Standard deviation, in ranks, of the Gaussian that takes the fine structure away.

The smallest of 0.02, 0.04, ... at which peak, variance, range and minimum are monotone.
"""


def orbit(u: Tensor) -> Tensor:
    """Iterate x -> r x (1 - x) from 0.5, with r from 2.8 (u = 0) to 4 (u = 1).

    Args:
        u: ranks in [0, 1], ``[n]``.

    Returns:
        The 200 states after the first 200, ``[200, n]``, float64.

    Example:
        >>> orbit(torch.tensor([0.0]))[-1]  # r = 2.8 settles on 1 - 1 / r
        tensor([0.6429], dtype=torch.float64)
    """
    r = R_MIN + (R_MAX - R_MIN) * u.double()
    # At r = 4 the orbit of 0.5 falls on 0 and stays: a hair less shows the chaos beside it.
    r = r.clamp(max=R_MAX - 1e-9)
    x = torch.full_like(r, START)
    states = []
    for step in range(NUM_STEPS):
        x = r * x * (1 - x)
        if step >= NUM_DROPPED:
            states.append(x)
    return torch.stack(states)


def peak(u: Tensor) -> Tensor:
    """Return the largest state of the orbit, ``[n]``."""
    return orbit(u).amax(0)


def minimum(u: Tensor) -> Tensor:
    """Return the smallest state of the orbit, ``[n]``."""
    return orbit(u).amin(0)


def extent(u: Tensor) -> Tensor:
    """Return the range of the orbit: largest minus smallest state, ``[n]``."""
    states = orbit(u)
    return states.amax(0) - states.amin(0)


def variance(u: Tensor) -> Tensor:
    """Return the variance of the orbit's states, ``[n]``."""
    return orbit(u).var(0, correction=0)


def mean(u: Tensor) -> Tensor:
    """Return the mean of the orbit's states, ``[n]``."""
    return orbit(u).mean(0)


def lyapunov(u: Tensor) -> Tensor:
    """Return the Lyapunov exponent, the mean of log |r (1 - 2 x)|: positive in chaos, ``[n]``.

    It is bounded below by -5: the exponent of a superstable cycle is minus infinity.
    """
    r = R_MIN + (R_MAX - R_MIN) * u.double()
    slopes = (r * (1 - 2 * orbit(u))).abs()
    return slopes.clamp_min(1e-300).log().mean(0).clamp_min(-5.0)


INDICATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "peak": peak,
    "variance": variance,
    "range": extent,
    "mean": mean,
    "lyapunov": lyapunov,
    "minimum": minimum,
}
NON_MONOTONE = ("mean", "lyapunov")
"""The indicators that still rise and fall once they are smooth."""


@lru_cache(maxsize=len(INDICATORS))
def _smooth_curve(indicator: str) -> Tensor:
    curve = INDICATORS[indicator](torch.linspace(0, 1, GRID, dtype=torch.float64))
    width = SMOOTHING * (GRID - 1)
    return torch.from_numpy(scipy.ndimage.gaussian_filter1d(curve.numpy(), width, mode="reflect"))


def smooth(indicator: str, u: Tensor) -> Tensor:
    """Return an indicator without its fine structure: a Gaussian mean over nearby ranks.

    Args:
        indicator: a name of ``INDICATORS``.
        u: ranks in [0, 1], ``[n]``.

    Returns:
        ``[n]``, float64, interpolated between 4,097 places.

    Example:
        >>> smooth("peak", torch.tensor([0.0, 0.5, 1.0])).diff() > 0
        tensor([True, True])
    """
    curve = _smooth_curve(indicator).to(u.device)
    place = u.double() * (GRID - 1)
    left = place.floor().long().clamp(max=GRID - 2)
    share = place - left
    return curve[left] * (1 - share) + curve[left + 1] * share


for _name, _indicator in INDICATORS.items():
    register(Feature(f"{_name}-raw", _indicator, kappa=2))
    _kappa = 1 if _name in NON_MONOTONE else 0
    register(Feature(f"{_name}-smooth", partial(smooth, _name), kappa=_kappa))
