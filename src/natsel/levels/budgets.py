"""What the budget of a search reads: costs as select reads them, and shares of all populations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.communities.surgery.surgery import dead_branches
from natsel.selection.budget import CostBudget, Gauge, Sparsity


def gauge_of(budget: Any, communities: Communities) -> Gauge:
    """Return how to read a budget off.

    Args:
        budget: a sparsity, of all populations together, or a cost of the whole model.
        communities: that take part.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> import natsel, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> communities = natsel.discover(model, torch.zeros(1, 4))
        >>> gauge_of(Sparsity(0.25), communities).limit
        6
    """
    if isinstance(budget, Sparsity):
        size = communities.num_populations
        return Gauge(
            name="sparsity",
            asked=budget.value,
            limit=size - budget.count(size),
            read=lambda survivors: float(_num_left(communities, survivors)),
            describe=lambda left: f"a sparsity of {1 - left / size:.4f} ({left:,.0f} of {size:,})",
        )
    if not isinstance(budget, CostBudget) or isinstance(budget, type):
        refuse("budget", budget, "natsel.Sparsity, Parameters, MACs or Latency")
    gauge = budget.gauge(communities)
    if not isinstance(gauge, Gauge):
        told = f"gauge() of type {type(gauge).__name__}"
        refuse("budget", told, f"that {type(budget).__name__} returns a natsel.selection.Gauge")
    return gauge


def _num_left(communities: Communities, survivors: Mapping[str, Tensor]) -> int:
    """Count who is left; of what goes with a branch nobody is."""
    found = communities.values()
    dead = {n for c in found for b in dead_branches(c, survivors) for n in b.tensors}
    left = 0
    for community in found:
        inside = {part.tensor for part in community.slices}
        if not inside or not inside <= dead:
            left += int(survivors[community.name].sum())
    return left
