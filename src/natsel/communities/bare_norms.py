"""Normalisations of single channels that hold nothing but how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from natsel.communities.community import Community, Rebinding
from natsel.communities.labels.propagation import Propagation

FEATURES = "num_features"


def with_bare_norms(
    model: nn.Module, run: Propagation, communities: Sequence[Community]
) -> list[Community]:
    """Return communities with ``num_features`` of instance norms without parameters rebound.

    No tensor of such a module tells how many channels it has, and it computes the same whatever
    its number says; but it warns where that is wrong.

    Args:
        model: the model.
        run: the propagation that the communities were collected from.
        communities: of the model, with whatever is rebound already.
    """
    made: dict[str, list[Rebinding]] = {}
    mine = {c.name: roots for c in communities if (roots := _roots(run, c)) is not None}
    modules = dict(model.named_modules())  # a program has none of those that it was made of
    for path, met in run.normed.items():
        if not isinstance(modules.get(path), _InstanceNorm):
            continue
        entering = [run.space.roots(labels) for labels in met]
        for name, roots in mine.items():
            counts = {_per_population(labels, roots) for labels in entering}
            if len(counts) == 1 and 0 not in counts:
                made.setdefault(name, []).append(Rebinding(path, FEATURES, counts.pop()))
    return [
        replace(c, rebindings=(*c.rebindings, *made[c.name])) if c.name in made else c
        for c in communities
    ]


def _roots(run: Propagation, community: Community) -> Tensor | None:
    """Return the class of each population, ``[size]``."""
    for part in community.slices:
        labels = run.axis_labels.get((part.tensor, part.axis))
        if labels is not None:
            return run.space.roots(labels)[part.index[:, 0]]
    return None


def _per_population(labels: Tensor, roots: Tensor) -> int:
    """Return how many channels each population is; 0 where some are of others."""
    count, rest = divmod(len(labels), len(roots))
    same = torch.equal(labels.sort().values, roots.sort().values.repeat_interleave(count))
    return count if not rest and same else 0
