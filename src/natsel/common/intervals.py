"""Estimates with their intervals: of means, of shares, of ratios over clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

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
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half, len(values))


def proportion_interval(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Return a share with its Wilson interval: the accuracy of one network on ``total`` samples.

    Example:
        >>> [round(x, 4) for x in proportion_interval(98, 100)]
        [0.98, 0.93, 0.9945, 100]
    """
    if total < 1 or not 0 <= correct <= total:
        refuse("correct", correct, f"a count from 0 to {total}")
    result = scipy.stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
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
    found = ratio_interval(correct, counted, confidence)
    if found.n < 2:
        return found
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0), found.n)


def ratio_interval(
    totals: Sequence[float] | np.ndarray,
    counted: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> Interval:
    """Return a ratio of sums with its interval over clusters, by linearisation.

    $r = \\sum c / \\sum n$ with the standard error of :func:`clustered_interval`: for clusters of
    one size this is Student's interval of their means.

    Args:
        totals: of each cluster.
        counted: what each total is a sum over.
        confidence: of the interval.

    Returns:
        The ratio, its Student interval, and the number of clusters; with a single one the interval
        is the ratio alone.

    Raises:
        ValueError: if the lengths differ, or nothing is counted.

    Example:
        >>> equal = ratio_interval([2.0, 4.0, 6.0], [2, 2, 2])
        >>> [round(x, 3) for x in equal], [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
        ([2.0, -0.484, 4.484, 3], [2.0, -0.484, 4.484, 3])

    Reference:
        W. G. Cochran, Sampling Techniques, 3rd edition, 1977, chapters 6 and 9.
    """
    c, n = np.asarray(totals, dtype=float), np.asarray(counted, dtype=float)
    if c.shape != n.shape or not n.sum() > 0:
        refuse("counted", c.shape, "as many counts as correct has, not all 0")
    ratio, m = float(c.sum() / n.sum()), len(n)
    if m < 2:
        return Interval(ratio, ratio, ratio, m)
    error = math.sqrt(m / (m - 1) * float(((c - ratio * n) ** 2).sum())) / float(n.sum())
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, m - 1)) * error
    return Interval(ratio, ratio - half, ratio + half, m)


class PairedRatio(NamedTuple):
    """A paired comparison of two ratios over the same clusters.

    Attributes:
        difference: the second ratio minus the first.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided, paired t-test over the clusters.
        n: how many clusters.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def paired_ratio(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    counted: Sequence[float] | np.ndarray,
) -> PairedRatio:
    """Compare two ratios cluster by cluster: a paired t-test, by linearisation.

    Differences without any spread leave a t-test nothing to measure by; they get the p-value of
    the exact sign test, ``2^(1 - n)``.

    Args:
        first: totals of each cluster.
        second: totals of the same clusters, in the same order.
        counted: what both are sums over.

    Returns:
        The difference with its interval and the p-value; a single cluster decides nothing.

    Raises:
        ValueError: if the lengths differ, or nothing is counted.

    Example:
        >>> found = paired_ratio([2.0, 4.0, 6.0], [4.0, 6.1, 8.0], [2, 2, 2])
        >>> round(found.difference, 3), found.p_value < 0.01
        (1.017, True)
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        refuse("second", other.shape, f"{one.shape} totals, as first has")
    found = ratio_interval(other - one, counted)
    p_value = 1.0
    half = (found.high - found.low) / 2
    if found.n > 1 and half > 1e-12 * max(abs(found.mean), 1e-300):
        t = found.mean / half * float(scipy.stats.t.ppf(0.975, found.n - 1))
        p_value = 2 * float(scipy.stats.t.sf(abs(t), found.n - 1))
    elif found.n > 1 and found.mean:
        p_value = 0.5 ** (found.n - 1)
    return PairedRatio(found.mean, found.low, found.high, p_value, found.n)
