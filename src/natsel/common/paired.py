"""Two models on the same samples: exact tests of who is better, of rightness and of numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy
import torch
from torch import Tensor

from natsel.common.errors import refuse

EXACT = 14
"""Up to how many differences all changes of sign are tried."""
FLIPS = 9_999
"""How many are drawn of more."""


class PairedSamples(NamedTuple):
    """A comparison of two models sample by sample.

    Attributes:
        difference: mean of the first minus that of the second: of accuracies, or of numbers.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided.
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
        The difference, its interval (Wald, for paired proportions) and the p-values.

    Raises:
        ValueError: if the lengths differ or there is no sample.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([1, 1, 1, 1, 1, 0]).bool(), torch.zeros(6).bool()
        >>> found = mcnemar(one, other)
        >>> found.p_value, found.p_better
        (0.0625, 0.03125)
    """
    _check_pairs(first, second)
    n = first.numel()
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    difference = (b - c) / n
    half = 1.959964 * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    if b + c == 0:
        return PairedSamples(0.0, 0.0, 0.0, 1.0, 1.0, n)
    two_sided = float(scipy.stats.binomtest(b, b + c).pvalue)
    one_sided = float(scipy.stats.binomtest(b, b + c, alternative="greater").pvalue)
    return PairedSamples(difference, difference - half, difference + half, two_sided, one_sided, n)


def sign_flips(first: Tensor, second: Tensor) -> PairedSamples:
    r"""Compare two models by a number per sample, with no law assumed of the numbers.

    If neither is better, each difference $d_i$ is as likely as $-d_i$; the p-value is the share of
    all $2^n$ changes of sign whose mean is at least the one seen (Fisher 1935, The Design of
    Experiments, section 21). Up to 14 samples all are tried; of more, 9,999 are drawn, always the
    same, and the one seen counts among them (Phipson and Smyth 2010). The ends of the interval
    are those differences that the test would not tell from the one seen: quantiles of the means
    of random parts of the samples (Hartigan 1969).

    Args:
        first: one number per sample ``[N]``, higher is better: minus a loss, say.
        second: of the same samples, in the same order.

    Returns:
        The difference of the means, its interval and the p-values.

    Raises:
        ValueError: if the lengths differ, there is no sample, or a number is not finite.

    Example:
        >>> import torch
        >>> found = sign_flips(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
        >>> found.difference, found.p_better, found.p_value
        (2.0, 0.125, 0.25)
    """
    _check_pairs(first, second)
    step = first.double().cpu() - second.double().cpu()
    if not bool(torch.isfinite(step).all()):
        refuse("first", "differences with NaN or infinity", "finite numbers")
    n = step.numel()
    seen = float(step.mean())
    if not bool(step.any()):
        return PairedSamples(0.0, 0.0, 0.0, 1.0, 1.0, n)
    turned = _turned(n)
    sums = turned @ step
    means = seen - 2 * sums / n
    # Sums in another order differ in their last digits: such are equal.
    hair = 1e-12 * float(step.abs().mean())
    p_better = float((means >= seen - hair).double().mean())
    p_value = float((means.abs() >= abs(seen) - hair).double().mean())
    counts = turned.sum(1)
    parts = (sums / counts)[counts > 0]
    low, high = torch.quantile(parts, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return PairedSamples(seen, low, high, p_value, p_better, n)


def _turned(n: int) -> Tensor:
    """Return which differences change sign, 0 or 1, ``[flips, n]``; the first changes none."""
    if n <= EXACT:
        number = torch.arange(2**n)
        return ((number[:, None] >> torch.arange(n)) & 1).double()
    generator = torch.Generator().manual_seed(n)
    drawn = torch.randint(2, (FLIPS, n), generator=generator).double()
    return torch.cat((torch.zeros(1, n, dtype=torch.float64), drawn))


def _check_pairs(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.numel() == 0:
        found = f"{second.numel()} samples"
        refuse("second", found, f"two equally long vectors, as first has {first.numel()}")
