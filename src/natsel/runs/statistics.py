"""Intervals and paired tests: no mean without the one, no "better" without the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from natsel.common.errors import refuse
from natsel.common.intervals import (
    Interval,
    clustered_interval,
    mean_interval,
    proportion_interval,
)

__all__ = [
    "Comparison",
    "Interval",
    "clustered_interval",
    "holm",
    "mean_interval",
    "paired",
    "paired_samples",
    "proportion_interval",
]


class Comparison(NamedTuple):
    """A paired comparison of two methods over the same seeds.

    Attributes:
        difference: mean of first minus second.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided, paired t-test.
        n: number of pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def paired(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare two methods run with the same seeds by a paired t-test.

    Differences without any spread leave a t-test nothing to measure by; they get the p-value of
    the exact sign test, ``2^(1 - n)``.

    Args:
        first: one figure per seed.
        second: the same seeds, in the same order.

    Returns:
        The mean difference, its 95 % interval and the two-sided p-value.

    Raises:
        ValueError: if the lengths differ or there are fewer than two pairs.

    Example:
        >>> result = paired([2.0, 3.0, 4.1], [1.0, 2.0, 3.0])
        >>> round(result.difference, 3), result.p_value < 0.01
        (1.033, True)
    """
    if len(first) != len(second) or len(first) < 2:
        allowed = f"{max(len(first), 2)} figures, as many as first has and at least 2"
        refuse("second", f"{len(second)} figures", allowed)
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    interval = mean_interval([float(d) for d in differences])
    if np.ptp(differences) <= 1e-12:
        # Accuracies are counts: a few equal differences are luck, not certainty.
        p_value = 1.0 if abs(differences[0]) <= 1e-12 else 0.5 ** (len(differences) - 1)
    else:
        p_value = float(scipy.stats.ttest_rel(first, second).pvalue)
    return Comparison(interval.mean, interval.low, interval.high, p_value, len(first))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def paired_samples(differences: Sequence[float] | np.ndarray) -> Comparison:
    """Compare two methods on the same samples by a paired t-test over the samples.

    With several networks the difference of a sample is the mean over them: what is concluded then
    holds for samples like these, on these very networks.

    Args:
        differences: first minus second, one number per sample.

    Returns:
        The mean difference, its 95 % interval and the two-sided p-value.

    Example:
        >>> found = paired_samples([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
        >>> round(found.difference, 3), found.p_value < 0.05
        (0.625, True)
    """
    values = np.asarray(differences, dtype=float)
    interval = mean_interval(values.tolist())
    if len(values) < 2 or np.ptp(values) <= 1e-12:
        p_value = (
            1.0 if abs(interval.mean) <= 1e-12 or len(values) < 2 else 0.5 ** (len(values) - 1)
        )
    else:
        p_value = float(scipy.stats.ttest_1samp(values, 0.0).pvalue)
    return Comparison(interval.mean, interval.low, interval.high, p_value, len(values))
