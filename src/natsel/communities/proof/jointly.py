"""Communities of one part are tried together first: each must show, and all must be exact.

Tried alone, each of many communities takes several runs of a part, that is the whole model where
their tensors lie far apart. Together they take a few runs, and the gradients of one to see how far
each of them moves the outputs: to that the error is held, as it is held alone to what removing it
changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from natsel.communities.community import Community
from natsel.communities.kinds import FILTER, NEURON
from natsel.communities.proof.influence import is_masked_by_zeros
from natsel.communities.proof.selections import alone, choices
from natsel.communities.proof.trial import Stage

LEAST = 2
"""Communities in a part from which on it pays."""

WIDTHS = (FILTER.name, NEURON.name)
"""Kinds that mostly have no number that must follow, so that it pays to try them all."""

RUNS_ALONE = 7
RUNS_TOGETHER = 16
"""About how many runs of a part it takes to try one community, or any number together."""


def can_be_tried_together(community: Community) -> bool:
    """Tell whether zeros in what reads a community mask it, and no number has to follow."""
    return is_masked_by_zeros(community) and not community.rebindings


def exact_together(stage: Stage, communities: Sequence[Community]) -> list[set[str]]:
    """Return the names of communities that are shown to be exact, with no number to follow.

    Args:
        stage: the part that they are in.
        communities: such as :func:`can_be_tried_together`, with the names of the part.

    Returns:
        Those that are exact together, and whose removal shows: all, or where they are not exact
        together, those of each half. What is missing is not said to be wrong.
    """
    if len(communities) < LEAST:
        return []
    found = stage.shown_together(communities, selections(communities))
    if found is not None:
        return [found] if found else []
    half = len(communities) // 2
    return exact_together(stage, communities[:half]) + exact_together(stage, communities[half:])


def selections(communities: Sequence[Community]) -> list[Mapping[str, Tensor]]:
    """Return what tells a removal that is masking from one that is not, of each and between any.

    Each community keeps different shares, also all but one and as few as it may, an even and an
    odd number where there are as many; any two keep different shares at least once. Those in which
    they do come first.

    Args:
        communities: to select in.

    Example:
        >>> from natsel.communities.community import Cost
        >>> two = [Community(name, "head", 6, Cost(1, 1.0), ()) for name in "ab"]
        >>> [[int(alive.sum()) for alive in kept.values()] for kept in selections(two)]
        [[3, 4], [1, 1], [4, 1], [5, 5], [1, 1]]
    """
    shared = list(choices(communities))
    each = [_besides(c, shared) for c in communities]
    # One after the other takes its turn, so that not all are cut alike.
    in_turn: list[Mapping[str, Tensor]] = [
        {
            c.name: own[(n + i) % len(own)]
            for i, (c, own) in enumerate(zip(communities, each, strict=True))
        }
        for n in range(max(len(own) for own in each))
    ]
    # On those where many stay it is seen who shows.
    return [*sorted(shared, key=lambda kept: -sum(map(_share, kept.values()))), *in_turn]


def _besides(community: Community, shared: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """Return what is tried of a community alone and not yet in selections of all."""
    middle, *extremes = (kept[community.name] for kept in alone(community))
    seen = [*(kept[community.name] for kept in shared), *extremes]
    has_both = len({int(alive.sum()) % 2 for alive in seen}) == 2
    return extremes if extremes and has_both else [middle, *extremes]


def _share(alive: Tensor) -> float:
    return int(alive.sum()) / len(alive)
