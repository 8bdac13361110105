"""How much of one selection is in another, and how alike two rankings are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import scipy
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.numbers import is_number

Value = TypeVar("Value")
Number = TypeVar("Number", float, float | None)


def jaccard(first: Tensor, second: Tensor) -> float:
    r"""Return the share of what is in either mask that is in both.

    $|A \cap B| / |A \cup B|$; 1 where both are empty.

    Args:
        first: booleans ``[n]``.
        second: booleans ``[n]``.

    Returns:
        From 0 (nothing in common) to 1 (equal).

    Example:
        >>> import torch
        >>> jaccard(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        0.3333333333333333
    """
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def agreement(first: Tensor, second: Tensor) -> float:
    r"""Return the share of the first mask that is in the second, too; 1 where it is empty.

    $|A \cap B| / |A|$, which is symmetric as long as both keep one count.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        0.5
    """
    kept = int(first.sum())
    return int((first & second).sum()) / kept if kept else 1.0


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Return the rank correlation of two scores, with mean ranks for ties.

    Args:
        first: ``[n]``.
        second: ``[n]``.

    Returns:
        From -1 (turned round) to 1; None if a score is constant, as it then ranks nothing.

    Example:
        >>> import torch
        >>> a = torch.tensor([1.0, 2.0, 3.0])
        >>> round(spearman(a, a.exp()), 6), round(spearman(a, -a), 6), spearman(a, a * 0)
        (1.0, -1.0, None)
    """
    a, b = first.double().numpy(), second.double().numpy()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    # What scipy's spearmanr gives, without the p-value, which takes most of its time.
    found = float(np.corrcoef(scipy.stats.rankdata(a), scipy.stats.rankdata(b))[0, 1])
    return min(max(found, -1.0), 1.0)


def expected_agreement(kept: Sequence[int], sizes: Sequence[int]) -> float:
    r"""Return the agreement of two selections that know nothing of each other.

    $\sum_c k_c^2 / n_c \,/\, \sum_c k_c$ over the communities, of which $k_c$ of $n_c$ survive.

    Example:
        >>> expected_agreement([5, 5], [10, 10])
        0.5
    """
    return sum(k * k / n for k, n in zip(kept, sizes, strict=True)) / sum(kept)


def num_tied_at_cut(score: Tensor, survives: Tensor) -> int:
    """Return how many populations share one score of which some survive and some do not.

    Their index alone decides between them.

    Example:
        >>> import torch
        >>> score = torch.tensor([3.0, 1.0, 1.0, 1.0])
        >>> num_tied_at_cut(score, torch.tensor([True, True, False, False]))
        3
    """
    if not bool(survives.any()) or bool(survives.all()):
        return 0
    least = score[survives].min()
    return int((score == least).sum()) if bool((score[~survives] == least).any()) else 0


def matrix(
    values: Sequence[Value], measure: Callable[[Value, Value], Number]
) -> list[list[Number]]:
    """Return a symmetric measure of all pairs, each taken once.

    Example:
        >>> matrix([1.0, 4.0], lambda a, b: abs(a - b))
        [[0.0, 3.0], [3.0, 0.0]]
    """
    num = len(values)
    upper = {(i, j): measure(values[i], values[j]) for i in range(num) for j in range(i, num)}
    return [[upper[min(i, j), max(i, j)] for j in range(num)] for i in range(num)]


def weighted_mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Return the mean of the values that are there, by weight; None if none is.

    Example:
        >>> weighted_mean([1.0, None, 0.5], [1, 7, 3])
        0.625
    """
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else None


def check_sparsities(
    sparsities: Sequence[float], argument: str = "sparsities"
) -> tuple[float, ...]:
    """Return the sparsities if they are shares in (0, 1), ascending, each once.

    Raises:
        ValueError: if they are not.

    Example:
        >>> check_sparsities([0.7, 0.5])
        Traceback (most recent call last):
        ValueError: sparsities=[0.7, 0.5] is not allowed: expected ascending, each once
    """
    if not isinstance(sparsities, list | tuple) or not sparsities:
        refuse(argument, sparsities, "at least one number in (0, 1), in a list")
    for value in sparsities:
        if not is_number(value) or not 0 < value < 1:
            refuse("sparsity", value, "a number in (0, 1)")
    if list(sparsities) != sorted(set(sparsities)):
        refuse(argument, list(sparsities), "ascending, each once")
    return tuple(float(value) for value in sparsities)
