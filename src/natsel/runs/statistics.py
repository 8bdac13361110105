"""Intervals and paired tests: no mean without the one, no "better" without the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from natsel.common.errors import refuse


class Interval(NamedTuple):
    """An estimate with its 95 % interval.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.
        n: how many observations it rests on.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent runs with its Student interval.

    Args:
        values: one figure per run; with a single one the interval is that figure alone.
        confidence: of the interval.

    Returns:
        The mean, its interval, and the number of runs.

    Raises:
        ValueError: if there is no value.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> [round(x, 3) for x in interval]
        [2.0, -0.484, 4.484, 3]
    """
    if not values:
        refuse("values", [], "at least one figure")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, mean, mean, len(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half, len(values))


def proportion_interval(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Return a share with its Wilson interval: the accuracy of one network on ``total`` samples.

    Example:
        >>> [round(x, 4) for x in proportion_interval(98, 100)]
        [0.98, 0.93, 0.9945, 100]
    """
    if total < 1 or not 0 <= correct <= total:
        refuse("correct", correct, f"a count from 0 to {total}")
    result = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return Interval(correct / total, float(result.low), float(result.high), total)


def clustered_interval(
    correct: Sequence[int], counted: Sequence[int], confidence: float = 0.95
) -> Interval:
    """Return a share with the interval of a ratio over clusters, such as windows of a text.

    What is predicted inside one cluster is not independent; clusters are taken as independent.
    The standard error is that of r = sum c / sum n by linearisation:
    $s^2 = m / (m - 1) \\sum_i (c_i - r n_i)^2 / (\\sum_i n_i)^2$.

    Args:
        correct: right predictions of each cluster.
        counted: all predictions of each cluster.
        confidence: of the interval.

    Returns:
        The share, its Student interval within [0, 1], and the number of clusters.

    Raises:
        ValueError: if the lengths differ, or there are no predictions.

    Example:
        >>> [round(x, 3) for x in clustered_interval([3, 5, 4, 4], [8, 8, 8, 8])]
        [0.5, 0.338, 0.662, 4]
    """
    c, n = np.asarray(correct, dtype=float), np.asarray(counted, dtype=float)
    if c.shape != n.shape or not n.sum() > 0:
        refuse("counted", c.shape, "as many counts as correct has, not all 0")
    ratio, m = float(c.sum() / n.sum()), len(n)
    if m < 2:
        return Interval(ratio, ratio, ratio, m)
    error = math.sqrt(m / (m - 1) * float(((c - ratio * n) ** 2).sum())) / float(n.sum())
    half = float(stats.t.ppf(0.5 + confidence / 2, m - 1)) * error
    return Interval(ratio, max(ratio - half, 0.0), min(ratio + half, 1.0), m)


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
        p_value = float(stats.ttest_rel(first, second).pvalue)
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
        p_value = float(stats.ttest_1samp(values, 0.0).pvalue)
    return Comparison(interval.mean, interval.low, interval.high, p_value, len(values))
