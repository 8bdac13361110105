"""Keys unlike the others are kept: what is alike stands for each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from natsel.live_populations.entries import Entries


def key_diff(entries: Entries) -> Tensor:
    r"""Return \(-\cos(k_j, \mu)\) with the mean \(\mu\) of the unit keys of a head.

    It asks no query, so that it keeps what nobody has asked for yet.

    Source:
        J. Park et al., KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM
        Inference in Resource-Constrained Environments, NeurIPS 2025.
    """
    dtype = torch.promote_types(entries.keys.dtype, torch.float32)
    unit = F.normalize(entries.keys.to(dtype), dim=-1)
    # Nobody lives in a place of zeros, and padding is left out: a mean up to its length, which
    # the cosine does not see.
    mean = unit.masked_fill(~entries.alive[..., None], 0.0).sum(-2, keepdim=True)
    return -F.cosine_similarity(unit, mean, dim=-1)
