"""The table of features: functions of a rank, each with the complexity that it declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.registry import Registry


class Feature(NamedTuple):
    """A function of a population's rank in its community.

    Attributes:
        name: how users call it.
        function: from ranks in [0, 1], ``[n]``, to numbers ``[n]``; pure, without randomness.
        kappa: its complexity: 0 monotone, 1 smooth and not monotone, 2 with fine structure.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    kappa: int


FEATURES: Registry[Feature] = Registry("feature")


def register(feature: Feature) -> Feature:
    """Add a feature to the table, so that it has a name everywhere.

    Raises:
        ValueError: if the name is taken, or the complexity is none.
    """
    if feature.kappa not in (0, 1, 2):
        refuse("kappa", feature.kappa, "0, 1 or 2")
    return FEATURES.add(feature.name, feature)


def get(feature: str | Feature) -> Feature:
    """Look a feature up by name, or by ``module:name``; a :class:`Feature` passes.

    Raises:
        ValueError: if no feature has this name.
    """
    if isinstance(feature, Feature):
        return feature
    found = FEATURES.find_or_import(feature)
    if not isinstance(found, Feature):
        refuse("feature", feature, f"a Feature, this is of type {type(found).__name__}")
    return found
