"""Scores where none are given: by each kind's own signal; of branches, by how much they turn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from natsel.common.batches import Data, read_batch
from natsel.communities import Communities
from natsel.communities.kinds import BRANCH
from natsel.fitness import score


def scores_for(
    communities: Communities, given: Mapping[str, Tensor] | None, data: Data
) -> dict[str, Tensor]:
    """Return the scores that are given, and those of the communities for which none are.

    Args:
        communities: that take part.
        given: one tensor per community, of any of them; or None.
        data: batches that can be read again.

    Raises:
        NonFiniteError: if a score is not finite on the data.
    """
    found = {name: value for name, value in (given or {}).items() if name in communities}
    missing = {n: c for n, c in communities.items() if n not in found}
    labelled = all(read_batch(batch).labels is not None for batch in data)
    kinds = {c.kind for c in missing.values() if not c.branches}
    if kinds:
        scores = score(communities.only(*kinds), "auto" if labelled else "joint", data=data)
        found |= {name: value for name, value in scores.items() if name not in found}
    if any(c.branches for c in missing.values()):
        turned = _of_branches(communities.only(BRANCH.name), data, labelled=labelled)
        found |= {name: value for name, value in turned.items() if name not in found}
    return found


def _of_branches(streams: Communities, data: Data, *, labelled: bool) -> dict[str, Tensor]:
    """Return how far branches turn their stream, or where no module shows it what they cost."""
    branches = [b for community in streams.values() for b in community.branches]
    if any(b.before is None or (b.after or b.adds) is None for b in branches):
        if not labelled:  # a seed of the search is all that they are: it has others
            return {n: torch.zeros(c.size, dtype=torch.float64) for n, c in streams.items()}
        return dict(score(streams, "loss", data=data))
    return dict(score(streams, "cosine", data=data))
