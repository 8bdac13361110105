"""What queries give to entries: attention, computed from queries and keys, and sums of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ELEMENTS = 2**23
"""Attention weights that exist at one time: a long prompt is read in blocks of queries."""


def attention(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    query_positions: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    mass: Tensor | None = None,
) -> Tensor:
    r"""Return how much each query gives to each entry, as the decoder itself computes it.

    $$a_{qj} = \frac{m_j\, e^{s\, q \cdot k_j}}{\sum_{i \le q} m_i\, e^{s\, q \cdot k_i}}$$

    over the entries that are not younger than the query. It needs no attention implementation
    that gives its weights.

    Args:
        queries: ``[batch, query heads, queries, width]``, after the rotary embedding.
        keys: ``[batch, heads, entries, width]``.
        positions: of the entries, ``[batch, heads, entries]``; -1 for a place that is empty.
        query_positions: ``[batch, queries]``; -1 for a query that is padding, which gives nothing.
        scaling: \(s\).
        softcap: what the logits are bounded to by tanh, where a decoder does so.
        mass: \(m\), ``[batch, heads, entries]``; None for 1.

    Returns:
        ``[batch, heads, query heads of a head, queries, entries]``, at least float32.

    Example:
        >>> at, by = torch.tensor([[[0, 1, 2]]]), torch.tensor([[1, 2]])
        >>> q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4)
        >>> attention(q, k, at, by, scaling=1.0).squeeze()
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    batch, num_query_heads, num_queries, width = queries.shape
    heads = keys.shape[1]
    dtype = torch.promote_types(queries.dtype, torch.float32)
    grouped = queries.to(dtype).reshape(batch, heads, num_query_heads // heads, num_queries, width)
    logits = grouped @ keys.to(dtype).unsqueeze(2).transpose(-1, -2) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mass is not None:
        logits = logits + mass.to(dtype).log()[:, :, None, None, :]
    at = positions[:, :, None, None, :]
    hidden = (at < 0) | (at > query_positions[:, None, None, :, None])
    weights = logits.masked_fill_(hidden, -torch.inf).softmax(-1)
    return weights.masked_fill_(hidden, 0.0)  # a query that sees nothing is NaN before


def blocks_of(num_queries: int, elements_each: int, most: int | None = None) -> Iterator[slice]:
    """Yield slices of queries whose attention fits into memory.

    Args:
        num_queries: how many there are.
        elements_each: weights of one query, over all heads and entries of a batch.
        most: queries in a block at most.

    Example:
        >>> list(blocks_of(5, 10, most=2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, min(ELEMENTS // max(elements_each, 1), most or num_queries))
    for start in range(0, num_queries, size):
        yield slice(start, min(start + size, num_queries))
