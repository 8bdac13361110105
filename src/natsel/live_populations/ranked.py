"""A method whose scores are read through a feature: a function of the rank in the head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from natsel.common.errors import choose, refuse
from natsel.common.importing import names_own
from natsel.features import CLASSES, FEATURES, Feature, feature_matrix
from natsel.features import get as feature_of
from natsel.live_populations.choosing import normalized
from natsel.live_populations.entries import Entries

Curve = Callable[[Tensor], Tensor]
"""From the ranks of a community, ``[n]`` from 0 to 1, to numbers."""


def through(score: Callable[..., Tensor], *, feature: str | Feature) -> Callable[[Entries], Tensor]:
    r"""Return a scorer that gives each entry a function of its rank: \(\phi(u)\).

    \(u\) is the rank of an entry's score in its head, from 0 to 1, among those that are not the
    newest ``window``: these stay in any case. Equal scores rank by index, as they leave, so that a
    rising \(\phi\) keeps the very entries that the score keeps.

    Args:
        score: a scorer.
        feature: the name of a feature or of a class of features with equal weights, behind a minus
            for what it leaves out; ``module:name`` of a feature; or a :class:`Feature`.

    Returns:
        The scorer.

    Raises:
        ValueError: if there is no such feature.

    Example:
        >>> entries = Entries(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2),
        ...     torch.arange(3)[None, None], torch.zeros(1, 1, 1, 2), torch.tensor([[2]]), 1, 1.0)
        >>> through(lambda entries: entries.positions.exp(), feature="square")(entries)
        tensor([[[0.0000, 0.2500, 1.0000]]], dtype=torch.float64)
    """
    curve = _curve(feature)

    def read(entries: Entries) -> Tensor:
        free = entries.alive & ~entries.newest
        u = normalized(score(entries), free, "rank")
        num = free.sum(-1)
        # Whoever is not free ranks behind: any number does.
        place = ((1 - u) * (num - 1).clamp(min=1)[..., None]).round().long()
        found = torch.zeros_like(u)
        for count in sorted(set(num.flatten().tolist())):  # paddings differ, and heads that share
            if count:
                grid = torch.linspace(1, 0, count, dtype=torch.float64, device=u.device)
                values = curve(grid)[place.clamp(max=count - 1)]
                found = torch.where(free & (num == count)[..., None], values, found)
        return found

    return read


def complexity(feature: str | Feature) -> int:
    """Return the declared complexity of a feature, or of a class, by its name.

    Example:
        >>> complexity("log"), complexity("-bump"), complexity("A5")
        (0, 1, 2)
    """
    if isinstance(feature, Feature):
        return feature.kappa
    name = feature.removeprefix("-")
    return CLASSES[name].kappa if name in CLASSES else feature_of(name).kappa


def _curve(feature: str | Feature) -> Curve:
    """Return the function that a name stands for."""
    if isinstance(feature, Feature):
        return feature.function
    if not isinstance(feature, str):
        refuse("feature", feature, "a name, or a Feature")
    name, sign = feature.removeprefix("-"), -1.0 if feature.startswith("-") else 1.0
    if name in CLASSES:
        members = CLASSES[name].features
        return lambda u: sign * feature_matrix(u, members).mean(-1)
    if not names_own(name):
        choose("feature", name, (*FEATURES, *CLASSES))
    function = feature_of(name).function
    return lambda u: sign * function(u)
