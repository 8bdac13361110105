"""Scorers of branches: what a stream, or the loss, is without one of them."""

from natsel.fitness.depth import apart, influence  # noqa: F401
from natsel.fitness.depth.registry import BRANCH_SCORERS, BranchScorer

__all__ = ["BRANCH_SCORERS", "BranchScorer"]
