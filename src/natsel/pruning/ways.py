"""How much each community gives, where the scorer decides that, too."""

from __future__ import annotations

from typing import Any

from natsel.fitness.auto import AUTO
from natsel.selection.budget import CostBudget, Sparsity
from natsel.selection.normalize import Normalization
from natsel.selection.sequence import Scope


def way_of(
    scorer: object, budget: Any, scope: Scope, normalize: Normalization
) -> tuple[Scope, Normalization]:
    """Return the scope and the scale of a selection.

    The scores of "auto" are losses per parameter: under a budget of a cost of the whole model they
    are compared as they are, so that kinds and places that matter less give more. An equal share of
    each would take one of three groups of heads for the sake of a fifth of the parameters.

    Args:
        scorer: what decides who goes.
        budget: what must be reached.
        scope: that was asked for; "community" if none was.
        normalize: that was asked for.

    Example:
        >>> from natsel.selection import Parameters
        >>> way_of("auto", Parameters(0.8), "community", "rank")
        ('global', None)
        >>> way_of("auto", Sparsity(0.5), "community", "rank")
        ('community', 'rank')
    """
    costs = isinstance(budget, CostBudget) and not isinstance(budget, Sparsity)
    if scorer == AUTO and costs and scope == "community":
        return "global", None
    return scope, normalize
