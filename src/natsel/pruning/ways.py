"""How much each community gives, where the scorer decides that, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from natsel.common.errors import refuse, refuse_together
from natsel.communities import Communities
from natsel.communities.kinds import BRANCH, ROUTED
from natsel.features.scorers import ADAPTIVE, knows_branches
from natsel.fitness import BRANCH_SCORERS, EXPERT_SCORERS
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


def with_branches(scorer: Any, communities: Communities) -> Any:
    """Return the scorer of each kind, where one that knows no branches was asked for.

    Branches are then scored by the loss; a scorer of branches alone leaves the others whole.

    Args:
        scorer: as :func:`natsel.score` takes it, or a class of features.
        communities: that are scored.
    """
    kinds = {c.kind for c in communities.values()}
    if BRANCH.name not in kinds or isinstance(scorer, Mapping) or scorer == AUTO:
        return scorer
    if isinstance(scorer, str) and scorer in BRANCH_SCORERS:
        return {BRANCH.name: scorer}
    if isinstance(scorer, str) and scorer in EXPERT_SCORERS:
        return dict.fromkeys(sorted(kinds & ROUTED), scorer) or scorer
    own = scorer if knows_branches(scorer) else "loss"
    return {**dict.fromkeys(sorted(kinds - {BRANCH.name}), scorer), BRANCH.name: own}


def check_depth(scorer: object, branches: object, *, has_data: bool) -> None:
    """Refuse to offer branches where nothing can score them.

    Raises:
        ValueError: if there are no data, or the scorer is "adaptive".
    """
    if not branches:
        return
    if scorer == ADAPTIVE:
        refuse_together(
            {"scorer": ADAPTIVE, "branches": branches}, "auto, or a scorer of each kind"
        )
    if not has_data:
        refuse("data", None, "batches of data with labels: branches are scored by some")
