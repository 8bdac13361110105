"""Pairs of alike tokens become one: every second token looks for its like among the others."""

from __future__ import annotations

import torch

from natsel.live_populations.tokens.tokens import Merges, Tokens


def bipartite(tokens: Tokens) -> Merges:
    r"""Return how unlike any of the others each is, and whom it is most like.

    Of the tokens that stand for places, the first, third, fifth ... may leave; each is compared
    with the second, fourth ..., by the cosine of their keys, averaged over heads:

    $$s_i = -\max_{j} \cos(\bar k_i, \bar k_j)$$

    Source:
        D. Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023.
    """
    first = tokens.num_prefix
    keys = tokens.unit_keys()[:, first:]
    like, host = (keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)).max(-1)
    scores = like.new_full(tokens.features.shape[:2], torch.inf)
    scores[:, first::2] = -like
    hosts = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)
    hosts[:, first::2] = first + 1 + 2 * host
    return Merges(scores, hosts)


def half(free: int) -> int:
    """Return how many of so many tokens can leave at once: those who look."""
    return (free + 1) // 2 if free > 1 else 0
