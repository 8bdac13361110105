"""The order that scores put things in: all that a selection by rank can see of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, refuse


class OrderComparison(NamedTuple):
    """How the orders of two scores relate.

    Attributes:
        same: every pair stands the same way in both: below, above, or equal.
        up_to_ties: no pair is turned round, though some are equal in one and not in the other;
            true also where ``same`` is. It is not transitive: a constant agrees with everything.
        ties_first: how many steps of the common order are ties in the first score alone.
        ties_second: the same of the second.
    """

    same: bool
    up_to_ties: bool
    ties_first: int
    ties_second: int


def dense_ranks(score: Tensor) -> Tensor:
    """Return each score's place in the order, equal scores in one place: 0 is the least.

    Scores are read as float64, as :func:`natsel.select` reads them.

    Args:
        score: any shape.

    Returns:
        int64 ``[n]``.

    Raises:
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> dense_ranks(torch.tensor([0.5, -1.0, 0.5, 7.0]))
        tensor([1, 0, 1, 2])
    """
    flat = score.detach().reshape(-1).cpu().double()
    if not bool(flat.isfinite().all()):
        raise NonFiniteError("a score is NaN or infinite: it has no place in an order")
    ranks = np.unique(flat.numpy(), return_inverse=True)[1]
    return torch.from_numpy(ranks.reshape(-1).astype(np.int64))


def compare_orders(first: Tensor, second: Tensor) -> OrderComparison:
    """Compare the orders of two scores of the same things, over all pairs.

    Sorting by the first, and by the second where the first ties, turns no pair round if and only
    if the second then never falls: n log n steps stand for all n (n - 1) / 2 pairs.

    Args:
        first: any shape, n scores.
        second: the same number.

    Returns:
        How they relate.

    Raises:
        ValueError: if the numbers of scores differ.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> a = torch.tensor([1.0, 2.0, 3.0, 3.0])
        >>> compare_orders(a, a.exp()).same
        True
        >>> compare_orders(a, torch.tensor([1.0, 1.0, 3.0, 3.0]))
        OrderComparison(same=False, up_to_ties=True, ties_first=0, ties_second=1)
    """
    if first.numel() != second.numel():
        refuse("second", f"{second.numel()} scores", f"{first.numel()}, as the first has")
    a, b = dense_ranks(first).numpy(), dense_ranks(second).numpy()
    order = np.lexsort((b, a))
    rises_first, rises_second = np.diff(a[order]) > 0, np.diff(b[order])
    up_to_ties = bool((rises_second >= 0).all())
    same = up_to_ties and bool((rises_first == (rises_second > 0)).all())
    return OrderComparison(
        same,
        up_to_ties,
        int((~rises_first & (rises_second > 0)).sum()) if up_to_ties else 0,
        int((rises_first & (rises_second == 0)).sum()) if up_to_ties else 0,
    )


def same_order(first: Tensor, second: Tensor) -> bool:
    r"""Tell whether two scores order the same things in one way, ties included.

    $a_i < a_j \iff b_i < b_j$ and $a_i = a_j \iff b_i = b_j$ for all pairs. Then, and because
    ties are decided by index, every selection by rank keeps the same survivors under both.

    Args:
        first: any shape, n scores.
        second: the same number.

    Returns:
        True if all pairs agree.

    Raises:
        ValueError: if the numbers of scores differ.
        NonFiniteError: if a score is NaN or infinite.

    Example:
        >>> a = torch.tensor([3.0, 1.0, 1.0, 2.0])
        >>> same_order(a, a.log()), same_order(a, -a), same_order(a, torch.arange(4.0))
        (True, False, False)
    """
    return compare_orders(first, second).same
