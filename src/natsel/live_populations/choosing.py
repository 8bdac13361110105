"""Who survives among entries: exact counts in every row of a batch, ties by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Normalization = Literal["mean", "rank"] | None


def places(scores: Tensor, alive: Tensor, protected: Tensor) -> Tensor:
    """Return each entry's place in the order of its community: 0 leaves last.

    The protected come first, the dead last; among equal scores the lower index comes first, as
    everywhere in natsel.

    Args:
        scores: ``[..., n]``, higher is fitter.
        alive: ``[..., n]``.
        protected: ``[..., n]``.

    Returns:
        int64 ``[..., n]``.

    Example:
        >>> yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
        >>> places(torch.tensor([1.0, 3.0, 3.0, 2.0]), yes, no)
        tensor([3, 0, 1, 2])
        >>> places(torch.tensor([1.0, 3.0, 3.0, 2.0]), yes, torch.arange(4) == 0)
        tensor([0, 1, 2, 3])
    """
    order = (
        scores.double()
        .masked_fill(~alive, -torch.inf)
        .argsort(dim=-1, descending=True, stable=True)
    )
    rank = (protected & alive).long() - (~alive).long()
    order = order.gather(-1, rank.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    index = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, index)


def floored(alive: Tensor, sinks: Tensor, window: Tensor) -> Tensor:
    """Return which entries stay in any case: the first and the newest of the living.

    Args:
        alive: ``[batch, heads, n]``.
        sinks: how many of the first, ``[batch]``.
        window: how many of the newest, ``[batch]``.

    Returns:
        ``[batch, heads, n]``.

    Example:
        >>> alive = torch.tensor([[[False, True, True, True, True]]])
        >>> floored(alive, torch.tensor([1]), torch.tensor([2]))
        tensor([[[False,  True, False,  True,  True]]])
    """
    before = alive.cumsum(-1)  # counts the entry itself
    after = before[..., -1:] - before + 1
    first = before <= sinks[:, None, None]
    return alive & (first | (after <= window[:, None, None]))


def survivors_each(scores: Tensor, alive: Tensor, protected: Tensor, counts: Tensor) -> Tensor:
    """Return who survives if every head holds the same count.

    Args:
        scores: ``[batch, heads, n]``.
        alive: the same shape.
        protected: the same shape.
        counts: how many stay in a head, ``[batch]``; those that have fewer keep all.

    Returns:
        ``[batch, heads, n]``.

    Example:
        >>> yes = torch.ones(1, 2, 3, dtype=torch.bool)
        >>> scores = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
        >>> survivors_each(scores, yes, ~yes, torch.tensor([2]))
        tensor([[[False,  True,  True],
                 [ True,  True, False]]])
    """
    return alive & (places(scores, alive, protected) < counts[:, None, None])


def survivors_together(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor],
    protected: Sequence[Tensor],
    counts: Tensor,
    least: Tensor,
    normalize: Normalization = "mean",
) -> list[Tensor]:
    """Return who survives if the heads of one or of many layers share what stays.

    Args:
        scores: ``[batch, heads, n]`` for each layer.
        alive: the same shapes.
        protected: the same shapes.
        counts: how many stay in a head on average, ``[batch]``; the sum over heads is exact.
        least: how many of the best each head holds at least, ``[batch]``.
        normalize: how scores of different heads become comparable.

    Returns:
        ``[batch, heads, n]`` for each layer.

    Example:
        >>> yes = torch.ones(1, 2, 3, dtype=torch.bool)
        >>> scores = torch.tensor([[[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]])
        >>> counts, least = torch.tensor([2]), torch.tensor([1])
        >>> survivors_together([scores], [yes], [~yes], counts, least, None)[0]
        tensor([[[False, False,  True],
                 [ True,  True,  True]]])
    """
    rows = scores[0].shape[0]
    heads = sum(s.shape[1] for s in scores)
    values, living, safe = [], [], []
    for score, lives, kept in zip(scores, alive, protected, strict=True):
        best = places(score, lives, kept) < least[:, None, None]
        values.append(normalized(score, lives, normalize).reshape(rows, -1))
        living.append(lives.reshape(rows, -1))
        safe.append(((best | kept) & lives).reshape(rows, -1))
    place = places(torch.cat(values, -1), torch.cat(living, -1), torch.cat(safe, -1))
    keep = torch.cat(living, -1) & (place < (counts * heads)[:, None])
    parts = torch.split(keep, [s[0].numel() for s in scores], -1)
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


def apportioned(scores: Tensor, alive: Tensor, protected: Tensor, needs: Tensor) -> Tensor:
    r"""Return scores by which heads that are compared hold counts in proportion to their needs.

    $$\frac{w_h}{r_{hj}}$$

    of the entry at place \(r\) of its head, 1 for the fittest: d'Hondt's way to share seats. Inside
    a head the order stays, and who has less than its share leaves the rest to the others.

    Args:
        scores: ``[batch, heads, n]``.
        alive: the same shape.
        protected: the same shape; they come first.
        needs: \(w\), ``[heads]``.

    Returns:
        float64 ``[batch, heads, n]``.

    Example:
        >>> yes = torch.ones(1, 2, 4, dtype=torch.bool)
        >>> scores = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]])
        >>> scores = apportioned(scores, yes, ~yes, torch.tensor([3.0, 1.0]))
        >>> counts, least = torch.tensor([2]), torch.tensor([1])
        >>> survivors_together([scores], [yes], [~yes], counts, least, None)[0]
        tensor([[[False,  True,  True,  True],
                 [ True, False, False, False]]])
    """
    return needs.double()[:, None] / (places(scores, alive, protected) + 1)


def normalized(scores: Tensor, alive: Tensor, how: Normalization) -> Tensor:
    """Return scores on a scale that other communities share, as in a selection between layers.

    Args:
        scores: ``[..., n]``.
        alive: the same shape; the others count for nothing.
        how: "mean" (divided by the mean of the absolute scores), "rank" (0 for the least fit to 1
            for the fittest) or None.

    Returns:
        float64 ``[..., n]``.
    """
    scores = scores.double().masked_fill(~alive, 0.0)
    if how is None:
        return scores
    num = alive.sum(-1, keepdim=True)
    if how == "rank":
        place = places(scores, alive, torch.zeros_like(alive))
        return 1 - place / (num - 1).clamp(min=1)
    scale = scores.abs().sum(-1, keepdim=True) / num.clamp(min=1)
    return torch.where(scale > 0, scores / scale, scores)
