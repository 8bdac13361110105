"""What the name of a scorer stands for: a signal, features of a rank, or one of the user's own."""

from __future__ import annotations

from natsel.common.errors import choose
from natsel.common.importing import imported, names_own
from natsel.features.classes import CLASSES, FeatureClass, feature_class
from natsel.fitness import (
    BRANCH_SCORERS,
    EXPERT_SCORERS,
    FITNESS,
    BranchScorer,
    ExpertScorer,
    Fitness,
    get,
)
from natsel.fitness.auto import AUTO

ADAPTIVE = "adaptive"
PLAIN = "magnitude"
LANGUAGE = AUTO
"""What scores language models where there are data: what reads none is worse than chance there."""


def default_scorer(*, language: bool, has_data: bool) -> str:
    """Return the scorer where none is asked for.

    Args:
        language: whether the model predicts the next token of a text.
        has_data: whether there are data to score on.

    Example:
        >>> default_scorer(language=True, has_data=True)
        'auto'
        >>> default_scorer(language=False, has_data=True)
        'magnitude'
    """
    return LANGUAGE if language and has_data else PLAIN


def find_scorer(name: str) -> Fitness | FeatureClass | BranchScorer | ExpertScorer | None:
    """Return what a scorer's name stands for.

    Args:
        name: of a registered fitness or a feature class, ``module:name`` of one or of a function
            of the parts of a community, "auto" or "adaptive".

    Returns:
        The fitness or the class; None for what chooses among them.

    Raises:
        ValueError: if there is none of this name.

    Example:
        >>> find_scorer("wanda").statistic, find_scorer("V1a").kappa, find_scorer("adaptive")
        ('square', 0, None)
    """
    if names_own(name):
        found = imported("scorer", name)
        return found if isinstance(found, FeatureClass) else get(name, argument="scorer")
    choose("scorer", name, (*FITNESS, *BRANCH_SCORERS, *EXPERT_SCORERS, *CLASSES, AUTO, ADAPTIVE))
    if name in CLASSES:
        return feature_class(name)
    return BRANCH_SCORERS.get(name) or EXPERT_SCORERS.get(name) or FITNESS.get(name)


def knows_branches(scorer: object) -> bool:
    """Tell whether a scorer says something of branches.

    Example:
        >>> knows_branches("taylor"), knows_branches("loss"), knows_branches("magnitude")
        (True, True, False)
    """
    found = find_scorer(scorer) if isinstance(scorer, str) else scorer
    return isinstance(found, BranchScorer) or (isinstance(found, Fitness) and found.branches)


def reads_data(name: str) -> bool:
    """Tell whether a scorer needs batches of data.

    Example:
        >>> reads_data("magnitude"), reads_data("taylor"), reads_data("adaptive")
        (False, True, True)
    """
    found = find_scorer(name)
    if isinstance(found, Fitness):
        return found.needs_gradient or found.statistic is not None
    return found is None or isinstance(found, BranchScorer | ExpertScorer)
