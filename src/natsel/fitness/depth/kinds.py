"""Which communities a scorer speaks of: branches, experts, all but branches, or all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from natsel.common.errors import did_you_mean, refuse
from natsel.communities import Communities
from natsel.communities.kinds import BRANCH, ROUTED
from natsel.fitness.depth.registry import BRANCH_SCORERS, BranchScorer, names_for_branches
from natsel.fitness.experts.registry import EXPERT_SCORERS, ExpertScorer
from natsel.fitness.registry import FITNESS, Fitness, Parts, get

Signal = Fitness | BranchScorer | ExpertScorer


def apart(communities: Communities) -> tuple[Communities | None, Communities | None]:
    """Return the communities of branches, and all others; None where there are none."""
    kinds = {c.kind for c in communities.values()}
    streams = communities.only(BRANCH.name) if BRANCH.name in kinds else None
    rest = kinds - {BRANCH.name}
    return streams, communities.only(*rest) if rest else None


def spoken_of(
    communities: Communities,
    scorer: str | Fitness | Callable[[Parts], Tensor],
    *,
    stacklevel: int,
) -> tuple[Signal, Communities]:
    """Return a signal, with the communities that it scores.

    Where some are branches and some are not, a scorer that knows one of them leaves the other out:
    they stay whole, which is said.

    Args:
        communities: at least one.
        scorer: a name or a signal.
        stacklevel: of the warning.

    Raises:
        ValueError: if there is no such scorer, or it knows none of them.
    """
    if isinstance(scorer, str) and scorer in EXPERT_SCORERS:
        return _of_experts(communities, scorer, stacklevel + 1)
    streams, others = apart(communities)
    if isinstance(scorer, str) and scorer in BRANCH_SCORERS:
        if streams is None:
            allowed = f"one of {', '.join(FITNESS)}: it scores branches alone"
            refuse("scorer", scorer, f"{allowed} (natsel.discover(..., branches=True))")
        if others is not None:
            _say(others, scorer, f"{{'branch': {scorer!r}, ...}}", stacklevel)
        found = BRANCH_SCORERS.get(scorer)
        assert found is not None
        return found, streams
    if isinstance(scorer, str) and streams is not None:
        known = [*FITNESS, *BRANCH_SCORERS, *EXPERT_SCORERS]
        if scorer not in FITNESS and ":" not in scorer:
            hint = did_you_mean(scorer, known)
            refuse("scorer", scorer, f"one of {', '.join(known)}{hint}")
    fitness = get(scorer, argument="scorer")
    if streams is None or fitness.branches:
        return fitness, communities
    if others is None:
        refuse("scorer", fitness.name, f"for branches one of {', '.join(names_for_branches())}")
    _say(streams, fitness.name, "{'branch': 'loss', ...}", stacklevel)
    return fitness, others


def _of_experts(
    communities: Communities, scorer: str, stacklevel: int
) -> tuple[ExpertScorer, Communities]:
    """Return a scorer of experts with the communities of these, and say what is left out."""
    kinds = {c.kind for c in communities.values()}
    if not kinds & ROUTED:
        allowed = f"one of {', '.join(FITNESS)}: it scores experts alone, and none were found"
        refuse("scorer", scorer, allowed)
    if kinds - ROUTED:
        left = communities.only(*(kinds - ROUTED))
        mine = ", ".join(f"{kind!r}: {scorer!r}" for kind in sorted(kinds & ROUTED))
        _say(left, scorer, f"{{{mine}, ...}}", stacklevel)
    found = EXPERT_SCORERS.get(scorer)
    assert found is not None
    return found, communities.only(*(kinds & ROUTED))


def _say(left: Communities, scorer: str, instead: str, stacklevel: int) -> None:
    kinds = ", ".join(sorted({c.kind for c in left.values()}))
    warnings.warn(
        f"scorer={scorer!r} says nothing of {kinds} communities: they stay whole; "
        f"score each kind by its own, scorer={instead}",
        stacklevel=stacklevel + 1,
    )


def check_kinds(communities: Communities, scorers: Any) -> dict[str, Any]:
    """Return a mapping from kinds to scorers, made sure that it is one.

    Raises:
        ValueError: if it is empty, or names a kind that the model has not.
    """
    there = sorted({c.kind for c in communities.values()})
    for kind in scorers:
        if kind not in there:
            refuse("scorer", kind, f"kinds that the model has: {', '.join(there)}")
    if not scorers:
        refuse("scorer", {}, "a scorer for at least one kind")
    return dict(scorers)
