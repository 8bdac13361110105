"""Who is unlike all who stay, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from natsel.live_populations.tokens.tokens import Tokens


def diversity(tokens: Tokens) -> Tensor:
    r"""Return minus the turn at which each is chosen by the max-min rule.

    The tokens that stand for no place are chosen first, or else the one that is least like the
    mean; then always the one whose greatest cosine with all chosen is the smallest.

    Source:
        S. R. Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
        Models, CVPR 2025; T. F. Gonzalez, Clustering to minimize the maximum intercluster
        distance, 1985.
    """
    dtype = torch.promote_types(tokens.features.dtype, torch.float32)
    x = F.normalize(tokens.features.to(dtype), dim=-1)
    rows, num = x.shape[:2]
    like = x @ x.transpose(1, 2)
    row = torch.arange(rows, device=x.device)
    scores = torch.full((rows, num), -float(num), dtype=x.dtype, device=x.device)
    chosen = torch.zeros(rows, num, dtype=torch.bool, device=x.device)
    first = tokens.num_prefix
    if first:
        chosen[:, :first] = True
        nearest = like[:, :first].amax(1)
    else:
        nearest = (x @ F.normalize(x.mean(1), dim=-1)[..., None])[..., 0]
    for turn in range(num - first - tokens.num_leaving):
        new = nearest.masked_fill(chosen, torch.inf).argmin(-1)
        scores[row, new] = -float(turn)
        chosen[row, new] = True
        found = like[row, new]
        nearest = found if turn == 0 and first == 0 else torch.maximum(nearest, found)
    return scores
