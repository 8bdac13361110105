"""Two classifiers on the same samples: the exact test of who is better."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats
from torch import Tensor

from natsel.common.errors import refuse


class PairedSamples(NamedTuple):
    """A comparison of two classifiers sample by sample.

    Attributes:
        difference: accuracy of the first minus that of the second.
        low: lower end of its 95 % interval (Wald, for paired proportions).
        high: upper end.
        p_value: two-sided, exact McNemar test.
        p_better: one-sided, that the first is not better.
        n: how many samples.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_better: float
    n: int


def mcnemar(first: Tensor, second: Tensor) -> PairedSamples:
    """Compare two classifiers by the samples that only one of them gets right.

    If b samples are right for the first alone and c for the second alone, then under equality b is
    binomial with b + c trials and probability 1/2 (McNemar 1947, exact).

    Args:
        first: which samples the first gets right, bool ``[N]``.
        second: the same samples, in the same order.

    Returns:
        The difference, its interval and the p-values.

    Raises:
        ValueError: if the lengths differ or there is no sample.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([1, 1, 1, 1, 1, 0]).bool(), torch.zeros(6).bool()
        >>> found = mcnemar(one, other)
        >>> found.p_value, found.p_better
        (0.0625, 0.03125)
    """
    if first.shape != second.shape or first.numel() == 0:
        found = f"{second.numel()} samples"
        refuse("second", found, f"two equally long vectors, as first has {first.numel()}")
    n = first.numel()
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    difference = (b - c) / n
    half = 1.959964 * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    if b + c == 0:
        return PairedSamples(0.0, 0.0, 0.0, 1.0, 1.0, n)
    two_sided = float(stats.binomtest(b, b + c).pvalue)
    one_sided = float(stats.binomtest(b, b + c, alternative="greater").pvalue)
    return PairedSamples(difference, difference - half, difference + half, two_sided, one_sided, n)
