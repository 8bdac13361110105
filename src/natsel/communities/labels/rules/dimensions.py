"""Attention seen from within: dimensions of heads instead of heads.

q k^T sums over the dimensions that queries and keys share: each is a summand, and can go. What
attention puts out has the dimensions of the values. A layer cuts all its heads alike, as tensors
are rectangles: the dimensions at one place of all heads are one population.
"""

from __future__ import annotations

from torch import Tensor

from natsel.communities.kinds import KEY, VALUE
from natsel.communities.labels.labels import DATA
from natsel.communities.labels.propagation import Propagation


def match(run: Propagation, query: Tensor, key: Tensor, macs: float, reason: str) -> None:
    """Unite the dimensions that queries ``[..., T, d]`` and keys ``[..., S, d]`` share.

    Args:
        run: the propagation.
        query: labels.
        key: labels.
        macs: how many multiply-accumulates their products take.
        reason: why they are fixed where they meet plain data.
    """
    queries, keys = (_in_all_heads(run, labels, reason).reshape(-1) for labels in (query, key))
    run.space.unite(queries, keys, reason)
    run.mark(queries, KEY.name)
    run.charge_labels(queries, macs / queries.numel())


def carried(run: Propagation, value: Tensor, macs: float, reason: str) -> Tensor:
    """Return what attention makes of values ``[..., S, d]``: ``[..., d]`` with places of size 1."""
    values = _in_all_heads(run, value, reason)
    run.mark(values, VALUE.name)
    run.charge_labels(values, macs / values.numel())
    return values


def are_matched(run: Propagation, a: Tensor, b: Tensor) -> bool:
    """Tell whether a product ``[..., T, d] [..., d, S]`` sums over populations of both factors."""
    return all(bool((run.space.roots(labels) > DATA).any()) for labels in (a, b))


def _in_all_heads(run: Propagation, labels: Tensor, reason: str) -> Tensor:
    return run.space.unite_along(labels, tuple(range(labels.dim() - 1)), reason)
