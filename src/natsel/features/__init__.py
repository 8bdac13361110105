"""How a rank becomes a score: features of complexity 0, 1 and 2, fused into one number."""

from natsel.features import logistic_map, monotone, waves  # noqa: F401  (fill the table)
from natsel.features.classes import ANCHOR, CLASSES, NINE, FeatureClass, feature_class
from natsel.features.complexity import (
    Complexity,
    chebyshev_energy,
    degree,
    measure,
    monotone_pieces,
    mutual_information,
    rank_correlation,
)
from natsel.features.fusion import feature_matrix, fuse, matrices, standardised
from natsel.features.ranks import ranks
from natsel.features.registry import FEATURES, Feature, get, register

__all__ = [
    "ANCHOR",
    "CLASSES",
    "FEATURES",
    "NINE",
    "Complexity",
    "Feature",
    "FeatureClass",
    "chebyshev_energy",
    "degree",
    "feature_class",
    "feature_matrix",
    "fuse",
    "get",
    "matrices",
    "measure",
    "monotone_pieces",
    "mutual_information",
    "rank_correlation",
    "ranks",
    "register",
    "standardised",
]
