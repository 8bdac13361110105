"""Attention seen from within: dimensions of heads instead of heads.

q k^T sums over the dimensions that queries and keys share: each is a summand, and can go. What
attention puts out has the dimensions of the values. A layer cuts all its heads alike, as tensors
are rectangles: the dimensions at one place of all heads are one population.
"""

from __future__ import annotations

from natsel.communities.kinds import KEY, VALUE
from natsel.communities.labels.propagation import Propagation
from torch import Tensor

from natsel.communities.labels.labels import DATA

HEADS = -3


def match(run: Propagation, query: Tensor, key: Tensor, reason: str) -> None:
    """Unite the dimensions that queries ``[..., T, d]`` and keys ``[..., S, d]`` share.

    Args:
        run: the propagation.
        query: labels.
        key: labels.
        reason: why they are fixed where they meet plain data.
    """
    queries, keys = (_in_all_heads(run, labels, -2, reason) for labels in (query, key))
    queries, keys = (labels.flatten(0, -2)[:1] for labels in (queries, keys))
    run.space.unite(queries, keys, reason)
    run.mark(queries, KEY.name)


def carried(run: Propagation, value: Tensor, reason: str) -> Tensor:
    """Return what attention makes of values ``[..., S, d]``: a label a dimension, ``[..., 1, d]``."""
    values = _in_all_heads(run, value, -2, reason)
    run.mark(values, VALUE.name)
    return values


def are_matched(run: Propagation, a: Tensor, b: Tensor) -> bool:
    """Tell whether a product ``[..., T, d] [..., d, S]`` sums over populations of both factors."""
    return all(bool((run.space.roots(labels) > DATA).any()) for labels in (a, b))


def _in_all_heads(run: Propagation, labels: Tensor, tokens: int, reason: str) -> Tensor:
    axes = [tokens, HEADS] if labels.dim() > 3 else [tokens]
    return run.space.unite_along(labels, tuple(axes), reason)
