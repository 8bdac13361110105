"""Attention expected from queries that are not there yet."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.entries import Entries


def expected(entries: Entries, *, epsilon: float = 0.02) -> Tensor:
    r"""Return the attention expected from queries distributed as the newest ``window`` ones are.

    $$\Big(\frac{e^{z_j}}{\sum_i e^{z_i}} + \varepsilon\Big) \lVert v_j \rVert_2, \qquad
      z_j = s\, \mu \cdot k_j + \tfrac{s^2}{2}\, k_j^\top \Sigma\, k_j$$

    the mean of \(e^{s\, q \cdot k_j}\) over Gaussian queries of mean \(\mu\) and covariance
    \(\Sigma\), which are those of the queries as attention reads them, after the rotary embedding:
    so it holds for every decoder, and for the near future.

    Args:
        entries: of a layer.
        epsilon: what keeps entries with large values.

    Source:
        A. Devoto, M. Jeblick, S. Jégou, Expected Attention: KV Cache Compression by Estimating
        Attention from Future Queries Distribution, 2025, which averages the rotation over future
        positions instead.
    """
    dtype = torch.promote_types(entries.keys.dtype, torch.float32)
    keys, queries = entries.keys.to(dtype), entries.queries.to(dtype)
    batch, num_query_heads, num, width = queries.shape
    real = entries.voters.to(dtype)[:, None, :, None]
    count = real.sum(2, keepdim=True).clamp(min=1)
    mean = (queries * real).sum(2, keepdim=True) / count
    centred = (queries - mean) * real
    heads = keys.shape[1]
    grouped = (batch, heads, num_query_heads // heads)
    along = keys[:, :, None] @ mean.reshape(*grouped, 1, width).transpose(-1, -2)
    # k' Σ k is the mean square of the projections: the covariance itself is never built.
    onto = keys[:, :, None] @ centred.reshape(*grouped, num, width).transpose(-1, -2)
    spread = onto.square().sum(-1) / count.reshape(batch, 1, 1, 1)
    logits = entries.scaling * along[..., 0] + entries.scaling**2 / 2 * spread
    alive = entries.alive[:, :, None]
    weights = logits.masked_fill(~alive, -torch.inf).softmax(-1).masked_fill(~alive, 0.0).mean(2)
    size: Tensor = torch.linalg.vector_norm(entries.values, dim=-1, dtype=dtype)
    return (weights + epsilon) * size
