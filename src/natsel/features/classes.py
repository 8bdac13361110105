"""The feature classes of the paper, by its names: which features a score is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

from natsel.common.registry import Registry
from natsel.features.monotone import MONOTONE
from natsel.features.registry import FEATURES, Feature
from natsel.features.waves import BUMP, SINES, WEIERSTRASS, splines

Family = Literal["monotone", "smooth", "raw", "fake", "handcrafted"]


class FeatureClass(NamedTuple):
    """Some features that are fused into one score.

    Attributes:
        name: as the paper has it.
        features: what is fused.
        family: "monotone", "smooth", "raw", "fake" (non-monotone only by the signs of its weights)
            or "handcrafted".
    """

    name: str
    features: tuple[Feature, ...]
    family: Family

    @property
    def kappa(self) -> int:
        """The complexity of the class: the largest of its features'."""
        return max(feature.kappa for feature in self.features)


FOUR = ("peak", "variance", "range", "mean")
SIX = (*FOUR, "lyapunov", "minimum")


def _indicators(names: tuple[str, ...], kind: str) -> tuple[Feature, ...]:
    return tuple(FEATURES[f"{name}-{kind}"] for name in names)


CLASSES: Registry[FeatureClass] = Registry(
    "class",
    {
        c.name: c
        for c in (
            FeatureClass("V1a", _indicators(("peak",), "smooth"), "monotone"),
            FeatureClass("V1b", _indicators(("variance",), "smooth"), "monotone"),
            FeatureClass("V1d", _indicators(("range",), "smooth"), "monotone"),
            FeatureClass("V1", _indicators(FOUR, "smooth"), "smooth"),
            FeatureClass("A5_Log6_smooth", _indicators(SIX, "smooth"), "smooth"),
            FeatureClass("NL_sin", SINES, "smooth"),
            FeatureClass("A5", _indicators(FOUR, "raw"), "raw"),
            FeatureClass("A5_Log6", _indicators(SIX, "raw"), "raw"),
            FeatureClass("PureMag4", MONOTONE, "fake"),
            FeatureClass("Weier4", WEIERSTRASS, "raw"),
            FeatureClass("RandomSpline", splines(0), "smooth"),
            FeatureClass("Bump", (BUMP,), "handcrafted"),
        )
    },
)
NINE = tuple(CLASSES)[:9]
"""The nine of the paper's grid: three monotone, three smooth, two raw, one fake."""
ANCHOR = "V1a"
"""The monotone class whose accuracy is the plateau."""


def feature_class(name: str, *, seed: int = 0) -> FeatureClass:
    """Return a class by name.

    Args:
        name: of ``CLASSES``.
        seed: of the random splines; the others do not depend on it.

    Returns:
        The class.

    Raises:
        ValueError: if there is none of this name.

    Example:
        >>> [f.name for f in feature_class("V1a").features]
        ['peak-smooth']
    """
    found = CLASSES.find(name)
    return found._replace(features=splines(seed)) if name == "RandomSpline" else found
