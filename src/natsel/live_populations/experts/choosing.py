"""Which choices stay, exactly, and what the weights of those are then."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.choosing import places


def survivors_of_tokens(scores: Tensor, alive: Tensor, kept: int) -> Tensor:
    """Return who stays if every token keeps the same count.

    Args:
        scores: ``[tokens, chosen]``, higher is fitter.
        alive: which choices may stay, the same shape.
        kept: how many of a token's.

    Returns:
        bool ``[tokens, chosen]``.

    Example:
        >>> yes = torch.ones(2, 3, dtype=torch.bool)
        >>> survivors_of_tokens(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), yes, 2)
        tensor([[False,  True,  True],
                [ True,  True, False]])
    """
    return alive & (places(scores, alive, torch.zeros_like(alive)) < kept)


def survivors_of_call(
    scores: Tensor, alive: Tensor, tokens: Tensor, kept: int, floor: int
) -> Tensor:
    """Return who stays if the tokens of a call share what stays.

    Args:
        scores: ``[tokens, chosen]``, higher is fitter.
        alive: which choices may stay, the same shape.
        tokens: which tokens compete, ``[tokens]``; the others, padding, keep their floor alone.
        kept: how many choices of those that compete.
        floor: how many of its fittest each token keeps in any case.

    Returns:
        bool ``[tokens, chosen]``.

    Example:
        >>> yes = torch.ones(2, 3, dtype=torch.bool)
        >>> scores = torch.tensor([[7.0, 8.0, 9.0], [1.0, 3.0, 2.0]])
        >>> survivors_of_call(scores, yes, torch.tensor([True, True]), 4, 1)
        tensor([[ True,  True,  True],
                [False,  True, False]])
    """
    best = survivors_of_tokens(scores, alive, floor)
    real = alive & tokens[:, None]
    place = places(scores.reshape(1, -1), real.reshape(1, -1), (best & real).reshape(1, -1))
    return torch.where(tokens[:, None], real & (place < kept).reshape(scores.shape), best)


def reweighted(weights: Tensor, kept: Tensor, *, renormalized: bool) -> Tensor:
    """Return the router's weights of those who stay, 0 for the others.

    Args:
        weights: ``[tokens, chosen]``.
        kept: who stays, the same shape.
        renormalized: whether the router gives the chosen a sum that does not depend on them.

    Example:
        >>> kept = torch.tensor([[True, True, False]])
        >>> reweighted(torch.tensor([[0.25, 0.25, 0.5]]), kept, renormalized=True)
        tensor([[0.5000, 0.5000, 0.0000]])
        >>> reweighted(torch.tensor([[0.25, 0.25, 0.5]]), kept, renormalized=False)
        tensor([[0.2500, 0.2500, 0.0000]])
    """
    left = weights.masked_fill(~kept, 0.0)
    if not renormalized:
        return left
    total, rest = weights.sum(-1, keepdim=True), left.sum(-1, keepdim=True)
    return torch.where(rest != 0, left * (total / torch.where(rest != 0, rest, 1)), left)
