"""Scorers that know experts and nothing else: what their routers send them."""

from natsel.fitness.experts import routed  # noqa: F401
from natsel.fitness.experts.registry import EXPERT_SCORERS, ExpertScorer

__all__ = ["EXPERT_SCORERS", "ExpertScorer"]
