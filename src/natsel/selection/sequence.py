"""In which order populations go when several communities have to meet one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from natsel.selection.counts import Bounds
from natsel.selection.normalize import Normalization, normalized, order

Scope = Literal["community", "global"]


def by_share(bounds: Sequence[Bounds]) -> Tensor:
    """Return the order in which communities lose their populations when all lose one share.

    The j-th population of n to go leaves when the share reaches (j - 1/2) / n, where j is the
    nearest whole number; communities that lose one at the same share do so in their order.

    Args:
        bounds: of the communities.

    Returns:
        The number of the community that loses its least fit next, int64.

    Example:
        >>> by_share([Bounds(size=4, floor=1), Bounds(size=2, floor=0)])
        tensor([0, 1, 0, 0, 1])
    """
    nums = [b.size - min(b.floor, b.size) for b in bounds]
    owner = torch.arange(len(bounds)).repeat_interleave(torch.tensor(nums))
    shares = [
        (torch.arange(num, dtype=torch.float64) + 0.5) / b.size
        for num, b in zip(nums, bounds, strict=True)
    ]
    return owner[torch.argsort(torch.cat(shares), stable=True)]


def by_score(
    scores: Mapping[str, Tensor],
    ties: Mapping[str, Tensor | None],
    bounds: Sequence[Bounds],
    normalize: Normalization,
) -> Tensor:
    """Return the order in which communities lose their populations, the least fit of all first.

    The fittest of each community, as many as its floor, do not go.

    Args:
        scores: ``[n]`` per community.
        ties: a second score per community, or None.
        bounds: of the communities.
        normalize: how scores become comparable across communities.

    Returns:
        The number of the community that loses its least fit next, int64.
    """
    values, seconds, owners, safe = [], [], [], []
    for number, (name, score) in enumerate(scores.items()):
        tie = ties[name]
        values.append(normalized(score, normalize, tie))
        seconds.append(normalized(tie, "mean") if tie is not None else torch.zeros_like(values[-1]))
        owners.append(torch.full((score.numel(),), number))
        protected = torch.zeros(score.numel(), dtype=torch.bool)
        protected[order(score, tie)[: bounds[number].floor]] = True
        safe.append(protected)
    ranked = order(torch.cat(values), torch.cat(seconds)).flip(0)
    return torch.cat(owners)[ranked[~torch.cat(safe)[ranked]]]


def first_that_meets(
    num: int, meets: Callable[[int], bool], *, num_steps: int | None = None
) -> int | None:
    """Return the smallest number in 0..num for which something holds, by halving.

    Args:
        num: the largest number.
        meets: holds from some number on.
        num_steps: how often to halve at most; then the result is the smallest found to hold.

    Returns:
        The number, or None if it does not hold for ``num``.

    Example:
        >>> first_that_meets(100, lambda n: n * n >= 50)
        8
        >>> first_that_meets(7, lambda n: n * n >= 50)
    """
    if meets(0):
        return 0
    if not meets(num):
        return None
    low, high, step = 0, num, 0
    while high - low > 1 and (num_steps is None or step < num_steps):
        middle = (low + high) // 2
        step += 1
        if meets(middle):
            high = middle
        else:
            low = middle
    return high
